"""A SpikeGPT of the integer profile as an ONNX graph without a float between tokens and logits."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.integer.functions import IntegerLayer
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.language.graph import GptGraph
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.exported.token_tables import (
    CURRENT_FRACTION,
    GATE_BITS,
    LEAK_BITS,
    NORM_OUT,
    SHARE_BITS,
    SQUARED_FRACTION,
)
from snn_extreme_quant.models.gpt import integer_tokens as whole
from snn_extreme_quant.models.gpt.exact import STREAM_BITS
from snn_extreme_quant.models.gpt.integer import STREAM, current_units
from snn_extreme_quant.models.gpt.integer_parts import (
    CURRENT,
    GATE,
    KEY,
    LOGIT,
    NORM,
    SQUARED,
    VALUE,
    Units,
    input_units,
    scaling_of,
)
from snn_extreme_quant.models.gpt.spike_gpt import Block, ChannelMix, TimeMix
from snn_extreme_quant.neurons.token_lif import TOKEN_LIF, unit_step
from snn_extreme_quant.quantizers.packing import pack

__all__ = ["IntegerGptGraph"]

_WHY = "whole numbers"
#: What a scaling gives before its limit is below it.
_FITS = 2**30 - 1
_MOST_STREAM = 2 ** (2 * STREAM_BITS)


class IntegerGptGraph(GptGraph):
    """The graph: :mod:`snn_extreme_quant.models.gpt.integer`, operation for operation."""

    def _embedded(self, ids: str) -> str:
        writer, emb = self.writer, self.model.emb
        codes = (2.0 * unit_step(emb.weight.detach()) - 1.0).numpy().astype(np.int8)
        # Codes of -1 and 1 become the bits 0 and 1 of the stream.
        half = 2 ** (STREAM_BITS - 1)
        operator = IntegerLayer("Embedding", "binary8", "uint8").name
        packed = writer.constant(pack(codes.astype(np.int16), "binary8"), "emb.packed")
        multiplier = writer.constant(np.full(len(codes), half, np.int32), "emb.multiplier")
        (x,) = writer.ours(operator, [ids, packed, multiplier], name="emb", columns=[int(codes.shape[1])])
        writer.layer("emb", "layer", operator, _WHY)
        x = writer.op("Add", x, self._number(half))
        return self._normed(x, cast("Block", self.model.blocks[0]).ln0, "blocks.0.ln0", STREAM)

    def _features(self, x: str) -> str:
        return self._normed(x, self.model.ln_out, "ln_out", input_units(self.model.head, "norm"))

    def _logits_of(self, features: str) -> str:
        reads = input_units(self.model.head, "norm")
        units = self._product("head", self.model.head, features, reads, LOGIT)
        # What is left is decoding.
        real = self.writer.op("Cast", units, to=1)
        return self.writer.op("Mul", real, self.writer.constant(np.float32(2.0**-LOGIT.fraction)))

    def _norm(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        return self._normed(x, layer, name, NORM)

    def _normed(self, x: str, layer: nn.LayerNorm, name: str, units: Units) -> str:
        scaling = whole.norm_scaling(layer, units.fraction, units.most)
        constants = [self.writer.constant(_once(value)) for value in (scaling.gain, scaling.offset)]
        found = self.writer.ours("IntTokenNorm", [x, *constants], name=name, shift=scaling.shift, most=scaling.most)
        return found[0]

    def _time_mix(self, y: str, part: TimeMix, name: str) -> str:
        writer, before = self.writer, self._shifted(y, "att")
        key, value, gate = (
            self._read(part, kind, y, before, gives, name)
            for kind, gives in (("key", KEY), ("value", VALUE), ("receptance", GATE))
        )
        decay, bonus = whole.wkv_factors(part.time_decay, part.time_first)
        constants = [
            writer.constant(decay.numpy(), f"{name}.decay"),
            writer.constant(bonus.numpy().astype(np.int32), f"{name}.bonus"),
        ]
        average, self.memory["numerator"], self.memory["denominator"] = writer.ours(
            f"{'Step' if self.form == 'streaming' else ''}IntWeightedAverage",
            [key, value, *constants, self.memory["numerator"], self.memory["denominator"]],
            3,
            f"{name}.wkv",
        )
        reads = input_units(part.output, "norm")
        read = self._gated(gate, average, VALUE, reads, f"{name}.gate")
        current = self._product(f"{name}.output", part.output, read, reads, current_units(self.model.config.tau))
        return self._fires(current, "att", name)

    def _channel_mix(self, y: str, part: ChannelMix, name: str) -> str:
        before = self._shifted(y, "ffn")
        key, gate = (
            self._read(part, kind, y, before, gives, name) for kind, gives in (("key", SQUARED), ("receptance", GATE))
        )
        reads = input_units(part.value, "square")
        shift = 2 * SQUARED_FRACTION - reads.fraction
        (square,) = self.writer.ours("IntSquared", [key], name=f"{name}.square", shift=shift, most=reads.most)
        value = self._product(f"{name}.value", part.value, square, reads, current_units(self.model.config.tau))
        return self._fires(self._gated(gate, value, CURRENT, CURRENT, f"{name}.gate"), "ffn", name)

    def _read(self, part: TimeMix | ChannelMix, kind: str, y: str, before: str, gives: Units, name: str) -> str:
        """Return the product of what a matrix reads of each token and its predecessor."""
        layer = cast("nn.Module", getattr(part, kind))
        reads, share = input_units(layer, "norm"), whole.shares(getattr(part, f"time_mix_{kind[0]}"))
        shift = SHARE_BITS + NORM_OUT - reads.fraction
        constants = [share, (1 << SHARE_BITS) - share, torch.full((1,), 1 << shift >> 1)]
        inputs = [y, before, *(self.writer.constant(value.numpy()) for value in constants)]
        (mixed,) = self.writer.ours("IntResidual", inputs, name=f"{name}.{kind}.mixed", shift=shift)
        return self._product(f"{name}.{kind}", layer, self._within(mixed, reads.most), reads, gives)

    def _product(self, name: str, layer: Any, x: str, reads: Units, gives: Units) -> str:
        """Write a product: those of the high and of the low bytes of 16-bit numbers."""
        writer = self.writer
        if not whole.packed(layer):
            raise ExportError(
                f"Layer {name!r} has no codes of up to 8 bit, whose sums are whole numbers; give it a precision"
                " (set_weights('ternary'), 'binary', Uniform(8)), or export profile='reference'."
            )
        scaling = scaling_of(layer, reads, gives)
        if scaling.gain.shape[1] > 1:
            raise ExportError(
                f"Layer {name!r} has scales for groups of inputs; files of the integer profile have one for each"
                " output: use per='channel' or 'tensor', or export profile='reference'."
            )
        layout = self.layouts.get(layer.quantizer.layout, layer.quantizer.layout)
        codes = layer.integer_weight()[0].detach().numpy()
        packed = writer.constant(pack(codes.T.astype(np.int16), layout), f"{name}.packed")
        high, low = writer.ours("IntHalves", [x], 2, f"{name}.halves")
        sums = {}
        for part, kind, value in (("high", "int8", high), ("low", "uint8", low)):
            operator = IntegerLayer("MatMul", layout, kind).name
            node = name if part == "high" else f"{name}@low"
            (sums[part],) = writer.ours(operator, [value, packed], name=node, columns=[len(codes)])
            writer.layer(name, "layer", operator, _WHY)
        total = writer.op("Add", writer.op("Mul", sums["high"], self._number(256)), sums["low"])
        one = scaling._replace(gain=scaling.gain[:, 0], offset=scaling.offset[:1, 0])
        most_sum = int(np.abs(codes).sum(1).max()) * reads.most
        return self._scaled(self._fitting(total, one, most_sum), one, f"{name}.scale")

    def _fitting(self, sums: str, scaling: whole.Scaling, most_sum: int) -> str:
        """Limit sums whose results would leave 32 bits before their own limit, where they stay beyond that."""
        gain = scaling.gain.numpy()
        if most_sum * int(gain.max()) >> scaling.shift < _FITS:
            return sums
        enough = (((scaling.most + 1) << scaling.shift) // np.maximum(gain, 1) + 1).clip(max=2**31 - 1)
        limits = (self.writer.constant((sign * enough).astype(np.int32)) for sign in (-1, 1))
        least, most = limits
        return self.writer.op("Min", self.writer.op("Max", sums, least), most)

    def _gated(self, gate: str, value: str, of: Units, gives: Units, name: str) -> str:
        shift = GATE_BITS + of.fraction - gives.fraction
        return self.writer.ours("IntGated", [gate, value], name=name, shift=shift, most=gives.most)[0]

    def _fires(self, current: str, prefix: str, name: str) -> str:
        writer, step, potential = self.writer, self.form == "streaming", f"{prefix}_potential"
        function = IntegerNeuron(TOKEN_LIF, step=step, states=True)
        leak = whole.leak_of(self.model.config.tau)
        parameters = {"threshold": 1 << CURRENT_FRACTION, "gain": 1, "bias": 0, "decay": leak}
        before = self.memory[potential] if step else self._squeezed(self.memory[potential])
        inputs = [current, before, *(self._number(parameters[each]) for each in function.parameters)]
        spikes, potentials = writer.ours(function.name, inputs, 2, f"{name}.neurons", shift=LEAK_BITS)
        self.memory[potential] = self._kept(potentials)
        writer.layer(f"{name}.neurons", "neuron", function.name, _WHY)
        return writer.op("Cast", spikes, to=6)

    def _joined(self, x: str, branch: str) -> str:
        return self._within(self.writer.op("Add", x, self._placed(branch)), _MOST_STREAM)

    def _placed(self, spikes: str) -> str:
        return self.writer.op("Mul", spikes, self._number(1 << STREAM_BITS))

    def _within(self, x: str, most: int) -> str:
        return self.writer.op("Clip", x, self._number(-most), self._number(most))

    def _scaled(self, x: str, scaling: whole.Scaling, name: str) -> str:
        limits = [np.array([limit], np.int32) for limit in (-scaling.most, scaling.most)]
        constants: list[npt.NDArray[Any]] = [_once(scaling.gain), _once(scaling.offset), *limits]
        inputs = [x, *(self.writer.constant(value) for value in constants)]
        return self.writer.ours("IntScale", inputs, name=name, shift=scaling.shift)[0]

    def _number(self, value: int) -> str:
        return self.writer.constant(np.int32(value))


def _once(value: Tensor) -> npt.NDArray[np.int64]:
    """Return constants of all channels, one number where they are the same."""
    found: npt.NDArray[np.int64] = value.numpy()
    return found[:1] if (found == found[:1]).all() else found
