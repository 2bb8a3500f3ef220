"""``from_nir``: a NIR graph as a model."""

from __future__ import annotations

import graphlib
import keyword
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from snn_extreme_quant.errors import (
    ConfigError,
    ModelEditedError,
    ModelFileError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exchange.dependency import require_nir
from snn_extreme_quant.exchange.layers import layer_from_node
from snn_extreme_quant.exchange.metadata import KEY, about, check_weight, codes_of, reading_of
from snn_extreme_quant.exchange.neurons import candidates, fields_of
from snn_extreme_quant.frameworks import Framework, NeuronReading, frameworks
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.registry import suggest
from snn_extreme_quant.replace import quantize_

__all__ = ["from_nir"]


def from_nir(graph: Any, framework: str | None = None, *, dt: float | None = None) -> nn.Module:
    r"""Return the model that a NIR graph describes.

    A graph of :func:`to_nir` gives the model back: quantised layers with the same codes and scales, neurons with the
    same spec, parameters and way of being called. A graph of another program gives float layers, and the framework's
    neuron that computes the node's Euler step. The latent weights are not part of NIR: training goes on from
    :math:`\gamma c`.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file that ``nir.write`` wrote.
        framework: whose neurons to make, ``"snntorch"`` or ``"spikingjelly"``; by default those the graph came from.
        dt: :math:`\Delta t` in seconds, to which time constants refer; by default the graph's own, else 1e-4. It does
            not matter for neurons that carry our metadata.

    Returns:
        A ``torch.fx.GraphModule`` whose modules are named like the nodes. It takes one time step ``(B, ...)``, or
        ``(T, B, ...)`` if the graph was made from a multi-step model.

    Raises:
        UnsupportedModelError: there is no layer for a node, or the graph has loops or several inputs or outputs.
        UnsupportedNeuronError: the framework has no neuron that computes what a node does.
        ModelFileError: the file or the metadata is damaged.
        ModelEditedError: a weight or neuron was changed after :func:`to_nir`.
        ConfigError: the framework is unknown or must be named.
        MissingDependencyError: the package ``nir`` is not installed.

    Example:
        >>> import nir, numpy
        >>> lif = nir.LIF(*(numpy.full(2, value) for value in (1e-3, 10.0, 0.0, 1.0)))
        >>> graph = nir.NIRGraph.from_list(nir.Linear(numpy.ones((2, 3))), lif)
        >>> from_nir(graph, "snntorch")(torch.ones(1, 3)).tolist()
        [[1.0, 1.0]]
    """
    nir = require_nir()
    if isinstance(graph, (str, Path)):
        graph = _load(nir, graph)
    if not isinstance(graph, nir.NIRGraph):
        raise UnsupportedModelError(f"from_nir() takes a nir.NIRGraph or a path; got {type(graph).__name__}.")
    own = about(graph) or {}
    target = _framework(framework or own.get("framework"))
    step = float(dt if dt is not None else own.get("dt", 1e-4))
    if not 0.0 < step < float("inf"):
        raise ConfigError(f"from_nir(dt={dt!r}): give the length of a time step in seconds, above 0.")
    multi_step = bool(own.get("multi_step", False))
    order, sources = _wiring(nir, graph)
    modules: dict[str, nn.Module] = {}
    for name in order:
        node = graph.nodes[name]
        if isinstance(node, (nir.Input, nir.Output)):
            continue
        neurons = _neurons(name, node, step)
        if neurons is None:
            modules[name] = _layer(name, node, target, multi_step)
        else:
            modules[name] = _written(name, neurons, target)
    return _assembled(nir, graph, order, sources, modules)


def _load(nir: Any, path: str | Path) -> Any:
    try:
        return nir.read(path)
    except Exception as error:  # h5py and nir raise many types for files that are not theirs
        raise ModelFileError(f"{path} cannot be read as a NIR graph: {error!r}.") from error


def _framework(name: str | None) -> Framework | None:
    loaded = {f.name: f for f in frameworks()}
    if name is None:
        return None
    if name not in loaded:
        raise ConfigError(f"No framework is called {name!r}. {suggest(name, loaded)}")
    return loaded[name]


def _wiring(nir: Any, graph: Any) -> tuple[list[str], dict[str, list[str]]]:
    """Return node names in an order of evaluation, and each node's sources in the order of their addition."""
    kinds = (nir.Input, nir.Output)
    for kind in kinds:
        found = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise UnsupportedModelError(f"The graph has {len(found)} {kind.__name__} nodes; models have one.")
    nested = [name for name, node in graph.nodes.items() if isinstance(node, nir.NIRGraph)]
    if nested:
        raise UnsupportedModelError(
            f"Node {nested[0]!r} is a graph of its own, as recurrent layers are; not supported."
        )
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, node in graph.edges:
        if source not in sources or node not in sources:
            raise ModelFileError(f"The graph has an edge {source!r} -> {node!r}, and not both nodes.")
        sources[node].append(source)
    for name, node in graph.nodes.items():
        if not sources[name] and not isinstance(node, nir.Input):
            raise UnsupportedModelError(f"Node {name!r} has no input.")
    try:
        return list(graphlib.TopologicalSorter(sources).static_order()), sources
    except graphlib.CycleError as error:
        raise UnsupportedModelError(
            f"The graph has the loop {' -> '.join(error.args[1])}: recurrent networks are not supported."
        ) from error


def _neurons(name: str, node: Any, dt: float) -> list[NeuronReading] | None:
    """Return what neurons a node may be: one if it is ours, candidates if not, None if it is none."""
    found = candidates(name, node, dt)
    own = about(node)
    if found is None or own is None:
        return found
    reading = reading_of(name, own)
    _check_fields(name, node, reading, own)
    return [reading]


def _check_fields(name: str, node: Any, reading: NeuronReading, own: Mapping[str, Any]) -> None:
    """Refuse a neuron whose NIR fields are no longer those of its metadata."""
    kind, fields = fields_of(reading, np.shape(node.v_threshold), float(own.get("dt", 1e-4)))
    if type(node).__name__ != kind or not all(np.allclose(getattr(node, key), fields[key]) for key in fields):
        raise ModelEditedError(
            f"The neuron of node {name!r} is not that of its metadata: it was changed after to_nir(). Delete"
            f" node.metadata[{KEY!r}] to load it as NIR has it."
        )


def _written(name: str, readings: list[NeuronReading], framework: Framework | None) -> nn.Module:
    """Return the framework's neuron for the first reading that it has one for."""
    if framework is None:
        raise ConfigError('The graph does not say of which framework it is; name it: from_nir(graph, "snntorch").')
    write: Any = getattr(framework, "write_neuron", None)
    if write is None:
        raise UnsupportedNeuronError(f"The plugin {framework.name!r} cannot make neurons: it has no write_neuron().")
    reasons = []
    for reading in readings:
        try:
            neuron: nn.Module = write(reading)
        except UnsupportedNeuronError as error:
            reasons.append(str(error))
            continue
        _check_neuron(name, framework, neuron, reading)
        return neuron
    raise UnsupportedNeuronError(
        f"{framework.name} has no neuron for node {name!r}: {' '.join(reasons) or 'its v_leak or v_reset is not 0.'}"
    )


def _check_neuron(name: str, framework: Framework, neuron: nn.Module, wanted: NeuronReading) -> None:
    """Refuse a neuron that does not read back as what it was made from."""
    got = framework.read_neuron(neuron)
    same = got.spec == wanted.spec and all(
        bool((got.parameters[key] == value).all()) for key, value in wanted.parameters.items()
    )
    same &= all(got.initial.get(state, 0.0) == wanted.initial.get(state, 0.0) for state in wanted.spec.states)
    if not same or got.returns_state != wanted.returns_state or got.multi_step != wanted.multi_step:
        raise UnsupportedNeuronError(
            f"Node {name!r}: {framework.name}'s {type(neuron).__name__} cannot be given exactly these parameters."
        )


def _layer(name: str, node: Any, framework: Framework | None, multi_step: bool) -> nn.Module:
    own = about(node) or {}
    float_layer = layer_from_node(name, node, bool(own.get("bias", True)), int(own.get("groups", 1)))
    write = getattr(framework, "write_layer", None)
    if write is not None:
        float_layer = write(float_layer, multi_step)
    if "codes" not in own:
        return float_layer
    codes, scale, config = codes_of(name, own)
    holder = nn.Sequential(float_layer)
    quantize_(holder, config)
    layer = holder[0]
    assert isinstance(layer, IntegerFirst)  # noqa: S101 - quantize_ raises otherwise
    layer.quantizer.fix_scale(scale.reshape(len(scale), -1))
    got_codes, got_scale = layer.integer_weight()
    if not torch.equal(got_codes, codes) or not torch.equal(got_scale.reshape(-1), scale.reshape(-1)):
        raise ModelEditedError(
            f"Node {name!r}: the codes in the metadata are not those of its weight; one of the two was changed."
        )
    check_weight(name, float_layer.get_parameter("weight"), layer.to_float().get_parameter("weight"))
    return layer


def _assembled(
    nir: Any, graph: Any, order: list[str], sources: dict[str, list[str]], modules: dict[str, nn.Module]
) -> nn.Module:
    targets = _targets(modules)
    traced = fx.Graph()
    values: dict[str, Any] = {}
    for name in order:
        node = graph.nodes[name]
        if isinstance(node, nir.Input):
            values[name] = traced.placeholder("input")
            continue
        signal = values[sources[name][0]]
        for source in sources[name][1:]:
            signal = traced.call_function(operator.add, (signal, values[source]))
        if isinstance(node, nir.Output):
            traced.output(signal)
        else:
            values[name] = traced.call_module(targets[name], (signal,))
    return fx.GraphModule({targets[name]: module for name, module in modules.items()}, traced, "FromNIR")


def _targets(names: Iterable[str]) -> dict[str, str]:
    """Return the name of the module for each node: the node's, but where Python or torch do not allow it."""
    targets: dict[str, str] = {}
    for name in names:
        parts = [part or "_" for part in name.split(".")]
        # What a module has already (forward, train), and "if", which is what nir calls a node of type IF.
        parts = [f"{part}_" if keyword.iskeyword(part) or hasattr(fx.GraphModule, part) else part for part in parts]
        target = ".".join(parts)
        if any(other.startswith(f"{name}.") for other in names) or target in targets.values():
            target = f"{'_'.join(parts)}_{len(targets)}"
        targets[name] = target
    return targets
