"""Joins a product of whole numbers of 16 bits, two products of bytes and a scale, for the native kernels; in memory."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, numpy_helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, is_standard
from snn_extreme_quant.exported.operators import KINDS

__all__ = ["WHOLE_PRODUCT", "fuse_whole_products"]

#: The operator of these nodes. No file has it.
WHOLE_PRODUCT = "FusedWholeProduct"
#: Packings whose codes have up to 8 bit.
_PACKINGS = frozenset(kind for layout, kind in KINDS.items() if not layout.startswith("int") or int(layout[3:]) <= 8)
_BYTE = 256


@dataclass
class _Product:
    """The two products of bytes, the halves they read, and what is between them and the scale."""

    high: onnx.NodeProto
    limits: list[str]
    x: str
    nodes: list[onnx.NodeProto]


def fuse_whole_products(model: onnx.ModelProto) -> set[str]:
    """Put one node in place of each such product, in ``model`` itself; return those nodes' operators.

    Args:
        model: whose main graph is changed.
    """
    look = GraphReaders(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    new: dict[int, onnx.NodeProto] = {}
    gone: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN or node.op_type != "IntScale":
            continue
        found = _product(node, look, constants)
        if found is not None:
            new[id(node)] = _node(node, found)
            gone += [*found.nodes, node]
    if new:
        look.replace(new, gone, {output for node in gone for output in node.output})
    return {node.op_type for node in new.values()}


def _product(scale: onnx.NodeProto, look: GraphReaders, constants: dict[str, onnx.TensorProto]) -> _Product | None:
    """The product that a scale reads, if nothing else reads what is between."""
    nodes: list[onnx.NodeProto] = []
    limits: list[str] = []
    total = look.maker(scale.input[0])
    for operator in ("Min", "Max"):  # from the sums on they come the other way round
        if total is not None and is_standard(total, operator):
            nodes.append(total)
            limits.insert(0, total.input[1])
            total = look.maker(total.input[0])
    if len(limits) == 1 or not constants.keys() >= {*limits, *scale.input[1:]}:
        return None
    if total is None or not is_standard(total, "Add"):
        return None
    placed, low = (look.maker(value) for value in total.input)
    if placed is None or low is None or not is_standard(placed, "Mul") or not _is_byte(constants.get(placed.input[1])):
        return None
    high = look.maker(placed.input[0])
    if high is None or not _are_halves(high, low, constants):
        return None
    halves = look.makers.get(high.input[0])
    if halves is None or halves.domain != DOMAIN or halves.op_type != "IntHalves":
        return None
    if list(halves.output) != [high.input[0], low.input[0]] or any(look.uses[value] != 1 for value in halves.output):
        return None
    return _Product(high, limits, halves.input[0], [*nodes, total, placed, low, high, halves])


def _are_halves(high: onnx.NodeProto, low: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether two nodes are the products of high and of low bytes with the same codes."""
    packing = low.op_type.removesuffix("MatMulInteger")
    return (
        high.domain == low.domain == DOMAIN
        and packing in _PACKINGS
        and (high.op_type, low.op_type) == (f"{packing}MatMulIntegerSigned", f"{packing}MatMulInteger")
        and high.input[1] == low.input[1]
        and high.input[1] in constants
        and constants[high.input[1]].data_location != TensorProto.EXTERNAL
        and list(high.attribute) == list(low.attribute)
    )


def _is_byte(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and not tensor.dims and bool(numpy_helper.to_array(tensor) == _BYTE)


def _node(scale: onnx.NodeProto, found: _Product) -> onnx.NodeProto:
    """The fused node."""
    inputs = [found.x, found.high.input[1], *scale.input[1:], *found.limits]
    made = helper.make_node(
        WHOLE_PRODUCT, inputs, scale.output, scale.name, domain=DOMAIN,
        layer=found.high.op_type, has_limits=int(bool(found.limits)),
    )  # fmt: skip
    made.attribute.extend([*scale.attribute, *found.high.attribute])
    return made
