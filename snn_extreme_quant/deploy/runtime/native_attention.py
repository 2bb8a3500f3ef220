"""Joins the two products of spiking attention as one node for the native kernels; in memory, never in a file."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, behind_barrier, is_standard

__all__ = ["ATTENTION", "fuse_attention"]

#: How the operators of these nodes begin. No file has them.
ATTENTION = "FusedAttention"


@dataclass
class _Attention:
    """``(query key) value`` and what is around it; ``nodes`` are those that go, ``output`` is what is left of them."""

    inputs: list[str]
    orders: list[list[int]]
    scores_signed: bool
    output: str
    integer: bool = True
    factor: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)


def fuse_attention(model: onnx.ModelProto, spikes: Set[str]) -> set[str]:
    """Put one node in place of each pair of products of spikes, in ``model`` itself; return those nodes' operators.

    Args:
        model: whose main graph is changed.
        spikes: names of values that hold nothing but 0, 1 and -1.
    """
    look = GraphReaders(model.graph)
    place = {id(node): index for index, node in enumerate(model.graph.node)}
    found = [made for node in model.graph.node if (made := _attention(node, look, spikes)) is not None]
    if not found:
        return set()
    for made in found:
        made.nodes.sort(key=lambda node: place[id(node)])
    nodes = {id(made.nodes[-1]): _node(made) for made in found}
    gone = [node for made in found for node in made.nodes]
    look.replace(nodes, gone, {output for node in gone for output in node.output})
    return {node.op_type for node in nodes.values()}


def _attention(node: onnx.NodeProto, look: GraphReaders, spikes: Set[str]) -> _Attention | None:
    """The attention whose second product this is."""
    if not _is_product(node):
        return None
    gone = [node]
    cast = look.maker(node.input[0])
    if cast is None or not is_standard(cast, "Cast"):
        return None
    kind = helper.get_node_attr_value(cast, "to")
    first = behind_barrier(cast.input[0], look, gone)
    if kind not in (TensorProto.UINT8, TensorProto.INT8) or first is None or not _is_product(first):
        return None
    gone += [cast, first]
    sources, orders = [], []
    for value in (*first.input, node.input[1]):
        source, order, maker = value, [-1], look.makers.get(value)
        if maker is not None and is_standard(maker, "Transpose") and maker.attribute:
            source, order = maker.input[0], list(helper.get_node_attr_value(maker, "perm"))
            if look.uses[value] == 1:
                gone.append(maker)
        if source not in spikes:
            return None
        sources.append(source)
        orders.append(order)
    # Vectors on the left have other products than matrices of one row.
    ranks = [
        look.ranks.get(value, 0) if order == [-1] else len(order) for value, order in zip(sources, orders, strict=True)
    ]
    if min(ranks[:2]) < 2:
        return None
    made = _Attention(sources, orders, kind == TensorProto.INT8, node.output[0], nodes=gone)
    _add_what_follows(made, look)
    return made


def _is_product(node: onnx.NodeProto) -> bool:
    return is_standard(node, "MatMulInteger") and len(node.input) == 2


def _add_what_follows(made: _Attention, look: GraphReaders) -> None:
    """Take in the barrier, the cast to floats and the product with one number, as far as they are there."""
    value, taken = made.output, []
    opened = look.reader(value)
    if opened is not None and is_standard(opened, "Unsqueeze"):
        closed = look.reader(opened.output[0])
        if closed is None or not is_standard(closed, "Squeeze") or closed.input[1:] != opened.input[1:]:
            return
        value, taken = closed.output[0], [opened, closed]
    cast = look.reader(value)
    if cast is None or not is_standard(cast, "Cast") or helper.get_node_attr_value(cast, "to") != TensorProto.FLOAT:
        return
    made.nodes += [*taken, cast]
    made.output, made.integer = cast.output[0], False
    scaled = look.reader(made.output)
    if scaled is not None and is_standard(scaled, "Mul") and scaled.input[1] in look.numbers:
        made.nodes.append(scaled)
        made.output, made.factor = scaled.output[0], scaled.input[1]


def _node(made: _Attention) -> onnx.NodeProto:
    name, (query, key, value) = made.nodes[-1].name, made.orders
    return helper.make_node(
        f"{ATTENTION}_{'integer' if made.integer else 'float'}",
        [*made.inputs, *([made.factor] if made.factor else [])], [made.output], name, domain=DOMAIN,
        query_order=query, key_order=key, value_order=value, has_factor=int(bool(made.factor)),
        scores_signed=int(made.scores_signed),
    )  # fmt: skip
