"""Joins neurons with what is computed before them value by value, for the kernels; in memory, never in a file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

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
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, is_standard
from snn_extreme_quant.deploy.runtime.native_rows import (
    OPERATIONS,
    Step,
    is_number,
    last_length,
    row_step,
    shift_norm_step,
)

__all__ = ["COUNTS", "CURRENTS", "VALUES", "Program", "fuse_currents", "program_before"]

#: The operators of these nodes, with neurons, with neurons that give counts, and without. No file has them.
CURRENTS, COUNTS, VALUES = "FusedCurrents", "FusedCounts", "FusedValues"
#: In the order of the kernels' numbers.
_NUMBERS = {
    name: number
    for number, name in enumerate(
        (*OPERATIONS, "Gelu", "Residual", "Carried", "Counted", "RowNorm", "RowShiftNorm")
    )
}  # fmt: skip
_MOST_OPERATIONS = 16
#: Of operations that no neurons read.
_FEWEST = 2
_NORMS = frozenset({"RowNorm", "RowShiftNorm"})
#: Synchronous neurons that read currents, and those that read integer sums.
_COUNTING = frozenset({"SynchronousCounts", "SynchronousCounts_signed", "SynchronousRounded"})
_FOLDED = "SynchronousFolded"


@dataclass
class Program:
    """Operations on currents, in the order in which they are computed.

    Args:
        source: the value that the first one reads.
        steps: the operations; each reads the one before, and nothing else does.
    """

    source: str
    steps: list[Step]

    @property
    def numbers(self) -> list[int]:
        """What the kernel calls the operations."""
        return [_NUMBERS[step.operation] for step in self.steps]

    @property
    def constants(self) -> list[str]:
        """Names of their constants."""
        return [name for step in self.steps for name in step.constants]

    @property
    def attributes(self) -> dict[str, Any]:
        """What the kernel is told about them."""
        told: dict[str, Any] = {"program": self.numbers}
        for step in self.steps:
            told |= step.attributes
        return told

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes that they stand for."""
        return [node for step in self.steps for node in step.nodes]


def program_before(value: str, look: GraphReaders, *, ends: bool = False, rows: bool = False) -> Program:
    """Return the operations with constants that make a value, as far back as nothing else reads what is between.

    Constants of one number for each element of the last axis count if that axis is known to have as many: a shorter
    one would be repeated along them.

    Args:
        value: its name.
        look: the graph.
        ends: whether others may read the value itself.
        rows: whether operations on whole rows, one norm at most, and on values beside them are wanted, too.
    """
    return _extended(Program(value, []), look, look.uses[value] if ends else 1, rows=rows)


def _extended(found: Program, look: GraphReaders, uses: int, *, rows: bool) -> Program:
    """Add the operations before those that are found, whose first value has so many readers."""
    while len(found.steps) < _MOST_OPERATIONS:
        node = look.makers.get(found.source) if look.uses[found.source] == uses else None
        step = None if node is None else _gelu(node, look) or _simple(node, look)
        if step is None and node is not None and rows:
            step = row_step(node, look)
        if step is None or (step.operation in _NORMS and any(other.operation in _NORMS for other in found.steps)):
            break
        lengths = {look.lengths.get(name, 1) for name in step.constants} - {1}
        if lengths and lengths != {last_length(step.source, look)}:
            break
        found = Program(step.source, [step, *found.steps])
        uses = 2 if step.operation == "Gelu" else 1
    return found


def _simple(node: onnx.NodeProto, look: GraphReaders) -> Step | None:
    """An operation of one node."""
    if node.domain or node.op_type not in OPERATIONS:
        return None
    inputs = list(node.input)
    if OPERATIONS[node.op_type] != 1:
        fits = len(inputs) == 1 + OPERATIONS[node.op_type] and all(is_number(name, look) for name in inputs[1:])
        return Step(node.op_type, inputs[0], inputs[1:], [node]) if fits else None
    for place in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        name, other = inputs[place], inputs[1 - place]
        if (is_number(name, look) or look.lengths.get(name, 0) > 1) and name in look.floats and other in look.makers:
            return Step(node.op_type, other, [name], [node])
    return None


def _gelu(node: onnx.NodeProto, look: GraphReaders) -> Step | None:
    """X (c (erf(x / a) + b)) of three numbers, as torch's exporter writes a GELU; if b is 1, a and c may be missing."""
    if not is_standard(node, "Mul"):
        return None
    for place, operations in itertools.product((0, 1), (("Mul", "Add", "Erf", "Div"), ("Add", "Erf"))):
        source, chain, value = node.input[1 - place], [node], node.input[place]
        constants: list[str] = []
        for operation in operations:
            maker = look.maker(value)
            if maker is None or not is_standard(maker, operation):
                break
            chain.insert(0, maker)
            numbers = [name for name in maker.input if is_number(name, look)]
            if operation == "Erf":
                value = maker.input[0]
                continue
            if len(numbers) != 1 or (operation == "Div" and maker.input[1] != numbers[0]):
                break
            constants.insert(0, numbers[0])
            value = next(name for name in maker.input if name != numbers[0])
        else:
            if len(constants) == 1:
                constants *= 3 if constants[0] in look.ones else 0
            if value == source and constants:
                return Step("Gelu", source, constants, chain)
    return None


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
        found = _with_neurons(node, look, neurons) or _counted(node, look, neurons) or _alone(node, look)
        made, nodes = found or (None, [])
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
    return _joined(CURRENTS, node, program_before(node.input[0], look, rows=True))


def _counted(
    node: onnx.NodeProto, look: GraphReaders, neurons: set[str]
) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """Synchronous neurons; those that are folded behind a norm."""
    if node.domain != DOMAIN or node.op_type not in neurons:
        return None
    if node.op_type in _COUNTING:
        return _joined(COUNTS, node, program_before(node.input[0], look, rows=True))
    norm = shift_norm_step(node.input[0], look, []) if node.op_type == _FOLDED else None
    if norm is None:
        return None
    return _joined(COUNTS, node, _extended(Program(norm.source, [norm]), look, 1, rows=True))


def _joined(
    operator: str, node: onnx.NodeProto, program: Program
) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """One node of neurons and the program before them."""
    if not program.steps:
        return None
    made = helper.make_node(
        operator, [program.source, *program.constants, *node.input[1:]], node.output, node.name, domain=DOMAIN,
        neuron=node.op_type, **program.attributes,
    )  # fmt: skip
    made.attribute.extend(node.attribute)
    return made, [*program.nodes, node]


def _alone(node: onnx.NodeProto, look: GraphReaders) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """Operations that end with this node."""
    if node.domain or node.op_type not in OPERATIONS:
        return None
    program = program_before(node.output[0], look, ends=True, rows=True)
    # Currents of the products of spikes are floats; of other values the type is not known.
    floats = any(step.operation in ("RowNorm", "Carried", "Counted") for step in program.steps)
    if len(program.steps) < _FEWEST or not (floats or _is_float(program.source, look)):
        return None
    made = helper.make_node(
        VALUES, [program.source, *program.constants], node.output, node.name, domain=DOMAIN,
        **program.attributes,
    )  # fmt: skip
    return made, program.nodes


def _is_float(value: str, look: GraphReaders) -> bool:
    """Whether a value is known to be of 32-bit floats."""
    node = look.makers.get(value)
    if node is None:
        return False
    if node.domain == DOMAIN:
        return is_layer(node.op_type) and not is_integer_layer(node.op_type) and not node.op_type.endswith("LinearSums")
    if not node.domain and OPERATIONS.get(node.op_type) == 1:  # both inputs are of one type
        return not look.floats.isdisjoint(node.input)
    return is_standard(node, "Cast") and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
