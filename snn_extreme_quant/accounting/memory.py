r"""What the weights of an exported file take, by arithmetic: from a model, or from shapes on paper.

The codes of a matrix are stored as :math:`(K, N)`, inputs first, each of the K rows from a byte of its own on (of an
embedding: a row for each entry of the table), and each output has a float32 scale:

.. math:: \text{bytes} = K\,\mathrm{row}_b(N) + 4 N G

with :math:`\mathrm{row}_b(N)` about :math:`N b / 8` (:mod:`snn_extreme_quant.quantizers.packing` says exactly) and G
groups of inputs with scales of their own. All other parameters are float32. ``docs/quantisers.md``, *Memory*, says
what is counted and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

from snn_extreme_quant.config import Float, PrecisionPlan, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.packing import LAYOUTS, layout_for
from snn_extreme_quant.registry import suggest

__all__ = [
    "FileMemory",
    "MatrixMemory",
    "WeightKind",
    "WeightMemory",
    "WeightShape",
    "file_memory",
    "stored_as",
    "weight_memory",
]

WeightKind = Literal["Linear", "Conv", "ConvTranspose", "Embedding", "Parameter"]
_FLOAT_BYTES = 4
_PACKINGS = {"2bit": "ternary4", "1.6bit": "ternary5"}


class _Model(Protocol):
    """A ``torch.nn.Module``, told without torch."""

    def named_modules(self) -> Iterable[Any]: ...


class WeightShape(NamedTuple):
    """A weight on paper.

    Args:
        name: of its layer, for the plan.
        shape: of its codes: outputs first, ``(N, K)`` or ``(N, C / groups, kernel ...)``, also of a transposed
            convolution; of an embedding ``(entries, width)``; of a parameter any.
        kind: what reads it; a ``"Parameter"`` stays float32 whatever the plan says.
        config: the precision that it has, where no plan is given.
        aliases: more names of a shared layer.
        tied: the first layer with the same weight, where a file holds it once for both.
        fixed: the precision that a file stores it in where it would be float: the signs of a binarised embedding.
    """

    name: str
    shape: tuple[int, ...]
    kind: WeightKind = "Linear"
    config: WeightConfig = Float()
    aliases: tuple[str, ...] = ()
    tied: str = ""
    fixed: WeightConfig = Float()


@dataclass(frozen=True)
class MatrixMemory:
    """What one matrix takes.

    Args:
        name: of its layer.
        kind: what reads it.
        shape: of its codes.
        config: its precision.
        layout: how its codes are packed; "" where it is float.
        codes: bytes of the codes, or of the floats.
        scales: bytes of the scales.
        tied: the first layer with the same weight, where a file can hold it once; with the same precision it does,
            and the bytes are counted there.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    config: WeightConfig
    layout: str
    codes: int
    scales: int
    tied: str = ""

    @property
    def total(self) -> int:
        """Bytes of codes and scales."""
        return self.codes + self.scales

    @property
    def as_float(self) -> int:
        """Bytes of the matrix in float32."""
        return _FLOAT_BYTES * math.prod(self.shape)


@dataclass(frozen=True)
class WeightMemory:
    """What all weights take. Printing it gives a table.

    Args:
        matrices: in the order of the model.
        other: bytes of all other parameters, float32.
    """

    matrices: tuple[MatrixMemory, ...]
    other: int

    @property
    def codes(self) -> int:
        """Bytes of codes, and of matrices that are float."""
        return sum(matrix.codes for matrix in self.matrices)

    @property
    def scales(self) -> int:
        """Bytes of scales."""
        return sum(matrix.scales for matrix in self.matrices)

    @property
    def total(self) -> int:
        """All bytes."""
        return self.codes + self.scales + self.other

    @property
    def as_float(self) -> int:
        """Bytes of the same weights in float32."""
        return sum(matrix.as_float for matrix in self.matrices if not matrix.tied) + self.other

    @property
    def reduction(self) -> float:
        """The part of the memory of float32 that is saved, 0 to 1."""
        return 1 - self.total / self.as_float if self.as_float else 0.0

    def __str__(self) -> str:
        """Render as a plain table."""
        rows = [
            (m.name, m.kind, "x".join(map(str, m.shape)), m.layout or "float", f"{m.total:,} B") for m in self.matrices
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        lines = ["  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4])) for row in rows]
        parts = f"codes {self.codes:,}, scales {self.scales:,}, other parameters {self.other:,}"
        head = f"{self.total / 1e6:.2f} MB, {self.reduction:.1%} below float32 ({parts} B)"
        return "\n".join((head, *lines))


@dataclass(frozen=True)
class FileMemory:
    """What an exported file takes.

    Args:
        weights: bytes of its constants: codes, scales, floats.
        graph: the rest: nodes, bodies of operators, names, metadata.
    """

    weights: int
    graph: int

    @property
    def total(self) -> int:
        """The size of the file, with the files of its weights where they lie beside it."""
        return self.weights + self.graph


def weight_memory(
    model: _Model | Iterable[WeightShape | tuple[str, Sequence[int], str]],
    plan: PrecisionPlan | WeightConfig | None = None,
    *,
    ternary_packing: str = "2bit",
) -> WeightMemory:
    """Say what the weights of a model take in an exported file, without exporting it.

    Args:
        model: a model, quantised or not, on any device (meta too); or its weights on paper, as
            :class:`WeightShape` or ``(name, shape, kind)``. :func:`weight_shapes` gives those of a model, for many
            plans at once.
        plan: the precisions, by the names of layers, or one for all; by default what the layers have. A layer that
            is quantised already gets the plan's precision.
        ternary_packing: as for :func:`~snn_extreme_quant.export_onnx`.

    Raises:
        ConfigError: a shape, kind or packing that there is not; a precision whose codes no layout holds.
        UnmatchedNameError: a name in the plan matches no layer that can be quantised.

    Example:
        >>> from snn_extreme_quant.config import Binary, Ternary
        >>> paper = [("hidden", (256, 64), "Linear"), ("bias", (256,), "Parameter"), ("out", (10, 256), "Linear")]
        >>> memory = weight_memory(paper, PrecisionPlan({"out": Ternary()}, default=Binary()))
        >>> [(m.codes, m.scales) for m in memory.matrices], memory.other, memory.total
        ([(2048, 1024), (768, 40)], 1024, 4904)
    """
    if ternary_packing not in _PACKINGS:
        raise ConfigError(f"ternary_packing={ternary_packing!r}: {suggest(str(ternary_packing), _PACKINGS)}")
    _check_plan(plan)
    given = _shapes_of(model)
    found = [weight for weight in given if weight.kind != "Parameter"]
    if isinstance(plan, PrecisionPlan):
        names = [name for weight in found for name in (weight.name, *weight.aliases)]
        unfit = {weight.name: "it is no matrix of a layer" for weight in given if weight.kind == "Parameter"}
        plan.check_names(names, unfit)
    matrices, held = [], set[object]()
    for weight in found:
        config = _config(weight, plan)
        place = stored_as(weight, config)
        matrix = _matrix(weight, config, ternary_packing)
        matrices.append(replace(matrix, codes=0, scales=0) if place in held else matrix)
        held.add(place)
    return WeightMemory(tuple(matrices), sum(_FLOAT_BYTES * math.prod(w.shape) for w in given if w.kind == "Parameter"))


def stored_as(weight: WeightShape, config: WeightConfig) -> object:
    """Return what is equal for tied weights of which a file holds one copy: floats, or codes of one kind of layer.

    Example:
        >>> one, other = WeightShape("in", (9, 4)), WeightShape("out", (9, 4), tied="in")
        >>> stored_as(one, Float()) == stored_as(other, Float()), weight_memory([one, other]).total
        (True, 144)
    """
    if isinstance(config, Float):
        return weight.tied or weight.name, config
    if getattr(config, "scale", "") == "learned":  # each layer has its own
        return weight.name, config
    return weight.tied or weight.name, config, weight.kind


def file_memory(path: str | Path) -> FileMemory:
    """Measure what the weights of an exported file take, and the rest of it.

    Raises:
        ModelFileError: nothing of it can be read.

    Example:
        >>> file_memory("net.onnx").weights  # doctest: +SKIP
        4904
    """
    from snn_extreme_quant.exported.inspection import constant_sizes

    weights, everything = constant_sizes(Path(path))
    return FileMemory(weights, everything - weights)


def _check_plan(plan: object) -> None:
    if plan is not None and not isinstance(plan, (PrecisionPlan, WeightConfig)):
        raise ConfigError(f"weight_memory() takes a PrecisionPlan, Binary(), Ternary() or Uniform(); got {plan!r}.")


def _shapes_of(model: _Model | Iterable[WeightShape | tuple[str, Sequence[int], str]]) -> tuple[WeightShape, ...]:
    if hasattr(model, "named_modules"):
        from snn_extreme_quant.accounting.shapes import weight_shapes

        return weight_shapes(cast("Any", model))
    try:
        entries = [_on_paper(entry) for entry in cast("Iterable[WeightShape]", model)]
    except TypeError as error:
        raise ConfigError(
            f"weight_memory() takes a model, or weights as (name, shape, kind); got {type(model).__name__}."
        ) from error
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ConfigError(f"Two weights are called {twice!r}; give each a name of its own.")
    return tuple(entries)


def _on_paper(entry: object) -> WeightShape:
    if not isinstance(entry, tuple) or not 2 <= len(entry) <= len(WeightShape._fields):
        raise ConfigError(f"A weight on paper is (name, shape, kind); got {entry!r}.")
    weight = WeightShape(*cast("WeightShape", entry))
    kinds = get_args(WeightKind)
    if weight.kind not in kinds:
        raise ConfigError(f"Weight {weight.name!r}: no kind is called {weight.kind!r}. {suggest(weight.kind, kinds)}")
    shape = tuple(weight.shape)
    axes = {"Linear": (2, 2), "Embedding": (2, 2), "Parameter": (0, math.inf)}.get(weight.kind, (3, 5))
    if not all(type(size) is int and size >= 0 for size in shape) or not axes[0] <= len(shape) <= axes[1]:
        raise ConfigError(
            f"Weight {weight.name!r}: a {weight.kind} has no shape {shape}; give whole numbers,"
            f" {'outputs first, ' if weight.kind != 'Parameter' else ''}{axes[0]} axes or more."
        )
    return weight._replace(shape=shape)


def _config(weight: WeightShape, plan: PrecisionPlan | WeightConfig | None) -> WeightConfig:
    asked = _asked(weight, plan)
    return weight.fixed if isinstance(asked, Float) else asked


def _asked(weight: WeightShape, plan: PrecisionPlan | WeightConfig | None) -> WeightConfig:
    if not isinstance(plan, PrecisionPlan):
        return weight.config if plan is None else plan
    configs = {plan.config_for(name) for name in (weight.name, *weight.aliases)}
    if len(configs) > 1:
        shared = " = ".join((weight.name, *weight.aliases))
        raise ConfigError(f"The plan gives the shared layer {shared} different precisions.")
    return configs.pop()


def _matrix(weight: WeightShape, config: WeightConfig, ternary_packing: str) -> MatrixMemory:
    if isinstance(config, Float):
        size = _FLOAT_BYTES * math.prod(weight.shape)
        return MatrixMemory(weight.name, weight.kind, weight.shape, config, "", size, 0, weight.tied)
    try:
        layout = layout_for(config.bits)
    except ConfigError as error:
        raise ConfigError(f"Weight {weight.name!r}, {config!r}: {error}") from error
    layout = _PACKINGS[ternary_packing] if layout == _PACKINGS["2bit"] else layout
    rows, inputs, *kernel = weight.shape
    size = getattr(config, "group_size", None) or max(inputs, 1)
    widths = [min(size, inputs - start) for start in range(0, inputs, size)]
    if weight.kind == "Embedding":  # looked up by rows
        codes = rows * sum(LAYOUTS[layout].packed_columns(width) for width in widths)
    else:
        codes = inputs * math.prod(kernel) * LAYOUTS[layout].packed_columns(rows)
    scales = _FLOAT_BYTES * rows * len(widths)
    return MatrixMemory(weight.name, weight.kind, weight.shape, config, layout, codes, scales, weight.tied)
