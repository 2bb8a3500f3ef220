"""``gptq_``: calibrate the layers of a model one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.calibrate.gptq import gptq_codes, relative_error
from snn_extreme_quant.calibrate.inputs import Gram, recording, rows_of
from snn_extreme_quant.config import check_patterns, matches
from snn_extreme_quant.errors import ConfigError, NonFiniteWeightError, NothingToQuantizeError, SampleError
from snn_extreme_quant.frameworks import reset
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.replace import LeftLayer

__all__ = ["CalibratedLayer", "GptqReport", "gptq_"]


@dataclass(frozen=True)
class CalibratedLayer:
    r"""What became of one layer.

    Args:
        name: the layer's name (several, joined by " = ", if it is shared).
        rows: how many input vectors were seen, over all batches, time steps and positions.
        error_rounded: :math:`\lVert X W^\top - X \hat W^\top\rVert^2 / \lVert X W^\top\rVert^2` on the
            calibration data with the nearest codes.
        error_gptq: the same with GPTQ's codes.
    """

    name: str
    rows: int
    error_rounded: float
    error_gptq: float

    @property
    def kept_rounded(self) -> bool:
        """Whether the layer kept the nearest codes, because GPTQ's would have raised its error."""
        return self.error_gptq > self.error_rounded

    @property
    def error(self) -> float:
        """The error with the codes that the layer has now."""
        return min(self.error_rounded, self.error_gptq)

    def __str__(self) -> str:
        """Say which codes were taken, and what the others give."""
        if self.kept_rounded:
            return f"output error {self.error:.3g}: nearest codes kept, GPTQ's would give {self.error_gptq:.3g}"
        return f"output error {self.error_rounded:.3g} -> {self.error:.3g}"


@dataclass(frozen=True)
class GptqReport:
    """What :func:`gptq_` did. Printing it gives a table."""

    layers: tuple[CalibratedLayer, ...]
    left: tuple[LeftLayer, ...]

    def __str__(self) -> str:
        """Render as a plain table."""
        width = max(len(name) for name in (*(e.name for e in self.layers), *(e.name for e in self.left)))
        lines = [f"{layer.name:{width}}  {layer}" for layer in self.layers]
        lines += [f"{entry.name:{width}}  left: {entry.reason}" for entry in self.left]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Site:
    name: str
    layer: IntegerFirst


def _unfit(layer: IntegerFirst, shared: set[int]) -> str:
    """Return why a layer cannot be calibrated, or ""."""
    if rows_of(layer) is None:
        return f"{type(layer).__name__} is not a plain product of input rows and weights"
    if getattr(layer.quantizer, "center", False):
        return "centred binary codes depend on the weights' mean, which the chosen codes would move"
    if id(layer.weight) in shared:
        return "another layer shares its weight"
    return ""


def _sites(model: nn.Module) -> list[_Site]:
    names: dict[IntegerFirst, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, IntegerFirst):
            names.setdefault(module, []).append(name)
    return [_Site(" = ".join(group), layer) for layer, group in names.items()]


def _shared_weights(model: nn.Module) -> set[int]:
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(module))
    return {parameter for parameter, modules in owners.items() if len(modules) > 1}


def _chosen(model: nn.Module, names: Sequence[str] | None) -> tuple[list[_Site], list[LeftLayer]]:
    """Return the layers to calibrate, and those that are not."""
    sites, shared = _sites(model), _shared_weights(model)
    if names is not None:
        check_patterns(names, [name for site in sites for name in site.name.split(" = ")], "names")
    chosen, left = [], []
    for site in sites:
        wanted = names is None or any(matches(name, p) for name in site.name.split(" = ") for p in names)
        reason = _unfit(site.layer, shared) if wanted else "not among the names"
        if reason and wanted and names is not None and site.name in names:
            raise ConfigError(f"{site.name!r} cannot be calibrated: {reason}. Take it out of names.")
        if reason:
            left.append(LeftLayer(site.name, type(site.layer).__name__, reason))
        elif not torch.isfinite(site.layer.weight).all():
            raise NonFiniteWeightError(
                f"The weight of {site.name!r} holds NaN or infinite values; load a good checkpoint."
            )
        else:
            chosen.append(site)
    if not chosen:
        why = "; ".join(f"{entry.name}: {entry.reason}" for entry in left) or "quantise it first, with quantize_()"
        raise NothingToQuantizeError(f"No layer of {type(model).__name__} can be calibrated: {why}.")
    return chosen, left


def _call(model: nn.Module, batch: Any) -> Any:
    return model(batch)


@torch.no_grad()
def gptq_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    run: Callable[[nn.Module, Any], Any] = _call,
    damping: float = 0.01,
    names: Iterable[str] | None = None,
) -> GptqReport:
    r"""Choose the codes of a quantised model's layers by their outputs on calibration data, in place.

    Rounding takes the code nearest to each weight. This takes codes with a small
    :math:`\lVert X W^\top - X \hat W^\top\rVert^2`, X being all inputs that the layer sees: every batch, every
    call of a loop over time steps, every position of a convolution (GPTQ, Frantar et al. 2022). No training, no
    labels. GPTQ goes column by column and looks only ahead, so it may end above the nearest codes, with few levels most
    of all: where the layer's error would rise, it keeps the nearest ones.

    Layers are taken in the order in which the model calls them, each with the inputs that it gets from those already
    calibrated. So the model runs once for each layer, and once more. Scales are those that the layers' configs give
    for their present weights; they are fixed (``fix_scale``), and the weights become codes times scales, so that the
    model stays as it is until it is trained. The model is run in evaluation mode, and the neurons are reset before
    each batch and at the end.

    Args:
        model: a trained model after :func:`~snn_extreme_quant.quantize_`. Meant for
            :class:`~snn_extreme_quant.Uniform` and :class:`~snn_extreme_quant.Ternary`; uncentred
            :class:`~snn_extreme_quant.Binary` works too.
        batches: inputs, as ``run`` takes them.
        run: how the model is called for one batch; for a model that is looped over time, the loop.
        damping: what is added to the diagonal of :math:`X^\top X`, in units of its mean.
        names: names or shell patterns of the layers to calibrate; all by default.

    Returns:
        For each layer the output error with the nearest codes and with GPTQ's, and which it has now; and the layers
        left alone, with the reason.

    Raises:
        ConfigError: ``damping`` is negative or too small, or a layer in ``names`` cannot be calibrated.
        UnmatchedNameError: a name matches no quantised layer.
        NothingToQuantizeError: no layer can be calibrated.
        NonFiniteWeightError: a weight is NaN or infinite.
        SampleError: there are no batches, a layer is never called, or its inputs are NaN or infinite. On this and any
            other error the model is as before.

    Example:
        >>> import snn_extreme_quant as sxq
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(16, 8))
        >>> _ = sxq.quantize_(net, sxq.Uniform(bits=3))
        >>> mixed = torch.rand(64, 4) @ torch.rand(4, 16)  # inputs that go together
        >>> layer = sxq.gptq_(net, [mixed]).layers[0]
        >>> layer.error < layer.error_rounded
        True
    """
    if type(damping) not in (int, float) or not 0 <= damping < math.inf:
        raise ConfigError(f"gptq_(damping={damping!r}): use a number from 0 (0.01, say).")
    batches = list(batches)
    if not batches:
        raise SampleError("gptq_() got no batches; give it inputs like those that the model was trained on.")
    patterns = [names] if isinstance(names, str) else None if names is None else list(names)
    chosen, left = _chosen(model, patterns)
    modes = {module: module.training for module in model.modules()}
    before = [(s.layer, s.layer.weight.detach().clone(), s.layer.quantizer.fixed_scale) for s in chosen]

    def run_all() -> None:
        for batch in batches:
            reset(model)
            run(model, batch)

    model.eval()
    try:
        results: list[CalibratedLayer] = []
        for site in _in_order(model, chosen, run_all):
            gram = _observe(site, run_all)
            if not cast("Tensor", gram.total).any():
                left.append(LeftLayer(site.name, type(site.layer).__name__, "all its inputs were 0"))
            else:
                results.append(_calibrate(site, gram, damping))
    except BaseException:
        for layer, weight, fixed in before:
            layer.weight.copy_(weight)
            layer.quantizer.fixed_scale = fixed
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        reset(model)
    return GptqReport(tuple(results), tuple(left))


def _in_order(model: nn.Module, sites: Sequence[_Site], run_all: Callable[[], None]) -> list[_Site]:
    """Return the layers in the order of their first calls."""
    called: dict[IntegerFirst, None] = {}
    with recording([site.layer for site in sites], lambda layer, _: called.setdefault(layer)):
        run_all()
    silent = [site.name for site in sites if site.layer not in called]
    if silent:
        hint = "call it in run=..., or leave it out with names=[...]"
        if getattr(getattr(model, "config", None), "profile", "") == "integer":
            hint = "profile='integer' computes from its codes: calibrate the same weights in profile='reference'"
        raise SampleError(f"Layer {silent[0]!r} is never called on the calibration data; {hint}.")
    by_layer = {site.layer: site for site in sites}
    return [by_layer[layer] for layer in called]


def _observe(site: _Site, run_all: Callable[[], None]) -> Gram:
    gram, rows = Gram(), rows_of(site.layer)
    assert rows is not None  # noqa: S101 - _unfit() let only such layers through
    with recording([site.layer], lambda layer, input: gram.add(rows(layer, input))):
        run_all()
    if not torch.isfinite(cast("Tensor", gram.total)).all():
        raise SampleError(
            f"The inputs of layer {site.name!r} are NaN or infinite on the calibration data; check the batches."
        )
    return gram


def _calibrate(site: _Site, gram: Gram, damping: float) -> CalibratedLayer:
    """Fix the scale, choose the codes and write them into the weight."""
    layer, quantizer = site.layer, site.layer.quantizer
    total = cast("Tensor", gram.total)
    weight = layer.weight.detach()
    rounded, scale = quantizer.integer(weight)
    quantizer.fix_scale(scale)
    groups = total.shape[0]

    def blocks(values: Tensor) -> Tensor:
        return values.expand_as(weight).double().reshape(groups, weight.shape[0] // groups, -1)

    steps, floats = blocks(quantizer.granularity.spread(scale, weight)), blocks(weight)
    codes = torch.stack(
        [gptq_codes(w, s, h, quantizer.codes, damping) for w, s, h in zip(floats, steps, total, strict=True)]
    )
    result = CalibratedLayer(
        site.name, gram.rows, *(relative_error(floats, c * steps, total) for c in (blocks(rounded), codes))
    )
    if result.kept_rounded:
        codes = blocks(rounded)
    layer.weight.copy_((codes * steps).reshape(weight.shape))
    if not torch.equal(quantizer.integer(layer.weight)[0].double(), codes.reshape(weight.shape)):
        raise ConfigError(
            f"Layer {site.name!r}: {weight.dtype} is too coarse for codes of {quantizer.bits} bit; calibrate the model"
            " in float32."
        )
    return result
