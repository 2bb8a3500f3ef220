"""A SpikeGPT's network in plain float operators, as a language model is usually exported: for comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from snn_extreme_quant.deploy.language.writer import Writer
from snn_extreme_quant.exported.files import AFTER

__all__ = ["float_model"]

_STATES = ("att_before", "ffn_before", "numerator", "denominator", "att_potential", "ffn_potential")


class _Network:
    """Writes the network for tokens ``(1, 1)`` with random weights."""

    def __init__(self, layers: int, width: int, vocab: int) -> None:
        self.writer, self.layers, self.width, self.vocab = Writer(), layers, width, vocab
        self.drawn, self.matrices = np.random.default_rng(0), 0

    def number(self, value: float) -> str:
        return self.writer.constant(np.float32(value))

    def vector(self) -> str:
        return self.weights(self.width)

    def weights(self, *shape: int) -> str:
        self.matrices += 1
        drawn = self.drawn.random(shape, np.float32)
        drawn -= np.float32(0.5)
        drawn *= np.float32(0.1)
        return self.writer.constant(drawn, f"weights_{self.matrices}")

    def norm(self, x: str) -> str:
        return self.writer.op("LayerNormalization", x, self.vector(), self.vector(), axis=-1)

    def mixed(self, y: str, before: str) -> str:
        now = self.writer.op("Mul", y, self.vector())
        return self.writer.op("Add", now, self.writer.op("Mul", before, self.vector()))

    def product(self, x: str, inputs: int, outputs: int) -> str:
        return self.writer.op("MatMul", x, self.weights(inputs, outputs))

    def fired(self, current: str, potential: str) -> tuple[str, str]:
        op = self.writer.op
        h = op("Add", op("Mul", current, self.number(0.5)), op("Mul", potential, self.number(0.5)))
        spikes = op("Cast", op("GreaterOrEqual", h, self.number(1.0)), to=onnx.TensorProto.FLOAT)
        return spikes, op("Mul", h, op("Sub", self.number(1.0), spikes))

    def layer(self, x: str, state: dict[str, str]) -> str:
        """Write a layer; the state becomes the one behind it."""
        op, width = self.writer.op, self.width
        y = self.norm(x)
        key, value, gate = (self.product(self.mixed(y, state["att_before"]), width, width) for _ in range(3))
        state["att_before"] = y
        weight = op("Exp", key)
        now = op("Mul", weight, self.vector())
        above = op("Add", op("Mul", now, value), state["numerator"])
        average = op("Div", above, op("Add", now, state["denominator"]))
        decay = self.vector()
        old = op("Mul", state["numerator"], decay)
        state["numerator"] = op("Add", op("Mul", weight, value), old)
        state["denominator"] = op("Add", weight, op("Mul", state["denominator"], decay))
        current = self.product(op("Mul", op("Sigmoid", gate), average), width, width)
        spikes, state["att_potential"] = self.fired(current, state["att_potential"])
        x = op("Add", x, spikes)
        y = self.norm(x)
        wide = op("Relu", self.product(self.mixed(y, state["ffn_before"]), width, 4 * width))
        gate = self.product(self.mixed(y, state["ffn_before"]), width, width)
        state["ffn_before"] = y
        current = op("Mul", op("Sigmoid", gate), self.product(op("Mul", wide, wide), 4 * width, width))
        spikes, state["ffn_potential"] = self.fired(current, state["ffn_potential"])
        return op("Add", x, spikes)

    def written(self) -> Writer:
        writer, shape = self.writer, (self.layers, 1, self.width)
        ids = writer.input("ids", np.int64, (1, 1))
        before = {
            name: writer.ops(
                "Split", [writer.input(name, np.float32, shape)], self.layers, axis=0, num_outputs=self.layers
            )
            for name in _STATES
        }
        after: dict[str, list[str]] = {name: [] for name in _STATES}
        x = self.norm(writer.op("Gather", self.weights(self.vocab, self.width), ids, axis=0))
        for number in range(self.layers):
            state = {name: parts[number] for name, parts in before.items()}
            x = self.layer(x, state)
            for name, value in state.items():
                after[name].append(value)
        logits = self.product(self.norm(x), self.width, self.vocab)
        writer.output(logits, "logits", np.float32, (1, 1, self.vocab))
        for name, parts in after.items():
            writer.output(writer.op("Concat", *parts, axis=0), f"{name}{AFTER}", np.float32, shape)
        return writer


def float_model(path: Path, layers: int, width: int, vocab: int) -> None:
    """Write the network for one token, with its state in and out; random weights."""
    path.write_bytes(_Network(layers, width, vocab).written().model({}).SerializeToString())
