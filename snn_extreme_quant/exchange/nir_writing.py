"""``to_nir``: a model as a NIR graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError, UnsupportedModelError, UnsupportedNeuronError
from snn_extreme_quant.exchange.checking import check_spikes
from snn_extreme_quant.exchange.dependency import require_nir
from snn_extreme_quant.exchange.layers import node_from_layer
from snn_extreme_quant.exchange.metadata import pack_about, pack_codes, pack_neuron
from snn_extreme_quant.exchange.neurons import fields_of, losses_of
from snn_extreme_quant.exchange.tracing import INPUT, Flow, FlowNode, trace
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.layers import IntegerFirst

__all__ = ["to_nir"]


def to_nir(model: nn.Module, sample: Tensor | None = None, *, dt: float = 1e-4, exact: bool = False) -> Any:
    r"""Return ``model`` as a graph of the Neuromorphic Intermediate Representation.

    A quantised layer becomes a Linear, Affine or Conv node with the weight :math:`\gamma c`, a neuron the node that
    it is one Euler step of. The nodes' metadata carries codes, scales, bit width, configs and exact neuron specs, from
    which :func:`from_nir` makes the same model again; other programs read the nodes. ``nir.write`` stores the graph.

    Source: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 15 (2024).

    Args:
        model: layers and neurons whose ``forward`` computes one time step, or a multi-step model. It is evaluated:
            dropout is left out.
        sample: one call's input, ``(B, ...)``, or ``(T, B, ...)`` if multi-step. May be left out if the model starts
            with a linear layer. If given, the model and ``from_nir`` of the graph are called with it four times in a
            row, and must give the same spikes: give one that makes neurons fire.
        dt: :math:`\Delta t` of a step in seconds, to which NIR's time constants refer; the frameworks' own is 1e-4.
        exact: refuse neurons that other programs would compute otherwise; see :func:`nir_losses` for the reasons.

    Returns:
        A ``nir.NIRGraph`` whose nodes are named like the model's modules.

    Raises:
        UnsupportedModelError: the model holds or does what NIR has no node for, has forward hooks, writes to attributes
            of modules in ``forward``, or gives other spikes on the sample than the graph.
        UnsupportedNeuronError: a neuron has no exact spec or no NIR node, or not exactly and ``exact`` is set.
        SampleError: the sample is missing or does not fit.
        MissingDependencyError: the package ``nir`` is not installed.

    Example:
        >>> import snntorch
        >>> from snn_extreme_quant import Ternary, quantize_
        >>> net = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.9, init_hidden=True))
        >>> report = quantize_(net, Ternary())
        >>> graph = to_nir(net)
        >>> {name: type(node).__name__ for name, node in graph.nodes.items()}
        {'input': 'Input', '0': 'Affine', '1': 'LIF', 'output': 'Output'}
    """
    nir = require_nir()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"to_nir() takes a torch.nn.Module; got {type(model).__name__}.")
    if not 0.0 < dt < float("inf"):
        raise ConfigError(f"to_nir(dt={dt!r}): give the length of a time step in seconds, above 0.")
    flow = trace(model, sample)
    lead = 2 if flow.multi_step else 1
    nodes: dict[str, Any] = {INPUT: nir.Input(input_type=_shape(flow.input_shape, lead))}
    for at in flow.nodes:
        if at.name in (INPUT, "output"):
            raise UnsupportedModelError(f"A module is called {at.name!r}, as NIR's own node is; give it another name.")
        nodes[at.name] = _neuron(nir, at, flow, lead, dt, exact) if at.reading else _layer(nir, at, lead)
    last = next(at for at in flow.nodes if at.name == flow.output[0])
    nodes["output"] = nir.Output(output_type=_shape(last.output_shape, lead))
    edges = [(source, at.name) for at in flow.nodes for source in at.sources]
    edges += [(source, "output") for source in flow.output]
    names = sorted({neuron.framework.name for neuron in neurons_of(model)})
    metadata = pack_about({"framework": names[0] if len(names) == 1 else None, "dt": dt, "multi_step": flow.multi_step})
    try:
        graph = nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise UnsupportedModelError(f"nir refuses the graph: {error}") from error
    if sample is not None:
        check_spikes(model, graph, sample, fires=last.reading is not None)
    return graph


def _shape(shape: tuple[int, ...], lead: int) -> Any:
    return np.array(shape[lead:])


def _layer(nir: Any, at: FlowNode, lead: int) -> Any:
    node = node_from_layer(nir, at, lead)
    about = {"bias": getattr(at.module, "bias", None) is not None, "groups": getattr(at.module, "groups", 1)}
    node.metadata = pack_codes(at.module, about) if isinstance(at.module, IntegerFirst) else pack_about(about)
    return node


def _neuron(nir: Any, at: FlowNode, flow: Flow, lead: int, dt: float, exact: bool) -> Any:
    reading = at.reading
    assert reading is not None  # noqa: S101 - the caller's condition, for mypy
    lost = losses_of(reading)
    if exact and lost:
        raise UnsupportedNeuronError(
            f"Layer {at.name!r} is not exactly a NIR neuron: {'; '.join(lost)}. Leave exact=False to carry it in the"
            " metadata, which from_nir() reads."
        )
    shape = at.output_shape[lead:]
    try:
        kind, fields = fields_of(reading, shape, dt)
    except UnsupportedNeuronError as error:
        raise UnsupportedNeuronError(f"Layer {at.name!r}: {error}") from error
    # Only the last neuron's state leaves the model; the others' is dropped inside.
    returns_state = flow.returns_state and flow.output == (at.name,)
    metadata = pack_neuron(reading, {"returns_state": returns_state, "losses": lost, "dt": dt})
    return getattr(nir, kind)(**fields, metadata=metadata)
