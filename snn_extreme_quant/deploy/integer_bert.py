"""SpikingBERT's integer profile in whole numbers alone, to be read from top to bottom beside ``models/spiking_bert.py``.

Contract: ``docs/spiking_bert.md``, *In integers*. Every tensor between the token ids and the logits holds whole numbers;
the names of the parts are those of the model, and so are the names of layers and neurons in its file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION, PROBABILITY_BITS, RESIDUAL_FRACTION, RESIDUAL_LIMIT
from snn_extreme_quant.layers import Embedding, IntegerFirst
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.shifts import OnGrid, ShiftNorm
from snn_extreme_quant.models.spiking_bert import EMBEDDINGS_FINER, PAD, Attention, Embeddings, EncoderLayer, Neurons
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.equilibrium_steps import GRID, StepIF, on_grid
from snn_extreme_quant.neurons.synchronous import synchronous_count
from snn_extreme_quant.quantizers.packing import pack, unpack

from . import integer_operators, token_integer_operators
from .layer_stubs import packed_codes
from .repacking import TernaryPacking
from .shift_operators import norm_bound
from .token_inputs import bert_of
from .token_running import On
from .token_scales import Line, Residual, Scale, ScaleReport, residual_scale, scale_of, stairs_scale

__all__ = ["IntegerBert", "IntegerNeurons", "integer_bert", "in_integers"]

#: Numbers of spikes up to this fit signed bytes that a product takes.
_MOST_SIGNED = 64
_MOST_TABLE_SHIFT = 15
#: Steps have spikes alone: their sums are not over time.
_STEP_SPEC = {
    True: NeuronSpec("integrate", "ge", "subtract", "same_step", fire="ternary"),
    False: NeuronSpec("integrate", "ge", "subtract", "same_step"),
}


@dataclass
class _Making:
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


def _numbers(value: Tensor | float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Constants in float64, ``(N,)`` or ``(1,)``."""
    tensor = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
    return np.atleast_1d(tensor.double().numpy())


class _Sums(nn.Module):
    """A layer with weights: integer sums over its inputs and, of spikes in all steps, over the steps."""

    packed: Tensor

    def __init__(self, layer: nn.Module, making: _Making) -> None:
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


class _Scaled(nn.Module):
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


class IntegerNeurons(_Scaled):
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
        making: _Making,
        current: Callable[[Tensor], Tensor],
        slope: Any,
        term: Any,
        least: Any,
        most: Any,
    ) -> None:
        config, name = making.bert.config, making.names[neurons]
        theta, T = neurons.threshold.detach(), config.T
        unit = GRID if making.on == "steps" else float(T)
        width = np.broadcast_shapes(np.shape(slope), np.shape(term), np.shape(_numbers(theta)), np.shape(least))
        slope, term = (np.broadcast_to(v * unit / _numbers(theta) + add, width) for v, add in ((slope, 0), (term, 0.5)))
        ends = [np.broadcast_to(np.asarray(limit, np.int64), width) for limit in (least, most)]
        if making.on == "steps":
            limit = round(1024.0 / T * GRID)
            # What lies between, a ReLU or a clip, shows in the currents of the least and the largest sums.
            given = current(torch.from_numpy(np.stack(ends)).float())
            reached = (on_grid(given, theta, T) * GRID).round().long().numpy()
            scale = scale_of(Line(slope, term, *ends, -limit, limit), name)
            scale = replace(scale, low=reached.min(0), high=reached.max(0))
        else:

            def counts(sums: Any) -> Any:
                found = synchronous_count(current(torch.from_numpy(sums).float()), theta, T, config.signed)
                return found.double().numpy()

            scale = stairs_scale(Line(slope, term, *ends, making.least, T), counts, name)
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


def _after(
    layer: _Sums, neurons: Neurons, making: _Making, then: Callable[[Tensor], Tensor], bias: Any
) -> IntegerNeurons:
    """Neurons that read a layer's sums; ``then`` is what lies between, and ``bias`` what it adds."""
    slope = _numbers(layer.scale) / making.steps
    term = _numbers(layer.bias) + (0.0 if bias is None else _numbers(bias))
    return IntegerNeurons(
        neurons, making, lambda s: then(layer.current(s, making.steps)), slope, term, layer.least, layer.most
    )


def _after_norm(norm: Any, neurons: Neurons, making: _Making) -> IntegerNeurons:
    """Neurons that read a norm."""
    unit, bound = 2.0**-NORM_FRACTION, norm_bound(norm.weight.shape[0])
    weight, bias = norm.weight.detach(), norm.bias.detach()
    return IntegerNeurons(
        neurons, making, lambda z: z * unit * weight + bias, _numbers(weight) * unit, _numbers(bias), -bound, bound
    )


class _Residual(nn.Module):
    """The sum that a norm reads, of a layer's sums and the spikes of the neurons below."""

    gain: Tensor
    carried: Tensor
    offset: Tensor

    def __init__(self, layer: _Sums, below: Neurons, making: _Making) -> None:
        super().__init__()
        unit, steps = 2.0**RESIDUAL_FRACTION, making.steps
        found: Residual = residual_scale(
            _numbers(layer.scale) * unit / steps,
            _numbers(making.amplitude(below)) * unit / steps,
            _numbers(layer.bias) * unit + 0.5,
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


class _Table(nn.Module):
    """Rows of whole numbers, in units of 2^-shift of what the norm reads."""

    def __init__(self, table: nn.Module, shift: int, making: _Making) -> None:
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
            self.register_buffer("rows", torch.round(_values(table).double() * unit).int())

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows, int32."""
        if not self.layout:
            return F.embedding(ids, cast("Tensor", self.rows))
        found = integer_operators.packed_embedding_sum(
            ids, self.packed, self.multiplier, self.columns, self.layout, self.name
        )
        return cast("Tensor", found)


def _values(table: nn.Module) -> Tensor:
    """Return the rows that a table gives."""
    return table.dequantised().detach() if isinstance(table, Embedding) else cast("Tensor", table.weight).detach()


class _Embeddings(nn.Module):
    """Word, position and type, normalised."""

    def __init__(self, part: Embeddings, making: _Making) -> None:
        super().__init__()
        tables = (part.words, part.positions, part.token_types)
        largest = sum(float(_values(table).abs().max()) for table in tables) * 2.0**RESIDUAL_FRACTION * EMBEDDINGS_FINER
        # Half a unit for each code of a row at most.
        room = 2.0**30 - 3 * 2.0**15
        shift = min(_MOST_TABLE_SHIFT, math.floor(math.log2(room / max(largest, 1.0))))
        if not math.isfinite(largest) or shift < 0:
            raise UnsupportedModelError(
                f"The embeddings add up to {largest:.3g} units of 2^-14, which does not fit 32 bits; load a good model."
            )
        self.words, self.positions, self.token_types = (_Table(table, shift, making) for table in tables)
        one, half = np.ones(1, np.int64), np.full(1, 2**shift >> 1, np.int64)
        limit = np.full(1, int(RESIDUAL_LIMIT), np.int64)
        rounded = Scale(one, half, -limit, limit, shift, 2**30)
        making.reports.append(rounded.report(f"{making.names[part]} (sum)"))
        self.rounded = _Scaled(rounded)
        self.neurons = _after_norm(part.norm, part.neurons, making)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """Return the sums that the input neurons read."""
        position = self.positions(torch.arange(ids.shape[-1]))
        kind = self.token_types(torch.zeros_like(ids) if types is None else types)
        total = self.rounded(self.words(ids) + position + kind)
        return cast("Tensor", token_integer_operators.int_shift_norm(total, ""))


class _Attention(nn.Module):
    """Keys and values are counts, queries and probabilities whole numbers of their grids."""

    def __init__(self, part: Attention, making: _Making) -> None:
        super().__init__()
        config, steps = making.bert.config, making.steps
        self.heads, self.head_size = config.heads, config.hidden // config.heads
        self.query, self.key, self.value = (_Sums(layer, making) for layer in (part.query, part.key, part.value))
        for name, layer in (("key_neurons", self.key), ("value_neurons", self.value)):
            setattr(self, name, _after(layer, getattr(part, name), making, lambda current: current, None))
        grid = cast("OnGrid", part.query_grid)
        unit = part.unit / math.sqrt(self.head_size)
        factor = _numbers(making.amplitude(part.key_neurons) * unit) * 2.0**grid.fraction
        width = self.query.outputs
        line = Line(
            np.broadcast_to(_numbers(self.query.scale) / steps * factor, width),
            np.broadcast_to(_numbers(self.query.bias) * factor + 0.5, width),
            self.query.least,
            self.query.most,
            -int(grid.limit),
            int(grid.limit),
        )
        scaled = scale_of(line, self.query.name)
        making.reports.append(scaled.report(self.query.name))
        self.query_scale = _Scaled(scaled)
        self.fraction = grid.fraction + int(math.log2(steps))
        carried, bias = making.amplitude(part.value_neurons), part.bias
        most = math.ceil(math.sqrt(2.0) * 2**PROBABILITY_BITS) * steps
        unit_of = 2.0**-PROBABILITY_BITS / steps

        def current(sums: Tensor) -> Tensor:
            found = sums * unit_of * carried
            return found if bias is None else found + bias.detach()

        self.neurons = IntegerNeurons(
            part.neurons,
            making,
            current,
            np.broadcast_to(_numbers(carried) * unit_of, width),
            0.0 if bias is None else _numbers(bias),
            -most if making.least else 0,
            most,
        )

    def forward(self, emitted: Tensor, pads: Tensor) -> Tensor:
        """Return what the attention's neurons give."""
        keys, values = (cast("IntegerNeurons", n) for n in (self.key_neurons, self.value_neurons))
        key, value = keys(self.key(emitted)), values(self.value(emitted))
        query = self._split(self.query_scale(self.query(emitted)))
        scores = token_integer_operators.int_product(query, self._split(keys.factors(key)).transpose(-1, -2), 128)
        weights = token_integer_operators.int_shift_softmax(scores, pads, self.fraction, "")
        context = token_integer_operators.int_product(weights, self._split(values.factors(value)), 0)
        return cast("Tensor", self.neurons(context.transpose(-2, -3).flatten(-2)))

    def _split(self, x: Tensor) -> Tensor:
        """Return ``(..., heads, S, head size)``."""
        heads: Tensor = x.unflatten(-1, (self.heads, self.head_size))  # type: ignore[no-untyped-call]
        return heads.transpose(-2, -3)


class _Layer(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, part: EncoderLayer, below: Neurons, making: _Making) -> None:
        super().__init__()
        self.attention = _Attention(part.attention, making)
        self.attention_output = _Sums(part.attention_output, making)
        self.attention_residual = _Residual(self.attention_output, below, making)
        self.attention_neurons = _after_norm(part.attention_norm, part.attention_neurons, making)
        self.intermediate = _Sums(part.intermediate, making)
        bias = part.intermediate_bias
        self.intermediate_neurons = _after(
            self.intermediate,
            part.intermediate_neurons,
            making,
            lambda current: F.relu(current) if bias is None else F.relu(current) + bias.detach(),
            bias,
        )
        self.output = _Sums(part.output, making)
        self.output_residual = _Residual(self.output, part.attention_neurons, making)
        self.neurons = _after_norm(part.output_norm, part.neurons, making)

    def forward(self, emitted: Tensor, counts: Tensor, pads: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last neurons give, and its counts."""
        attended = self.attention(emitted, pads)
        middle = self.attention_neurons(self.attention_residual(self.attention_output(attended), counts))
        wide = self.intermediate_neurons(self.intermediate(middle))
        counts = self.attention_neurons.counted(middle)
        emitted = self.neurons(self.output_residual(self.output(wide), counts))
        return emitted, self.neurons.counted(emitted)


class IntegerBert(nn.Module):
    """A :class:`~snn_extreme_quant.models.SpikingBert` of the integer profile whose constants are whole numbers.

    It is called as the model is and gives logits; between, every tensor holds whole numbers.
    Make one with :func:`integer_bert`.
    """

    def __init__(self, making: _Making) -> None:
        super().__init__()
        bert = making.bert
        self.config, self.on = bert.config, making.on
        self.embeddings = _Embeddings(bert.embeddings, making)
        below: Neurons = bert.embeddings.neurons
        layers = []
        for module in bert.encoder:
            part = cast("EncoderLayer", module)
            layers.append(_Layer(part, below, making))
            below = part.neurons
        self.encoder = nn.ModuleList(layers)
        if self.config.head == "pooled":
            self.pooler = _Sums(bert.pooler, making)
            bias = bert.pooler_bias
            self.pooler_neurons = _after(
                self.pooler,
                bert.pooler_neurons,
                making,
                lambda current: F.hardtanh(current) if bias is None else F.hardtanh(current) + bias.detach(),
                bias,
            )
            below = bert.pooler_neurons
        self.classifier = copy.deepcopy(bert.classifier)
        self.register_buffer("read", making.amplitude(below).clone())
        self.scales, self.magnitudes = tuple(making.reports), dict(making.magnitudes)
        self.tables = tuple(part.name for part in self.modules() if isinstance(part, _Table) and part.layout)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Return the logits."""
        pads = torch.zeros((1, 1, 1, 1), dtype=torch.int32)
        if attention_mask is not None:
            pads = ((1 - attention_mask[:, None, None, :].int()) * int(PAD)).int()
        emitted = self.embeddings.neurons(self.embeddings(ids, types), constant=True)
        counts = self.embeddings.neurons.counted(emitted)
        for layer in self.encoder:
            emitted, counts = layer(emitted, counts, pads)
        counts = counts[..., 0, :]
        if self.config.head == "pooled":
            pooled = self.pooler_neurons(self.pooler(emitted[..., 0, :]))
            counts = self.pooler_neurons.counted(pooled)
        if self.on == "steps":
            counts = counts.sum(0, dtype=torch.int32)
        # From here on the logits are decoded.
        rates = counts.float() * (1.0 / self.config.T)
        return self.classifier(rates * self.read)  # type: ignore[no-any-return]

    def named_neurons(self) -> list[tuple[str, IntegerNeurons]]:
        """Return all layers of neurons by their names in the trained model."""
        return [(module.name, module) for module in self.modules() if isinstance(module, IntegerNeurons)]


def integer_bert(model: nn.Module, form: Literal["counts", "sequence"] = "counts") -> nn.Module:
    """Return a model whose SpikingBert computes in whole numbers, as integer files of it do.

    Args:
        model: a SpikingBert of the integer profile, or a module around one; it is left as it was.
        form: as of :func:`~snn_extreme_quant.export_onnx`; both give the same numbers of spikes.

    Returns:
        A copy that is called as the model is and gives what the file gives.

    Raises:
        UnsupportedModelError: it has no integer form; the message says why.

    Example:
        >>> from snn_extreme_quant.models import SpikingBertConfig
        >>> config = SpikingBertConfig(
        ...     vocab=50, layers=1, hidden=16, heads=2, ffn=32, weights="ternary", profile="integer"
        ... )
        >>> integer_bert(SpikingBert(config))(torch.tensor([[1, 7, 2]])).shape
        torch.Size([1, 2])
    """
    bert = bert_of(model)
    if bert is None:
        raise UnsupportedModelError(f"{type(model).__name__} is no SpikingBert and holds none.")
    on: On = "steps" if bert.config.schedule == "step" else "counts" if form == "counts" else "spikes"
    return in_integers(model, bert, on)[0]


@torch.no_grad()
def in_integers(
    model: nn.Module, bert: SpikingBert, on: On, packing: TernaryPacking = "2bit"
) -> tuple[nn.Module, IntegerBert]:
    """Return a copy of a model in whole numbers, and the encoder in it; see :func:`integer_bert`."""
    _check(bert)
    names = {module: name for name, module in model.named_modules()}
    whole = IntegerBert(_Making(bert, on, packing, names, [], {})).eval()
    if model is bert:
        return whole, whole
    found = copy.deepcopy(model, {id(bert): whole}).eval()
    return found, whole


def _check(bert: SpikingBert) -> None:
    """Refuse what has no integer form as a whole."""
    config = bert.config
    if config.profile != "integer":
        raise UnsupportedModelError(
            f"A SpikingBert of profile={config.profile!r} computes softmax and norm in float; integer=True is for"
            " profile='integer'."
        )
    if config.leak != 1.0:
        raise UnsupportedModelError(
            f"A SpikingBert with leak={config.leak} has no integer form so far; use leak=1, or export without"
            " integer=True."
        )
    norms = [module for module in bert.modules() if isinstance(module, nn.LayerNorm)]
    if not all(isinstance(module, ShiftNorm) for module in norms):
        raise UnsupportedModelError("A norm of this SpikingBert is not by shifts; build it with profile='integer'.")
