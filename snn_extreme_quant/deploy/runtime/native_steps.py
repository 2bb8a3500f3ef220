"""Adds the spikes of all steps before they are multiplied, where only the sum over steps is read; in memory alone.

On the synchronous schedule the products of a layer are added over inputs and steps, and everything else reads the sum
of the steps. All of that are sums of whole numbers, proved to be exact in any order when the file is written. So the
steps of a layer's spikes are added once, by a kernel, and are multiplied as counts, once in the place of T times.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, function_body
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, is_standard

__all__ = ["STEP_COUNTS", "STEP_SUMS", "sum_steps_first"]

#: The operators of these nodes: the sum over the first axis, as floats and as bytes. No file has them.
STEP_SUMS, STEP_COUNTS = "StepSums", "StepCounts"
#: Products whose codes are -1, 0 and 1: in pairs their products with a byte fit 16 bit, in which onnxruntime adds them
#: on processors without VNNI.
_PACKINGS = ("Binary", "Ternary", "Ternary5")
_PRODUCTS = {f"{packing}LinearInteger{sign}" for packing in _PACKINGS for sign in ("", "Signed")}
_COUNTS = 255


@dataclass(frozen=True)
class _Steps:
    """Of spikes: T, and whether they may be -1."""

    number: int
    signed: bool

    @property
    def zero_point(self) -> int:
        return self.number if self.signed else 0


def sum_steps_first(model: onnx.ModelProto, spikes: Set[str]) -> set[str]:
    """Add the steps of spikes by a kernel, before the products that read them; return the operators that this takes.

    Args:
        model: whose main graph and functions are changed.
        spikes: names of values that hold nothing but 0, 1 and -1.
    """
    graph = model.graph
    look = GraphReaders(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    emitted = {node.output[0]: _steps(node) for node in graph.node if _emits(node)}
    made: dict[str, dict[str, str]] = {}
    renamed: dict[str, str] = {}
    products: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if not _adds_steps(node, constants):
            continue
        value, output = node.input[0], node.output[0]
        product = look.maker(value)
        if value in spikes and look.uses[output] == len(look.readers.get(output, [])):
            renamed[output] = made.setdefault(value, {}).setdefault(STEP_SUMS, f"{value}, sums of steps")
        elif product is not None and _reads_counts(product, emitted, constants):
            source = product.input[0]
            counts = made.setdefault(source, {}).setdefault(STEP_COUNTS, f"{source}, counts of steps")
            products[value] = _of_counts(product, counts, output, emitted[source].zero_point)
    if not made:
        return set()
    gone = {*renamed, *(product.output[0] for product in products.values())}
    nodes = []
    for node in graph.node:
        if node.output[0] in gone:
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(products.get(node.output[0], node))
        kept.input[:] = [renamed.get(name, name) for name in kept.input]
        nodes.append(kept)
        for name in node.output:
            for operator, sums in made.get(name, {}).items():
                nodes.append(helper.make_node(operator, [name], [sums], domain=DOMAIN))
                if operator == STEP_COUNTS:
                    nodes[-1].attribute.append(helper.make_attribute("zero_point", emitted[name].zero_point))
    del graph.node[:]
    graph.node.extend(nodes)
    known = {function.name for function in model.functions}
    added = {product.op_type for product in products.values()} - known
    model.functions.extend(function_body(operator) for operator in sorted(added))
    return {operator for found in made.values() for operator in found}


def _emits(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type == "SynchronousSpikes"


def _steps(node: onnx.NodeProto) -> _Steps:
    found = {attribute.name: attribute.f for attribute in node.attribute}
    return _Steps(int(found["steps"]), found["lowest"] < 0)


def _adds_steps(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it is a sum over the first axis, which is gone then."""
    if not is_standard(node, "ReduceSum") or len(node.input) < 2 or node.input[1] not in constants:
        return False
    keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
    return not keeps and numpy_helper.to_array(constants[node.input[1]]).tolist() == [0]


def _reads_counts(
    node: onnx.NodeProto, emitted: Mapping[str, _Steps], constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Whether it is a product of spikes, without a scale, whose sums over steps are bytes."""
    if node.domain != DOMAIN or node.op_type not in _PRODUCTS or node.input[0] not in emitted:
        return False
    steps = emitted[node.input[0]]
    grid = next((attribute.f for attribute in node.attribute if attribute.name == "grid"), 0.0)
    scale = constants.get(node.input[2])
    bare = scale is not None and bool(np.all(numpy_helper.to_array(scale) == 1.0))
    return bare and grid == 1.0 and steps.number + steps.zero_point <= _COUNTS


def _of_counts(product: onnx.NodeProto, counts: str, output: str, zero_point: int) -> onnx.NodeProto:
    """The same product of counts."""
    packing = product.op_type.removesuffix("Signed").removesuffix("LinearInteger")
    inputs = [counts, *product.input[1:]]
    return helper.make_node(f"{packing}LinearCounts", inputs, [output], domain=DOMAIN, zero_point=zero_point)
