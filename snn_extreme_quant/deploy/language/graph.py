"""A SpikeGPT as an ONNX graph: what ``models/gpt/spike_gpt.py`` computes, in its order, with the state in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.language.products import Products
from snn_extreme_quant.deploy.language.writer import Writer
from snn_extreme_quant.deploy.lowering.functions import NeuronFunction
from snn_extreme_quant.exported.files import AFTER
from snn_extreme_quant.models.gpt.exact import STREAM_BITS, epsilon_of
from snn_extreme_quant.models.gpt.spike_gpt import Block, ChannelMix, SpikeGPT, TimeMix
from snn_extreme_quant.models.gpt.state import numpy_type, state_shapes, state_type
from snn_extreme_quant.models.gpt.wkv import factors
from snn_extreme_quant.neurons.token_lif import TOKEN_LIF, unit_step

__all__ = ["Form", "GptGraph", "Logits", "write_gpt"]

Form = Literal["sequence", "streaming"]
Logits = Literal["last", "all"]
_MOST = 2.0**STREAM_BITS
_FIRES = "its currents are the model's bits, and each of its operations is rounded alike"


def write_gpt(model: SpikeGPT, form: Form, logits: Logits, layouts: Mapping[str, str]) -> Writer:
    """Return the graph of a language model, or of a classifier, which has whole texts and its own logits alone.

    Args:
        model: on the CPU.
        form: whole texts, or one token.
        logits: of a text's last token, or of all.
        layouts: by packing layout, the one that the file has in its place.
    """
    whole, classifies = model.config.profile == "integer", model.config.head != "tokens"
    graph: type[GptGraph] = GptGraph
    # These build on this module.
    if classifies:
        from snn_extreme_quant.deploy.language.classifier_graph import ClassifierGraph, IntegerClassifierGraph

        graph = IntegerClassifierGraph if whole else ClassifierGraph
    elif whole:
        from snn_extreme_quant.deploy.language.integer_graph import IntegerGptGraph

        graph = IntegerGptGraph
    with torch.no_grad():
        return graph(model, form, logits, layouts).written()


@dataclass
class GptGraph:
    """A model and its graph so far.

    Args:
        model: the model.
        form: as :func:`write_gpt`, as the next.
        logits: of which tokens.
        layouts: packing layouts.
        writer: the graph.
        memory: the state before the layer that is being written, each ``(1, B, width)``, and then behind it.
    """

    model: SpikeGPT
    form: Form
    logits: Logits
    layouts: Mapping[str, str]
    writer: Writer = field(default_factory=Writer)
    memory: dict[str, str] = field(default_factory=dict)

    def written(self) -> Writer:
        """Write everything."""
        self.products = Products(self.writer, self.layouts)
        ids, before = self._ids(), self._states()
        after: dict[str, list[str]] = {name: [] for name in before}
        x = self._embedded(ids)
        for number, block in enumerate(self.model.blocks):
            self.memory = {name: parts[number] for name, parts in before.items() if len(parts) > number}
            x = self._block(x, cast("Block", block), f"blocks.{number}")
            for name in self.memory if number else [name for name in self.memory if name != "head_potential"]:
                after[name].append(self.memory[name])
        x = self._features(x)
        if self.model.config.inputs == "spikes":
            self.memory = {"head_potential": before["head_potential"][0]}
            x = self._spikes(x, "head_potential", "head_neurons")
            after["head_potential"].append(self.memory["head_potential"])
        self._give(x, after)
        return self.writer

    # Ends of the graph.

    def _ids(self) -> str:
        """Return the tokens, ``(L, B)``."""
        if self.form == "streaming":
            return self._unsqueezed(self.writer.input("ids", np.int64, ("B",)))
        return self.writer.op("Transpose", self.writer.input("ids", np.int64, ("B", "L")), perm=[1, 0])

    def _states(self) -> dict[str, list[str]]:
        """Return the state before the first token by name and layer, each ``(1, B, width)``."""
        shapes = self._state_shapes().items()
        return {name: self._apart(self.writer.input(name, self._type(name), shape)) for name, shape in shapes}

    def _give(self, features: str, after: Mapping[str, list[str]]) -> None:
        """Write the outputs: logits, and the state behind the last token."""
        writer, vocab = self.writer, self.model.config.vocab
        last = self.form == "sequence" and self.logits == "last"
        y = self._logits_of(self._last(features) if last else features)
        one = last or self.form == "streaming"
        y = self._squeezed(y) if one else writer.op("Transpose", y, perm=[1, 0, 2])
        writer.output(y, "logits", np.float32, ("B", vocab) if one else ("B", "L", vocab))
        shapes = self._state_shapes()
        for name, parts in after.items():
            whole = writer.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
            writer.output(whole, f"{name}{AFTER}", self._type(name), shapes[name])

    def _state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {name: (layers, "B", width) for name, (layers, width) in state_shapes(self.model.config).items()}

    def _type(self, state: str) -> np.dtype[Any]:
        return numpy_type(state_type(self.model.config, state))

    # Parts of the model.

    def _features(self, x: str) -> str:
        """Return what the head reads, or what causes the spikes that it reads."""
        return self._norm(x, self.model.ln_out, "ln_out")

    def _logits_of(self, features: str) -> str:
        reads = "norm" if self.model.config.inputs == "norms" else None
        return self.products.product("head", self.model.head, features, reads)

    def _embedded(self, ids: str) -> str:
        """Return the stream before the first layer."""
        writer, emb = self.writer, self.model.emb
        if self.model.config.binarised:
            codes = (2.0 * unit_step(emb.weight.detach()) - 1.0).numpy().astype(np.int8)
            halves = np.full(len(codes), 0.5, np.float32)
            x = self.products.looked_up("emb", "binary8", codes, halves, ids)
            x = writer.op("Add", x, writer.constant(np.float32(0.5)))
        else:
            x = self._stream(self.products.embedding("emb", emb, ids))
        return self._stream(self._norm(x, cast("Block", self.model.blocks[0]).ln0, "blocks.0.ln0"))

    def _block(self, x: str, block: Block, name: str) -> str:
        x = self._joined(x, self._time_mix(self._norm(x, block.ln1, f"{name}.ln1"), block.att, f"{name}.att"))
        return self._joined(x, self._channel_mix(self._norm(x, block.ln2, f"{name}.ln2"), block.ffn, f"{name}.ffn"))

    def _time_mix(self, y: str, part: TimeMix, name: str) -> str:
        writer, before = self.writer, self._shifted(y, "att")
        key, value, gate = (
            self._multiply(part, kind, self._mixed(y, before, getattr(part, f"time_mix_{kind[0]}")), name)
            for kind in ("key", "value", "receptance")
        )
        (gate,) = writer.ours("ExactSigmoid", [gate], name=f"{name}.gate")
        decay, bonus = (
            writer.constant(factor.numpy(), f"{name}.{kind}")
            for kind, factor in zip(("decay", "bonus"), factors(part.time_decay, part.time_first), strict=True)
        )
        average, self.memory["numerator"], self.memory["denominator"] = writer.ours(
            f"{'Step' if self.form == 'streaming' else ''}WeightedAverage",
            [key, value, decay, bonus, self.memory["numerator"], self.memory["denominator"]],
            3,
            f"{name}.wkv",
        )
        return self._fired(self._multiply(part, "output", writer.op("Mul", gate, average), name), "att", name)

    def _channel_mix(self, y: str, part: ChannelMix, name: str) -> str:
        writer, before = self.writer, self._shifted(y, "ffn")
        key = writer.op("Relu", self._multiply(part, "key", self._mixed(y, before, part.time_mix_k), name))
        gate = self._multiply(part, "receptance", self._mixed(y, before, part.time_mix_r), name)
        (gate,) = writer.ours("ExactSigmoid", [gate], name=f"{name}.gate")
        value = self._multiply(part, "value", writer.op("Mul", key, key), name, "square")
        return self._fired(writer.op("Mul", gate, value), "ffn", name)

    def _multiply(self, part: TimeMix | ChannelMix, kind: str, x: str, name: str, reads: str = "norm") -> str:
        layer = cast("nn.Module", getattr(part, kind))
        if self.model.config.inputs == "norms":
            return self.products.product(f"{name}.{kind}", layer, x, reads)
        spikes = self._spikes(x, f"{part.prefix}_{kind}_potential", f"{name}.readers.{kind}")
        return self.products.product(f"{name}.{kind}", layer, spikes, None)

    def _fired(self, current: str, prefix: str, name: str) -> str:
        if not self.model.config.spiking:
            return self._stream(current)
        return self._lif(current, f"{prefix}_potential", f"{name}.neurons")

    def _spikes(self, x: str, potential: str, name: str) -> str:
        threshold = self.writer.constant(np.float32(self.model.config.input_threshold))
        return self._lif(self.writer.op("Div", x, threshold), potential, name)

    def _lif(self, current: str, potential: str, name: str) -> str:
        writer, step, tau = self.writer, self.form == "streaming", self.model.config.tau
        x = writer.op("Mul", current, writer.constant(np.float32(1.0 / tau)))
        function = NeuronFunction(TOKEN_LIF, step=step, states=not step)
        parameters = {"threshold": np.float32(1.0), "decay": np.float32(1.0 - 1.0 / tau)}
        before = self.memory[potential] if step else self._squeezed(self.memory[potential])
        inputs = [x, before, *(writer.constant(parameters[p]) for p in TOKEN_LIF.parameter_names)]
        spikes, potentials = writer.ours(function.name, inputs, 2, name)
        self.memory[potential] = self._kept(potentials)
        writer.layer(name, "neuron", function.name, _FIRES)
        return spikes

    # Small parts.

    def _norm(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        parameters = [self.writer.constant(_floats(getattr(layer, p)), f"{name}.{p}") for p in ("weight", "bias")]
        return self.writer.ours("TokenNorm", [x, *parameters], name=name, epsilon=epsilon_of(layer))[0]

    def _mixed(self, y: str, before: str, share: Tensor) -> str:
        writer = self.writer
        part = writer.constant(_floats(share.detach()))
        # A file holds each share once; a runtime folds the subtraction when it opens it.
        rest = writer.op("Sub", writer.constant(np.float32(1.0)), part)
        return writer.op("Add", writer.op("Mul", y, part), writer.op("Mul", before, rest))

    def _stream(self, x: str) -> str:
        """Put numbers on the grid of the stream."""
        writer = self.writer
        units = writer.op("Round", writer.op("Mul", x, writer.constant(np.float32(_MOST))))
        return self._bounded(writer.op("Mul", units, writer.constant(np.float32(1.0 / _MOST))))

    def _bounded(self, x: str) -> str:
        return self.writer.op("Clip", x, *(self.writer.constant(np.float32(bound)) for bound in (-_MOST, _MOST)))

    def _joined(self, x: str, branch: str) -> str:
        """Add what a branch gives to the stream: both are on its grid."""
        return self._bounded(self.writer.op("Add", x, branch))

    def _shifted(self, y: str, prefix: str) -> str:
        """Return each token's predecessor."""
        name, writer = f"{prefix}_before", self.writer
        before, self.memory[name] = self.memory[name], self._kept(y)
        if self.form == "streaming":
            return before
        first, end, axis = (writer.constant(np.array([place])) for place in (0, -1, 0))
        return self._whole(writer.op("Concat", before, writer.op("Slice", y, first, end, axis), axis=0))

    def _whole(self, x: str) -> str:
        """Say that a value has as many tokens as the text, which a runtime does not find by itself."""
        return self.writer.shaped(x, self._type("att_before"), ("L", "B", self.model.config.hidden))

    def _kept(self, x: str) -> str:
        """Return what the state keeps of ``(L, ...)``: the last token's entry."""
        return self._last(x)

    def _last(self, x: str) -> str:
        """Return the last token's entry of ``(L, ...)``, as ``(1, ...)``."""
        if self.form == "streaming":
            return x
        writer = self.writer
        first, end, axis = (writer.constant(np.array([place])) for place in (-1, np.iinfo(np.int64).max, 0))
        return writer.op("Slice", x, first, end, axis)

    def _squeezed(self, x: str) -> str:
        return self.writer.op("Squeeze", x, self.writer.constant(np.array([0])))

    def _unsqueezed(self, x: str) -> str:
        return self.writer.op("Unsqueeze", x, self.writer.constant(np.array([0])))

    def _apart(self, state: str) -> list[str]:
        """Return a state's entries by layer, each ``(1, B, width)``."""
        layers = state_shapes(self.model.config)[state][0]
        return [state] if layers == 1 else self.writer.ops("Split", [state], layers, axis=0, num_outputs=layers)


def _floats(value: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(value.detach().float().numpy())
