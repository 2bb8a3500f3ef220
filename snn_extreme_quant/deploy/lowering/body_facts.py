"""What holds for all nodes of one operator in a file, and lets the body in that file leave something out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from snn_extreme_quant.exported.operators import DOMAIN, is_integer_neuron, is_layer, is_neuron, layout_of
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = ["GENERAL", "BodyFacts", "body_facts"]

_Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
_Constant = Callable[[str], _Array | None]


@dataclass(frozen=True)
class BodyFacts:
    """Facts, each of which makes a part of a body do nothing. A body that uses them gives the same bits.

    Args:
        full_bytes: the columns of the codes fill their bytes, so nothing is cut off what was unpacked.
        bare: only sequences of neurons read the result, so no runtime can merge an addition into the product.
        scalar_states: every neuron of a layer starts from the same state.
        rests_at_zero: the potential leaks to 0, so ``v - rest`` is ``v``.
        halves: ``tau`` is a power of two, so ``v / tau`` is ``v * (1 / tau)``, bit for bit.
    """

    full_bytes: bool = False
    bare: bool = False
    scalar_states: bool = False
    rests_at_zero: bool = False
    halves: bool = False


#: Nothing is known: the body for every file.
GENERAL = BodyFacts()


def body_facts(operator: str, graph: onnx.GraphProto) -> BodyFacts:
    """Return what holds for every node of ``operator`` in a graph.

    Args:
        operator: name of an operator in our domain.
        graph: the main graph of a file that uses it.

    Example:
        >>> from onnx import parser
        >>> graph = parser.parse_graph("g (float[4, 3] x) => (float[4, 3] y) {y = Neg (x)}")
        >>> body_facts("LIF_relax_ge_zero_same_step", graph)
        BodyFacts(full_bytes=False, bare=False, scalar_states=False, rests_at_zero=False, halves=False)
    """
    nodes = [node for node in graph.node if node.domain == DOMAIN and node.op_type == operator]
    if not nodes:
        return GENERAL
    arrays = {constant.name: constant for constant in graph.initializer}

    def constant(name: str) -> _Array | None:
        return numpy_helper.to_array(arrays[name]) if name in arrays else None

    if is_layer(operator):
        shapes = {name: tuple(stored.dims) for name, stored in arrays.items()}
        return BodyFacts(
            full_bytes=all(_fills_bytes(node, layout_of(operator), shapes) for node in nodes),
            bare=_read_by_neurons(graph, {node.output[0] for node in nodes}),
        )
    if is_neuron(operator) and not is_integer_neuron(operator):
        return _neuron_facts(operator, nodes, constant)
    return GENERAL


def _fills_bytes(node: onnx.NodeProto, layout: str, shapes: Mapping[str, Sequence[int]]) -> bool:
    packed, scale = (shapes.get(name) for name in (*node.input, "", "")[1:3])
    if not packed or not scale:
        return False
    kind = LAYOUTS[layout]
    return kind.fits(scale[0]) and packed[-1] == kind.packed_columns(scale[0])


def _read_by_neurons(graph: onnx.GraphProto, results: set[str]) -> bool:
    if results & {value.name for value in graph.output}:
        return False
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            return False  # what a graph within reads does not show here
        if results & set(node.input) and not _begins_with_a_loop(node):
            return False
    return True


def _begins_with_a_loop(node: onnx.NodeProto) -> bool:
    """Whether a node is a layer of neurons whose body only reshapes its input outside the loop over the steps."""
    from snn_extreme_quant.deploy.lowering.neuron_functions import NeuronFunction

    if node.domain != DOMAIN or not is_neuron(node.op_type) or is_integer_neuron(node.op_type):
        return False
    return NeuronFunction.from_name(node.op_type).flattened


def _neuron_facts(operator: str, nodes: Sequence[onnx.NodeProto], constant: _Constant) -> BodyFacts:
    from snn_extreme_quant.deploy.lowering.neuron_functions import NeuronFunction

    function = NeuronFunction.from_name(operator)
    if function.step or function.vector or not function.flattened:
        return GENERAL

    def each(name: str, holds: Callable[[_Array], bool]) -> bool:
        place = function.inputs.index(name)
        values = [constant(node.input[place]) for node in nodes]
        return all(value is not None and holds(value) for value in values)

    known = function.spec.parameter_names
    return BodyFacts(
        scalar_states=all(each(f"{state}0", lambda v: v.ndim <= 1 and v.size == 1) for state in function.spec.states),
        rests_at_zero="rest" in known and each("rest", lambda v: not v.any()),
        halves="tau" in known and each("tau", lambda v: all(_is_power_of_two(float(tau)) for tau in v.ravel())),
    )


def _is_power_of_two(value: float) -> bool:
    """Whether the reciprocal of a float is exact, and no subnormal number."""
    return math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5 and 2.0**-64 <= abs(value) <= 2.0**64
