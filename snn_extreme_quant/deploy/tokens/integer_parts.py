"""What a SpikingBERT in whole numbers is made of: sums, layers of neurons, residual sums, tables.

Contract: ``docs/spiking_bert.md``, *In integers*; put together in :mod:`.whole_bert`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.deploy.integer import operators as integer_operators
from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking
from snn_extreme_quant.deploy.recording.layer_stubs import packed_codes
from snn_extreme_quant.deploy.shifts.operators import norm_bound
from snn_extreme_quant.deploy.tokens import integer_operators as token_integer_operators
from snn_extreme_quant.deploy.tokens.running import On
from snn_extreme_quant.deploy.tokens.token_scales import (
    Line,
    Residual,
    Scale,
    ScaleReport,
    residual_scale,
    scale_of,
    stairs_scale,
)
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION, RESIDUAL_FRACTION
from snn_extreme_quant.layers import Embedding, IntegerFirst
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.spiking_bert import EMBEDDINGS_FINER, Neurons
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.equilibrium_steps import GRID, StepIF, on_grid
from snn_extreme_quant.neurons.synchronous import synchronous_count
from snn_extreme_quant.quantizers.packing import pack, unpack

__all__ = [
    "IntegerNeurons",
    "Making",
    "ResidualSum",
    "Scaled",
    "Sums",
    "Table",
    "after_layer",
    "after_norm",
    "numbers",
    "values_of",
]

#: Numbers of spikes up to this fit signed bytes that a product takes.
_MOST_SIGNED = 64
#: Steps have spikes alone: their sums are not over time.
_STEP_SPEC = {
    True: NeuronSpec("integrate", "ge", "subtract", "same_step", fire="ternary"),
    False: NeuronSpec("integrate", "ge", "subtract", "same_step"),
}


@dataclass
class Making:
    """What all parts are made with.

    Args:
        bert: the model.
        on: what the file is to compute.
        packing: how ternary codes are stored.
        names: of the model's modules.
        reports: of each constant, added as it is made.
        magnitudes: by layer with weights, the largest magnitude of what it reads.
    """

    bert: SpikingBert
    on: On
    packing: TernaryPacking
    names: dict[nn.Module, str]
    reports: list[ScaleReport]
    magnitudes: dict[str, int]

    @property
    def steps(self) -> int:
        """By how many steps sums of spikes are divided to be rates: 1 where each step is a pass of its own."""
        return 1 if self.on == "steps" else self.bert.config.T

    @property
    def least(self) -> int:
        """The least number of spikes."""
        return -self.steps if self.bert.config.signed else 0

    def amplitude(self, neurons: Neurons) -> Tensor:
        """What a spike carries."""
        unit = torch.ones(())
        return neurons.threshold.detach() if self.bert.config.amplitude == "threshold" else unit


def numbers(value: Tensor | float) -> npt.NDArray[np.float64]:
    """Constants in float64, ``(N,)`` or ``(1,)``."""
    tensor = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
    return np.atleast_1d(tensor.double().numpy())


class Sums(nn.Module):
    """A layer with weights: integer sums over its inputs and, of spikes in all steps, over the steps."""

    packed: Tensor

    def __init__(self, layer: nn.Module, making: Making) -> None:
        super().__init__()
        self.name = making.names[layer]
        if not isinstance(layer, IntegerFirst):
            raise UnsupportedModelError(
                f"Layer {self.name!r} has float weights, whose sums are no whole numbers; give it a precision"
                " (weights='ternary', 'binary', Uniform(8)), or export without integer=True."
            )
        parts = packed_codes(layer, self.name)
        if len(parts) > 1:
            raise UnsupportedModelError(
                f"Layer {self.name!r} has scales for groups of inputs; integer files of a SpikingBert have one for each"
                " output: use per='channel' or 'tensor', or export without integer=True."
            )
        self.layout, codes = _repacked(parts[0].packed, parts[0].layout, parts[0].shape[0], making.packing)
        self.register_buffer("packed", codes)
        self.outputs, self.over_time = parts[0].shape[0], making.on == "spikes"
        self.scale = parts[0].scale
        found = layer.effective_bias()
        self.bias = torch.zeros(self.outputs) if found is None else found.detach().clone()
        self.has_bias = found is not None
        matrix = unpack(codes.numpy(), self.outputs, self.layout).astype(np.int64)
        positive, negative = np.maximum(matrix, 0).sum(0), np.minimum(matrix, 0).sum(0)
        self.least = making.least * positive + making.steps * negative
        self.most = making.steps * positive + making.least * negative
        if max(int(self.most.max()), -int(self.least.min())) >= 2**31:
            raise UnsupportedModelError(f"The sums of layer {self.name!r} do not fit 32 bits; use fewer bits or steps.")
        making.magnitudes[self.name] = 1 if self.over_time else making.steps

    def forward(self, emitted: Tensor) -> Tensor:
        """Return the sums, int32."""
        sums = integer_operators.packed_linear_sum(emitted, self.packed, self.outputs, self.layout, self.name)
        return sums.sum(0, dtype=torch.int32) if self.over_time else cast("Tensor", sums)

    def current(self, sums: Tensor, steps: int) -> Tensor:
        """Return what the model's layer gives, in its float32."""
        product = sums * (1.0 / steps) * self.scale
        return product + self.bias if self.has_bias else product


def _repacked(packed: Tensor, layout: str, columns: int, packing: TernaryPacking) -> tuple[str, Tensor]:
    if layout != "ternary4" or packing == "2bit":
        return layout, packed
    return "ternary5", torch.from_numpy(pack(unpack(packed.numpy(), columns, layout), "ternary5"))


class Scaled(nn.Module):
    """Constants of one sum; see :class:`~.token_scales.Scale`."""

    gain: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.shift = scale.shift
        self.register_buffer("gain", torch.from_numpy(scale.gain))
        self.register_buffer("offset", torch.from_numpy(scale.offset))
        self.register_buffer("low", torch.from_numpy(scale.low.astype(np.int32)))
        self.register_buffer("high", torch.from_numpy(scale.high.astype(np.int32)))

    def forward(self, x: Tensor) -> Tensor:
        """Return whole numbers, int32."""
        return cast("Tensor", token_integer_operators.int_scale(x, *self.constants, self.shift, ""))

    @property
    def constants(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the operators."""
        return self.gain, self.offset, self.low, self.high


class IntegerNeurons(Scaled):
    """A layer of neurons on integer sums: counts, all spikes of the schedule synchronous, or steps.

    Args:
        neurons: the model's.
        making: what all parts are made with.
        current: what feeds them, of sums, as torch computes it; monotone in each channel.
        slope: about what it multiplies sums with.
        term: about what it adds, before any limit.
        least: of the sums of each channel.
        most: of the sums of each channel.
    """

    def __init__(
        self,
        neurons: Neurons,
        making: Making,
        current: Callable[[Tensor], Tensor],
        slope: Any,
        term: Any,
        least: Any,
        most: Any,
    ) -> None:
        config, name = making.bert.config, making.names[neurons]
        theta, T = neurons.threshold.detach(), config.T
        unit = GRID if making.on == "steps" else float(T)
        width = np.broadcast_shapes(np.shape(slope), np.shape(term), np.shape(numbers(theta)), np.shape(least))
        slope, term = (np.broadcast_to(v * unit / numbers(theta) + add, width) for v, add in ((slope, 0), (term, 0.5)))
        ends = [np.broadcast_to(np.asarray(limit, np.int64), width) for limit in (least, most)]
        if making.on == "steps":
            limit = round(1024.0 / T * GRID)
            # What lies between, a ReLU or a clip, shows in the currents of the least and the largest sums.
            given = current(torch.from_numpy(np.stack(ends)).float())
            reached = (on_grid(given, theta, T) * GRID).round().long().numpy()
            scale = scale_of(Line(slope, term, ends[0], ends[1], -limit, limit), name)
            scale = replace(scale, low=reached.min(0), high=reached.max(0))
        else:

            def counts(sums: Any) -> Any:
                found = synchronous_count(current(torch.from_numpy(sums).float()), theta, T, config.signed)
                return found.double().numpy()

            scale = stairs_scale(Line(slope, term, ends[0], ends[1], making.least, T), counts, name)
        super().__init__(scale)
        making.reports.append(scale.report(name))
        self.name, self.on, self.T, self.signed = name, making.on, T, config.signed
        self.start = round(neurons.start * GRID) if isinstance(neurons, StepIF) else 0
        self.kind = "uint8" if not config.signed else "int8" if T <= _MOST_SIGNED else "int32"

    def forward(self, x: Tensor, constant: bool = False) -> Tensor:
        """Return counts ``(B, ...)`` or spikes ``(T, B, ...)``; ``constant``: the same sums in all steps."""
        if self.on == "counts":
            counts = token_integer_operators.int_counts(x, *self.constants, self.shift, self.kind, self.name)
            return cast("Tensor", counts)
        found = super().forward(x)
        if self.on == "spikes":
            return cast("Tensor", token_integer_operators.int_spikes(found, self.T, self.signed, self.name))
        found = found.unsqueeze(0).expand(self.T, *found.shape) if constant else found
        parameters = [torch.tensor(value, dtype=torch.int32) for value in (int(GRID), 1, 0)]
        states = [torch.tensor(self.start, dtype=torch.int32)]
        spec = _STEP_SPEC[self.signed].operator
        spikes = integer_operators.fixed_neuron_sequence(found, states, parameters, [], "", [], 1, spec, self.name)
        return cast("Tensor", spikes[0])

    def counted(self, emitted: Tensor) -> Tensor:
        """Return what the sums of others read, int32: numbers of spikes, or spikes of each step."""
        return emitted.sum(0, dtype=torch.int32) if self.on == "spikes" else emitted.int()

    def factors(self, emitted: Tensor) -> Tensor:
        """Return the same in the type that products take."""
        if self.on != "spikes":
            return emitted
        return self.counted(emitted).to({"uint8": torch.uint8, "int8": torch.int8, "int32": torch.int32}[self.kind])


def after_layer(
    layer: Sums, neurons: Neurons, making: Making, then: Callable[[Tensor], Tensor], bias: Any
) -> IntegerNeurons:
    """Neurons that read a layer's sums; ``then`` is what lies between, and ``bias`` what it adds."""
    slope = numbers(layer.scale) / making.steps
    term = numbers(layer.bias) + (0.0 if bias is None else numbers(bias))
    return IntegerNeurons(
        neurons, making, lambda s: then(layer.current(s, making.steps)), slope, term, layer.least, layer.most
    )


def after_norm(norm: Any, neurons: Neurons, making: Making) -> IntegerNeurons:
    """Neurons that read a norm."""
    unit, bound = 2.0**-NORM_FRACTION, norm_bound(norm.weight.shape[0])
    weight, bias = norm.weight.detach(), norm.bias.detach()
    return IntegerNeurons(
        neurons, making, lambda z: z * unit * weight + bias, numbers(weight) * unit, numbers(bias), -bound, bound
    )


class ResidualSum(nn.Module):
    """The sum that a norm reads, of a layer's sums and the spikes of the neurons below."""

    gain: Tensor
    carried: Tensor
    offset: Tensor

    def __init__(self, layer: Sums, below: Neurons, making: Making) -> None:
        super().__init__()
        unit, steps = 2.0**RESIDUAL_FRACTION, making.steps
        found: Residual = residual_scale(
            numbers(layer.scale) * unit / steps,
            numbers(making.amplitude(below)) * unit / steps,
            numbers(layer.bias) * unit + 0.5,
            np.maximum(np.abs(layer.least), np.abs(layer.most)),
            steps,
            layer.name,
        )
        making.reports.append(found.report(layer.name))
        self.shift, self.name = found.shift, f"{layer.name}.residual"
        for name in ("gain", "carried", "offset"):
            self.register_buffer(name, torch.from_numpy(getattr(found, name)))

    def forward(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Return the normalised sum, in units of 2^-14."""
        x = token_integer_operators.int_residual(sums, counts, self.gain, self.carried, self.offset, self.shift, "")
        return cast("Tensor", token_integer_operators.int_shift_norm(x, ""))


class Table(nn.Module):
    """Rows of whole numbers, in units of 2^-shift of what the norm reads."""

    def __init__(self, table: nn.Module, shift: int, making: Making) -> None:
        super().__init__()
        self.name = making.names[table]
        unit = 2.0 ** (RESIDUAL_FRACTION + shift) * EMBEDDINGS_FINER
        self.layout = ""
        if isinstance(table, Embedding) and len(parts := packed_codes(table, self.name)) == 1:
            self.columns = parts[0].shape[1]
            self.layout, codes = _repacked(parts[0].packed, parts[0].layout, self.columns, making.packing)
            self.register_buffer("packed", codes)
            self.register_buffer("multiplier", torch.round(parts[0].scale.double() * unit).int())
        else:
            self.register_buffer("rows", torch.round(values_of(table).double() * unit).int())

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows, int32."""
        if not self.layout:
            return F.embedding(ids, cast("Tensor", self.rows))
        found = integer_operators.packed_embedding_sum(
            ids, self.packed, self.multiplier, self.columns, self.layout, self.name
        )
        return cast("Tensor", found)


def values_of(table: nn.Module) -> Tensor:
    """Return the rows that a table gives."""
    return table.dequantised().detach() if isinstance(table, Embedding) else cast("Tensor", table.weight).detach()
