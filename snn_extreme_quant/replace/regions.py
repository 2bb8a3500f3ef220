"""Parts of a model where swapping a layer would change nothing, or break what holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import Framework
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.replace.fast_path import calls_its_layers
from snn_extreme_quant.replace.sites import Site, inside

__all__ = ["Region", "fed_back", "inner_leaves", "regions_of", "why_blocked"]


@dataclass(frozen=True)
class Region:
    """A module whose children are not swapped.

    Args:
        name: one name of the module.
        reason: why; "" if the module itself already tells (its children have nothing to add).
        open: names of children that are called like any layer and may be swapped all the same.
    """

    name: str
    reason: str
    open: tuple[str, ...] = ()

    def holds(self, name: str) -> bool:
        """Whether the module called ``name`` is inside, and not behind an open child."""
        return inside(name, self.name) and not any(name == child or inside(name, child) for child in self.open)


def _inner_layers(framework: Framework, neuron: nn.Module) -> Sequence[str]:
    """Return the attributes of a neuron that are layers which it calls; plugins need not know any."""
    known = getattr(framework, "inner_layers", None)
    return () if known is None else tuple(known(neuron))


def _child(outer: str, name: str) -> str:
    return f"{outer}.{name}" if outer else name


def regions_of(sites: Iterable[Site], frameworks: Sequence[Framework]) -> list[Region]:
    """Return the regions of a model."""
    found: list[Region] = []
    for site in sites:
        module = site.module
        if isinstance(module, IntegerFirst) or parametrize.is_parametrized(module):
            found += [Region(name, "") for name in site.names]
            continue
        kind = type(module).__name__
        if isinstance(module, nn.MultiheadAttention) or not calls_its_layers(module):
            found += [Region(name, f"{kind} reads the weights of its layers itself") for name in site.names]
            continue
        framework = next((f for f in frameworks if f.is_neuron(module)), None)
        if framework is not None:
            inner = _inner_layers(framework, module)
            for name in site.names:
                reason = f"inside the neuron {name!r}: {kind} is not known to call it like a layer"
                found.append(Region(name, reason, tuple(_child(name, attribute) for attribute in inner)))
    return found


def why_blocked(site: Site, regions: Iterable[Region]) -> str | None:
    """Return why a module may not be swapped ("" for a reason that was told already), or None if it may."""
    return next((region.reason for region in regions if any(region.holds(name) for name in site.names)), None)


def fed_back(sites: Iterable[Site], frameworks: Sequence[Framework]) -> set[nn.Module]:
    """Return the layers that carry a neuron's spikes back to it, and so are part of the neuron when it is deployed."""
    found: set[nn.Module] = set()
    for module in (site.module for site in sites):
        framework = next((f for f in frameworks if f.is_neuron(module)), None)
        if framework is None:
            continue
        try:
            recurrent = framework.read_neuron(module).recurrent
        except UnsupportedNeuronError:  # it can be trained, and is refused with the reason at export
            continue
        if recurrent is not None:
            found.add(recurrent)
    return found


def inner_leaves(sites: Iterable[Site], regions: Iterable[Region]) -> list[Site]:
    """Return what neurons call like a layer though it is none, and which holds a weight all the same.

    A vector of one weight for each neuron (``RLeaky(all_to_all=False)``) has no axis of inputs to quantise along, but
    must not be forgotten either.
    """
    opened = {name for region in regions for name in region.open}
    return [
        site
        for site in sites
        if opened.intersection(site.names) and not site.module._modules and _holds_a_tensor(site.module)
    ]


def _holds_a_tensor(module: nn.Module) -> bool:
    values = [*module._parameters.values(), *vars(module).values()]
    return any(isinstance(value, Tensor) for value in values)
