"""SpikingBERT's integer profile in whole numbers alone, to be read beside ``models/bert/spiking_bert.py``.

Contract: ``docs/spiking_bert.md``, *In integers*. Every tensor between the token ids and the logits holds whole
numbers; the names of layers and neurons are those of the model, and so they are in its file.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.deploy.lowering.repacking import TernaryPacking
from snn_extreme_quant.deploy.tokens import integer_operators as token_integer_operators
from snn_extreme_quant.deploy.tokens.inputs import bert_of
from snn_extreme_quant.deploy.tokens.integer_parts import (
    IntegerNeurons,
    Making,
    ResidualSum,
    Scaled,
    Sums,
    Table,
    after_layer,
    after_norm,
    numbers,
    values_of,
)
from snn_extreme_quant.deploy.tokens.running import On
from snn_extreme_quant.deploy.tokens.token_scales import Line, Scale, scale_of
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.exported.shift_tables import PROBABILITY_BITS, RESIDUAL_FRACTION, RESIDUAL_LIMIT
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.shifts import OnGrid, ShiftNorm
from snn_extreme_quant.models.bert.spiking_bert import (
    EMBEDDINGS_FINER,
    PAD,
    Attention,
    Embeddings,
    EncoderLayer,
    Neurons,
)

__all__ = ["IntegerBert", "in_integers", "integer_bert"]

#: Bits behind the point of what the tables' rows are given in, at most.
_MOST_TABLE_SHIFT = 15
#: What rounding can add to the sum of three rows: half a unit of a row's multiplier for each of 2^15 codes at most.
_TABLE_ROUNDING = 3 * 2**14


class _Embeddings(nn.Module):
    """Word, position and type, normalised."""

    def __init__(self, part: Embeddings, making: Making) -> None:
        super().__init__()
        tables = (part.words, part.positions, part.token_types)
        largest = (
            sum(float(values_of(table).abs().max()) for table in tables) * 2.0**RESIDUAL_FRACTION * EMBEDDINGS_FINER
        )
        room = 2.0**30 - 2 * _TABLE_ROUNDING
        shift = min(_MOST_TABLE_SHIFT, math.floor(math.log2(room / max(largest, 1.0))))
        if not math.isfinite(largest) or shift < 0:
            raise UnsupportedModelError(
                f"The embeddings add up to {largest:.3g} units of 2^-14, which does not fit 32 bits; load a good model."
            )
        self.words, self.positions, self.token_types = (Table(table, shift, making) for table in tables)
        one, half = np.ones(1, np.int64), np.full(1, 2**shift >> 1, np.int64)
        limit = np.full(1, int(RESIDUAL_LIMIT), np.int64)
        # Below 2^30, and so is what is shifted: the sum and half a unit, 2^14 at most.
        most = math.ceil(largest * 2.0**shift) + _TABLE_ROUNDING
        rounded = Scale(one, half, -limit, limit, shift, most)
        making.reports.append(rounded.report(f"{making.names[part]} (sum)"))
        self.rounded = Scaled(rounded)
        self.neurons = after_norm(part.norm, part.neurons, making)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """Return the sums that the input neurons read."""
        position = self.positions(torch.arange(ids.shape[-1]))
        kind = self.token_types(torch.zeros_like(ids) if types is None else types)
        total = self.rounded(self.words(ids) + position + kind)
        return cast("Tensor", token_integer_operators.int_shift_norm(total, ""))


class _Attention(nn.Module):
    """Keys and values are counts, queries and probabilities whole numbers of their grids."""

    def __init__(self, part: Attention, making: Making) -> None:
        super().__init__()
        config, steps = making.bert.config, making.steps
        self.heads, self.head_size = config.heads, config.hidden // config.heads
        self.query, self.key, self.value = (Sums(layer, making) for layer in (part.query, part.key, part.value))
        for name, layer in (("key_neurons", self.key), ("value_neurons", self.value)):
            setattr(self, name, after_layer(layer, getattr(part, name), making, lambda current: current, None))
        grid = cast("OnGrid", part.query_grid)
        unit = part.unit / math.sqrt(self.head_size)
        factor = numbers(making.amplitude(part.key_neurons) * unit) * 2.0**grid.fraction
        width = self.query.outputs
        line = Line(
            np.broadcast_to(numbers(self.query.scale) / steps * factor, width),
            np.broadcast_to(numbers(self.query.bias) * factor + 0.5, width),
            self.query.least,
            self.query.most,
            -int(grid.limit),
            int(grid.limit),
        )
        scaled = scale_of(line, self.query.name)
        making.reports.append(scaled.report(self.query.name))
        self.query_scale = Scaled(scaled)
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
            np.broadcast_to(numbers(carried) * unit_of, width),
            0.0 if bias is None else numbers(bias),
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

    def __init__(self, part: EncoderLayer, below: Neurons, making: Making) -> None:
        super().__init__()
        self.attention = _Attention(part.attention, making)
        self.attention_output = Sums(part.attention_output, making)
        self.attention_residual = ResidualSum(self.attention_output, below, making)
        self.attention_neurons = after_norm(part.attention_norm, part.attention_neurons, making)
        self.intermediate = Sums(part.intermediate, making)
        bias = part.intermediate_bias
        self.intermediate_neurons = after_layer(
            self.intermediate,
            part.intermediate_neurons,
            making,
            lambda current: F.relu(current) if bias is None else F.relu(current) + bias.detach(),
            bias,
        )
        self.output = Sums(part.output, making)
        self.output_residual = ResidualSum(self.output, part.attention_neurons, making)
        self.neurons = after_norm(part.output_norm, part.neurons, making)

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

    read: Tensor

    def __init__(self, making: Making) -> None:
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
            self.pooler = Sums(bert.pooler, making)
            bias = bert.pooler_bias
            self.pooler_neurons = after_layer(
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
        self.tables = tuple(part.name for part in self.modules() if isinstance(part, Table) and part.layout)

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
        return cast("Tensor", self.classifier(rates * self.read))

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
    whole = IntegerBert(Making(bert, on, packing, names, [], {})).eval()
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
