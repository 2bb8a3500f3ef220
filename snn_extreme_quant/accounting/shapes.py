"""The weights of a model as shapes, as an exported file stores them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from snn_extreme_quant.accounting.memory import WeightKind, WeightShape
from snn_extreme_quant.config import Float
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.frameworks import frameworks_for
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.replace.regions import regions_of, why_blocked
from snn_extreme_quant.replace.sites import Site, sites_of
from snn_extreme_quant.replace.targets import TORCH_LAYERS, target_of

__all__ = ["weight_shapes"]

_BatchNorm = nn.modules.batchnorm._BatchNorm
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def weight_shapes(model: nn.Module) -> tuple[WeightShape, ...]:
    """Return the weights of a model, for :func:`~snn_extreme_quant.accounting.weight_memory`.

    Matrices are those of layers that :func:`~snn_extreme_quant.quantize_` swaps or has swapped. A layer that is
    shared counts once; so does a weight that two layers share, as a file stores it, if both have the same precision
    (the files of a model with ``unties`` hold one for each). All else is a ``"Parameter"``: biases, norms, learned
    scales not (they are the layer's scales). A batch norm counts one number a
    channel: it is folded, and only its shift is left.

    Raises:
        UnsupportedModelError: a layer is lazy and has no shape yet.

    Example:
        >>> [(w.name, w.shape, w.kind) for w in weight_shapes(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))]
        [('0', (2, 4), 'Linear'), ('0.bias', (2,), 'Parameter')]
    """
    sites = sites_of(model)
    loaded = frameworks_for(model)
    known = dict(TORCH_LAYERS)
    for framework in loaded:
        known.update(framework.layers())
    regions = regions_of(sites, loaded)
    fixed = getattr(getattr(model, "config", None), "fixed_precisions", {})
    found: list[WeightShape] = []
    seen: set[int] = set()
    unties, firsts = getattr(model, "unties", False), dict[int, str]()
    for site in sites:
        if any(p is not None and is_lazy(p) for p in site.module._parameters.values()):
            raise UnsupportedModelError(f"Layer {site.names[0]!r} is lazy and has no shape yet; run the model once.")
        swappable = isinstance(site.module, IntegerFirst) or (
            why_blocked(site, regions) is None and target_of(site.module, known, loaded=False)[0] is not None
        )
        if swappable:
            weight: Any = site.module.weight
            first = site.names[0] if unties else firsts.setdefault(id(weight), site.names[0])
            given, _ = fixed.get(site.names[0], (Float(), ""))
            found.append(_matrix(site, "" if first == site.names[0] else first)._replace(fixed=given))
        found += _others(site, "weight" if swappable else "", seen)
    return tuple(found)


def _matrix(site: Site, tied: str) -> WeightShape:
    layer: Any = site.module
    shape = tuple(layer.weight.shape)
    kind: WeightKind = "Conv" if len(shape) > 2 else "Linear"
    if isinstance(layer, nn.Embedding):
        kind = "Embedding"
    elif isinstance(layer, _TRANSPOSED) or getattr(layer, "transposed", False):
        kind = "ConvTranspose"
        shape = (layer.out_channels, layer.in_channels // layer.groups, *shape[2:])
    config = layer.config if isinstance(layer, IntegerFirst) else Float()
    return WeightShape(site.names[0], shape, kind, config, site.names[1:], tied)


def _others(site: Site, matrix: str, seen: set[int]) -> list[WeightShape]:
    """Return the parameters of a module itself, but for its matrix, each once; those of a quantiser are its scales."""
    name, module = site.names[0], site.module
    if isinstance(module, _BatchNorm):
        return [WeightShape(f"{name}.shift", (int(module.num_features),), "Parameter")]
    own = [(key, value) for key, value in module._parameters.items() if value is not None and key != matrix]
    new = [(key, value) for key, value in own if id(value) not in seen]
    seen.update(id(value) for _, value in new)
    inner = "weight_quant" in name.split(".")
    return [
        WeightShape(f"{name}.{key}" if name else key, tuple(value.shape), "Parameter")
        for key, value in new
        if not inner and value.numel()
    ]
