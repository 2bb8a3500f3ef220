"""Joins a packed product with the neurons that read it, as one node for the kernels; in memory, never in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    NeuronFunction,
    function_body,
    is_integer_neuron,
    is_neuron,
)
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders
from snn_extreme_quant.deploy.runtime.native_currents import Program, program_before

__all__ = ["FUSED", "fuse"]

#: How the operators of fused nodes begin. No file has them.
FUSED = "FusedNeurons"
#: What moves values and asks nothing about their type.
_MOVES = frozenset(
    {"Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class _Chain:
    """A product, what may lie behind it, and its neurons."""

    product: onnx.NodeProto
    addition: onnx.NodeProto | None
    bias: str
    program: Program
    reshape: onnx.NodeProto | None
    neuron: onnx.NodeProto

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        behind = (self.addition, *self.program.nodes, self.reshape, self.neuron)
        yield from (node for node in (self.product, *behind) if node is not None)


def fuse(model: onnx.ModelProto, products: set[str]) -> set[str]:
    """Put one node in place of each product and its neurons, in ``model`` itself; return the operators of those nodes.

    Args:
        model: whose main graph is changed.
        products: first outputs of the products that kernels were chosen for.
    """
    look = GraphReaders(model.graph)
    chains = [chain for node in model.graph.node if (chain := _chain(node, look, products)) is not None]
    if not chains:
        return set()
    readers = {chain.product.output[0]: chain for chain in chains}
    spikes = [_spikes(chain, look, readers) for chain in chains]
    fused = {id(chain.neuron): _node(chain, kind) for chain, (kind, _) in zip(chains, spikes, strict=True)}
    gone = [node for chain in chains for node in chain.nodes]
    look.replace(fused, gone, set().union(*(values for _, values in spikes)))
    return {node.op_type for node in fused.values()}


def _chain(neuron: onnx.NodeProto, look: GraphReaders, products: set[str]) -> _Chain | None:
    """The product that a layer of neurons reads, if nothing else does."""
    name, integer = neuron.op_type, is_integer_neuron(neuron.op_type)
    if neuron.domain != DOMAIN or not (integer or is_neuron(name)) or "_fed_" in name:
        return None
    if len(neuron.output) != len(function_body(name).output) or not all(neuron.output):
        return None
    value, reshape, addition, bias = neuron.input[0], None, None, ""
    node = look.maker(value)
    if node is not None and not node.domain and node.op_type == "Reshape":
        value, reshape = node.input[0], node
    program = Program(value, []) if integer else program_before(value, look)
    node = look.maker(program.source)
    if node is None or node.output[0] not in products or ("MatMulInteger" in node.op_type) is not integer:
        return None
    columns = look.lengths.get(node.input[2]) if not integer else None
    first = program.steps[0] if program.steps else None
    if first is not None and first.operation == "Add" and look.lengths.get(first.constants[0]) == columns:
        addition, bias = first.nodes[0], first.constants[0]
        program = Program(addition.output[0], program.steps[1:])
    return _Chain(node, addition, bias, program, reshape, neuron)


def _spikes(chain: _Chain, look: GraphReaders, products: dict[str, _Chain]) -> tuple[str, set[str]]:
    """How a fused node gives its spikes, and the values whose type that changes.

    As bytes where nobody asks for floats: where the readers, behind what only moves values, are casts and other
    fused nodes.
    """
    name = chain.neuron.op_type
    if is_integer_neuron(name):
        return ("signed" if "_ternary" in name else "bytes"), set()
    spec = NeuronFunction.from_name(name).spec
    if spec.fire == "count" or spec.graded:
        return "float", set()
    moved, wanted = {chain.neuron.output[0]}, set()
    waiting = list(moved)
    while waiting:
        value = waiting.pop()
        readers = look.readers.get(value, [])
        if look.uses[value] != len(readers):  # the model's output, or read by a subgraph
            return "float", set()
        for reader in readers:
            if not reader.domain and reader.op_type in _MOVES and value not in reader.input[1:]:
                waiting += reader.output
                moved.update(reader.output)
            elif not reader.domain and reader.op_type == "Cast":
                wanted.add(helper.get_node_attr_value(reader, "to"))
            elif reader.output[0] in products and reader.input[0] == value and _whole(reader):
                wanted.add(TensorProto.UINT8)
            else:
                return "float", set()
    if spec.fire == "ternary" or wanted == {TensorProto.INT8}:
        return "signed", moved
    return ("bytes", moved) if wanted else ("float", set())


def _whole(product: onnx.NodeProto) -> bool:
    """Whether a spike is 1 to this product, and so a byte."""
    return bool(helper.get_node_attr_value(product, "grid") == 1.0)


def _node(chain: _Chain, spikes: str) -> onnx.NodeProto:
    """The fused node."""
    kind = f"{FUSED}_{spikes}"
    if states := len(chain.neuron.output) - 1:
        kind += f"_{states}_{'integer' if is_integer_neuron(chain.neuron.op_type) else 'float'}_states"
    inputs = [*chain.product.input, *([chain.bias] if chain.addition is not None else [])]
    inputs += chain.program.constants
    inputs += [chain.reshape.input[1]] if chain.reshape is not None else []
    made = helper.make_node(
        kind, [*inputs, *chain.neuron.input[1:]], chain.neuron.output, chain.neuron.name, domain=DOMAIN,
        layer=chain.product.op_type, neuron=chain.neuron.op_type, has_bias=int(chain.addition is not None),
        has_program=int(bool(chain.program.steps)), has_shape=int(chain.reshape is not None),
    )  # fmt: skip
    if chain.program.steps:
        made.attribute.append(helper.make_attribute("program", chain.program.numbers))
    for node in (chain.product, chain.neuron):
        made.attribute.extend(node.attribute)
    if chain.reshape is not None:
        zeros = [attribute for attribute in chain.reshape.attribute if attribute.name == "allowzero"]
        made.attribute.extend(zeros or [helper.make_attribute("allowzero", 0)])
    return made
