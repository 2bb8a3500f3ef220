"""Joins neurons with what is computed before them value by value, as one node for the kernels; in memory, never in a file."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from .functions import DOMAIN, function_body, is_integer_layer, is_integer_neuron, is_layer, is_neuron
from .graph_readers import GraphReaders

__all__ = ["CURRENTS", "Program", "fuse_currents", "program_before"]

#: How the operators of these nodes begin. No file has them.
CURRENTS = "FusedCurrents"
#: In the order of the kernels' numbers; each with how many constants it takes.
_OPERATIONS = {"Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Clip": 2, "Round": 0, "Floor": 0, "Relu": 0}
_NUMBERS = {name: number for number, name in enumerate(_OPERATIONS)}
_MOST_OPERATIONS = 16
#: What has the last axis of its first input; sums and products too, if one of both is known.
_KEEPS_LAST = frozenset({*_OPERATIONS, "Cast", "Erf", "Gelu", "LayerNormalization", "Neg", "Sigmoid", "Softmax", "Tanh"})


@dataclass
class Program:
    """Operations on currents, in the order in which they are computed.

    Args:
        source: the value that the first one reads.
        nodes: the operations; each reads the one before, and nothing else does.
    """

    source: str
    nodes: list[onnx.NodeProto]

    @property
    def numbers(self) -> list[int]:
        """What the kernel calls the operations."""
        return [_NUMBERS[node.op_type] for node in self.nodes]

    def constants(self, look: GraphReaders) -> list[str]:
        """Return the names of their constants."""
        return [name for node in self.nodes for name in _constants(node, look) or ()]


def program_before(value: str, look: GraphReaders) -> Program:
    """Return the operations with constants that make a value, as far back as nothing else reads what is between.

    Constants of one number for each element of the last axis count if that axis is known to have as many: a shorter
    one would be repeated along them.
    """
    found = Program(value, [])
    while len(found.nodes) < _MOST_OPERATIONS:
        node = look.maker(found.source)
        constants = None if node is None else _constants(node, look)
        if node is None or constants is None:
            break
        before = next((name for name in node.input if name not in constants), "")
        lengths = {look.lengths.get(name, 1) for name in constants} - {1}
        if not before or (lengths and lengths != {last_length(before, look)}):
            break
        found = Program(before, [node, *found.nodes])
    return found


def _constants(node: onnx.NodeProto, look: GraphReaders) -> list[str] | None:
    """The constants that an operation computes with; None if it is none of ours."""
    if node.domain or node.op_type not in _OPERATIONS:
        return None
    wanted = _OPERATIONS[node.op_type]
    inputs = list(node.input)
    if wanted == 1:
        places = (1, 0) if node.op_type in ("Add", "Mul") else (1,)
        inputs = next((inputs[i : i + 1] for i in places if _is_constant(inputs[i], look)), [])
    elif len(inputs) != 1 + wanted or not all(_is_constant(name, look, one=True) for name in inputs[1:]):
        return None
    else:
        inputs = inputs[1:]
    return inputs if len(inputs) == wanted else None


def _is_constant(name: str, look: GraphReaders, *, one: bool = False) -> bool:
    if name not in look.floats:
        return False
    return name in look.numbers or look.lengths.get(name, 0) == 1 or (not one and look.lengths.get(name, 0) > 1)


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

    Args:
        model: whose main graph is changed.
        neurons: operators of neurons that have kernels.
    """
    look = GraphReaders(model.graph)
    fused: dict[int, onnx.NodeProto] = {}
    gone: list[onnx.NodeProto] = []
    for node in model.graph.node:
        name = node.op_type
        if node.domain != DOMAIN or name not in neurons or not is_neuron(name) or is_integer_neuron(name):
            continue
        if "_fed_" in name or len(function_body(name).output) != 1:
            continue
        program = program_before(node.input[0], look)
        if not program.nodes:
            continue
        fused[id(node)] = helper.make_node(
            f"{CURRENTS}_float", [program.source, *program.constants(look), *node.input[1:]], node.output, node.name,
            domain=DOMAIN, neuron=name, program=program.numbers,
        )  # fmt: skip
        fused[id(node)].attribute.extend(node.attribute)
        gone += [*program.nodes, node]
    if fused:
        look.replace(fused, gone, {output for node in gone if id(node) not in fused for output in node.output})
    return {node.op_type for node in fused.values()}


