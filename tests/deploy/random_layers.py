"""Random layers of torch and SpikingJelly: products, batch norms and pools for a value of a known shape."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig

__all__ = ["batch_norm", "configs", "flip", "layer", "pool", "same_shape_layer", "shape_after", "spikes"]

Shape = tuple[int, ...]


def flip(draw: Any, one_in: int = 2) -> bool:
    """True in one of so many cases (hypothesis shrinks to False)."""
    return bool(draw(st.integers(1, one_in)) == one_in)


def shape_after(module: nn.Module, shape: Shape, mode: str) -> Shape:
    """The shape of one step behind a module."""
    module.eval()
    with torch.no_grad():
        ones = torch.ones(1, 2, *shape) if mode == "m" else torch.ones(2, *shape)
        return tuple(module(ones).shape[2 if mode == "m" else 1 :])


def _weighted(draw: Any, module: Any, lattice: bool) -> nn.Module:
    """Weights large enough for spikes; on a lattice, so that membrane potentials meet thresholds exactly."""
    with torch.no_grad():
        module.weight.mul_(draw(st.sampled_from([2.0, 5.0])))
        if lattice:
            module.weight.copy_(torch.where(module.weight > 0, 0.1, -0.1))
            if module.bias is not None:
                module.bias.copy_((module.bias * 8).round() / 8)
    return module  # type: ignore[no-any-return]


def _geometry(draw: Any, sizes: Shape, transposed: bool) -> dict[str, Any]:
    """Options of a convolution over axes of these sizes, one number an axis."""
    kernel = [draw(st.integers(1, min(3, size))) for size in sizes]
    dilation = [
        1 if k == 1 or (k - 1) * 2 >= size else draw(st.sampled_from([1, 2]))
        for k, size in zip(kernel, sizes, strict=True)
    ]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    stride = [draw(st.sampled_from([1, 1, 2])) for _ in sizes]
    if transposed:
        # Padding takes away: something must be left.
        pads = [draw(st.integers(0, r // 2)) for r in reach]
        most = [min(max(s, d), s + p) - 1 for s, d, p in zip(stride, dilation, pads, strict=True)]
        extra = [draw(st.integers(0, m)) for m in most]
        return {"kernel_size": kernel, "stride": stride, "padding": pads, "dilation": dilation, "output_padding": extra}
    if flip(draw, 4):
        pads: Any = "same"
        stride = [1] * len(sizes)
    else:
        pads = [draw(st.integers(0, min(r, size - 1))) for r, size in zip(reach, sizes, strict=True)]
    # A short axis takes no other padding than zeros: what is copied must be there.
    wraps = min(sizes) > max(reach)
    modes = ["zeros", "zeros", "circular", "reflect", "replicate"] if wraps else ["zeros"]
    return {
        "kernel_size": kernel, "stride": stride, "padding": pads, "dilation": dilation,
        "padding_mode": draw(st.sampled_from(modes)),
    }  # fmt: skip


def layer(draw: Any, library: Any, shape: Shape, lattice: bool, options: dict[str, Any]) -> nn.Module:
    """A linear layer for ``(features,)``, else a convolution or its transpose, of as many axes as there are."""
    bias = draw(st.booleans())
    axes = len(shape) - 1
    if not axes:
        width = draw(st.one_of(st.integers(1, 130), st.just(1)))
        return _weighted(draw, library.Linear(shape[0], width, bias=bias, **options), lattice)
    transposed = flip(draw, 3) and torch.Size(shape[1:]).numel() < 100
    groups = draw(st.sampled_from([1, 1, shape[0]]))
    outputs = draw(st.integers(1, 3 if groups > 1 else 5)) * groups
    cls = getattr(library, f"Conv{'Transpose' if transposed else ''}{axes}d")
    geometry = _geometry(draw, shape[1:], transposed)
    return _weighted(draw, cls(shape[0], outputs, groups=groups, bias=bias, **geometry, **options), lattice)


def same_shape_layer(draw: Any, library: Any, shape: Shape, options: dict[str, Any]) -> nn.Module:
    """A layer whose output may be added to its input."""
    axes = len(shape) - 1
    if not axes:
        return _weighted(draw, library.Linear(shape[0], shape[0], **options), lattice=False)
    conv = getattr(library, f"Conv{axes}d")(shape[0], shape[0], 3, padding=1, **options)
    return _weighted(draw, conv, lattice=False)


def batch_norm(draw: Any, library: Any, shape: Shape, options: dict[str, Any]) -> nn.Module:
    """A batch norm that has seen data: statistics of its own, and factors of either sign."""
    cls = getattr(library, f"BatchNorm{max(1, len(shape) - 1)}d")
    norm = cls(shape[0], affine=not flip(draw, 4), eps=draw(st.sampled_from([1e-5, 1e-3])), **options)
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.3, 2)
        if norm.affine:
            norm.weight.normal_(1, 0.7)
            norm.bias.normal_(0, 0.3)
    return norm  # type: ignore[no-any-return]


def pool(draw: Any, library: Any, shape: Shape, options: dict[str, Any]) -> tuple[nn.Module, bool]:
    """A pool over the axes behind the channels, and whether spikes stay multiples of a power of two."""
    sizes = shape[1:]
    axes = len(sizes)
    kind = draw(st.sampled_from(["MaxPool", "MaxPool", "AvgPool", "AdaptiveAvgPool"]))
    if kind == "AdaptiveAvgPool":
        target = [draw(st.sampled_from([o for o in range(1, size + 1) if size % o == 0])) for size in sizes]
        count = torch.Size([i // o for i, o in zip(sizes, target, strict=True)]).numel()
        return getattr(library, f"AdaptiveAvgPool{axes}d")(tuple(target), **options), count.bit_count() == 1
    kernel = draw(st.sampled_from([2, 2, 3])) if min(sizes) > 2 else min(2, *sizes)
    padding = draw(st.sampled_from([0, kernel // 2]))
    stride = draw(st.sampled_from([kernel, 1]))
    module = getattr(library, f"{kind}{axes}d")(kernel, stride, padding, **options)
    return module, kind == "MaxPool" or kernel in (1, 2)


@st.composite
def configs(draw: Any) -> WeightConfig:
    """Every scheme, with scales by tensor, channel and group, found in every way."""
    per = draw(st.sampled_from(["channel", "tensor", "group"]))
    shared = {"per": per, "group_size": draw(st.sampled_from([1, 3, 8, 64])) if per == "group" else None}
    kind = draw(st.sampled_from(["ternary", "binary", "uniform"]))
    if kind == "ternary":
        return sxq.Ternary(scale=draw(st.sampled_from(["absmean", "twn", "mse", "learned"])), **shared)
    if kind == "binary":
        return sxq.Binary(center=draw(st.booleans()), scale=draw(st.sampled_from(["mean", "learned"])), **shared)
    scale = draw(st.sampled_from(["max", "mse"]))
    return sxq.Uniform(bits=draw(st.integers(2, 16)), scale=scale, **shared)


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.4).float()
