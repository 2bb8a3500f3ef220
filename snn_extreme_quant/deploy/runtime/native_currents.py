"""Joins neurons with what is computed before them value by value, for the kernels; in memory, never in a file."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    function_body,
    is_integer_layer,
    is_integer_neuron,
    is_layer,
    is_neuron,
)
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders

__all__ = ["CURRENTS", "VALUES", "Program", "fuse_currents", "program_before"]

#: The operators of these nodes, with neurons and without. No file has them.
CURRENTS, VALUES = "FusedCurrents", "FusedValues"
#: In the order of the kernels' numbers; each with how many constants it takes.
_OPERATIONS = {"Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Clip": 2, "Round": 0, "Floor": 0, "Relu": 0}
_NUMBERS = {name: number for number, name in enumerate((*_OPERATIONS, "Gelu"))}
_MOST_OPERATIONS = 16
#: Of operations that no neurons read.
_FEWEST = 2
#: What has the last axis of its first input; sums and products too, if one of both is known.
_KEEPS_LAST = frozenset({*_OPERATIONS, "Cast", "Erf", "Gelu", "Neg", "Sigmoid", "Softmax", "Tanh"})


@dataclass(frozen=True)
class _Step:
    """An operation on currents: what the kernel calls it, the value that it reads, its constants and its nodes."""

    operation: str
    source: str
    constants: list[str]
    nodes: list[onnx.NodeProto]


@dataclass
class Program:
    """Operations on currents, in the order in which they are computed.

    Args:
        source: the value that the first one reads.
        steps: the operations; each reads the one before, and nothing else does.
    """

    source: str
    steps: list[_Step]

    @property
    def numbers(self) -> list[int]:
        """What the kernel calls the operations."""
        return [_NUMBERS[step.operation] for step in self.steps]

    @property
    def constants(self) -> list[str]:
        """Names of their constants."""
        return [name for step in self.steps for name in step.constants]

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes that they stand for."""
        return [node for step in self.steps for node in step.nodes]


def program_before(value: str, look: GraphReaders, *, ends: bool = False) -> Program:
    """Return the operations with constants that make a value, as far back as nothing else reads what is between.

    Constants of one number for each element of the last axis count if that axis is known to have as many: a shorter
    one would be repeated along them.

    Args:
        value: its name.
        look: the graph.
        ends: whether others may read the value itself.
    """
    found = Program(value, [])
    uses = look.uses[value] if ends else 1
    while len(found.steps) < _MOST_OPERATIONS:
        node = look.makers.get(found.source) if look.uses[found.source] == uses else None
        step = None if node is None else _gelu(node, look) or _simple(node, look)
        if step is None:
            break
        lengths = {look.lengths.get(name, 1) for name in step.constants} - {1}
        if lengths and lengths != {last_length(step.source, look)}:
            break
        found = Program(step.source, [step, *found.steps])
        uses = 2 if step.operation == "Gelu" else 1
    return found


def _simple(node: onnx.NodeProto, look: GraphReaders) -> _Step | None:
    """An operation of one node."""
    if node.domain or node.op_type not in _OPERATIONS:
        return None
    inputs = list(node.input)
    if _OPERATIONS[node.op_type] != 1:
        fits = len(inputs) == 1 + _OPERATIONS[node.op_type] and all(_is_number(name, look) for name in inputs[1:])
        return _Step(node.op_type, inputs[0], inputs[1:], [node]) if fits else None
    for place in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        name, other = inputs[place], inputs[1 - place]
        if (_is_number(name, look) or look.lengths.get(name, 0) > 1) and name in look.floats and other in look.makers:
            return _Step(node.op_type, other, [name], [node])
    return None


def _gelu(node: onnx.NodeProto, look: GraphReaders) -> _Step | None:
    """X (c (erf(x / a) + b)) of three numbers, as torch's exporter writes a GELU."""
    if not _is(node, "Mul"):
        return None
    for place in (0, 1):
        source, chain, value = node.input[1 - place], [node], node.input[place]
        constants: list[str] = []
        for operation in ("Mul", "Add", "Erf", "Div"):
            maker = look.maker(value)
            if maker is None or not _is(maker, operation):
                break
            chain.insert(0, maker)
            numbers = [name for name in maker.input if _is_number(name, look)]
            if operation == "Erf":
                value = maker.input[0]
                continue
            if len(numbers) != 1 or (operation == "Div" and maker.input[1] != numbers[0]):
                break
            constants.insert(0, numbers[0])
            value = next(name for name in maker.input if name != numbers[0])
        else:
            if value == source:
                return _Step("Gelu", source, constants, chain)
    return None


def _is(node: onnx.NodeProto, operator: str) -> bool:
    return not node.domain and node.op_type == operator


def _is_number(name: str, look: GraphReaders) -> bool:
    return name in look.floats and (name in look.numbers or look.lengths.get(name, 0) == 1)


def last_length(value: str, look: GraphReaders) -> int | None:
    """Return the length of a value's last axis, if the constants before it tell.

    Args:
        value: its name.
        look: the graph.
    """
    node = look.makers.get(value)
    if node is None:
        return None
    if node.domain == DOMAIN and is_layer(node.op_type) and not is_integer_layer(node.op_type):
        columns = next((attribute.ints for attribute in node.attribute if attribute.name == "columns"), ())
        if columns:
            return int(columns[0])
        return look.lengths.get(node.input[2]) if "Linear" in node.op_type else None
    if node.domain == DOMAIN and is_neuron(node.op_type):
        return last_length(node.input[0], look)
    if node.domain:
        return None
    if node.op_type == "LayerNormalization":
        return look.lengths.get(node.input[1])
    if node.op_type == "Reshape":
        return look.last_of_shape(node.input[1])
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        known = {n for name in node.input if (n := look.lengths.get(name) or last_length(name, look)) is not None}
        return max(known) if known and max(known) > 1 else None  # one of length 1 is repeated
    return last_length(node.input[0], look) if node.op_type in _KEEPS_LAST else None


def fuse_currents(model: onnx.ModelProto, neurons: set[str]) -> set[str]:
    """Put one node in place of neurons and what is computed before them, in ``model`` itself; return its operators.

    So go two operations or more that no neurons read.

    Args:
        model: whose main graph is changed.
        neurons: operators of neurons that have kernels.
    """
    look = GraphReaders(model.graph)
    fused: dict[int, onnx.NodeProto] = {}
    gone: list[onnx.NodeProto] = []
    taken: set[int] = set()
    for node in reversed(model.graph.node):
        if id(node) in taken:
            continue
        made, nodes = _with_neurons(node, look, neurons) or _alone(node, look) or (None, [])
        if made is not None:
            fused[id(node)] = made
            gone += nodes
            taken |= {id(one) for one in nodes}
    if fused:
        look.replace(fused, gone, {output for node in gone if id(node) not in fused for output in node.output})
    return {node.op_type for node in fused.values()}


def _with_neurons(
    node: onnx.NodeProto, look: GraphReaders, neurons: set[str]
) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    name = node.op_type
    if node.domain != DOMAIN or name not in neurons or not is_neuron(name) or is_integer_neuron(name):
        return None
    if "_fed_" in name or len(function_body(name).output) != 1:
        return None
    program = program_before(node.input[0], look)
    if not program.steps:
        return None
    made = helper.make_node(
        CURRENTS, [program.source, *program.constants, *node.input[1:]], node.output, node.name, domain=DOMAIN,
        neuron=name, program=program.numbers,
    )  # fmt: skip
    made.attribute.extend(node.attribute)
    return made, [*program.nodes, node]


def _alone(node: onnx.NodeProto, look: GraphReaders) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """Operations that end with this node."""
    if node.domain or node.op_type not in _OPERATIONS:
        return None
    program = program_before(node.output[0], look, ends=True)
    # Currents of the products of spikes are floats; of other values the type is not known.
    if len(program.steps) < _FEWEST or not _is_float(program.source, look):
        return None
    made = helper.make_node(
        VALUES, [program.source, *program.constants], node.output, node.name, domain=DOMAIN, program=program.numbers
    )
    return made, program.nodes


def _is_float(value: str, look: GraphReaders) -> bool:
    """Whether a value is known to be of 32-bit floats."""
    node = look.makers.get(value)
    if node is None:
        return False
    if node.domain == DOMAIN:
        return is_layer(node.op_type) and not is_integer_layer(node.op_type) and not node.op_type.endswith("LinearSums")
    return _is(node, "Cast") and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
