"""Who makes and who reads each value of an ONNX graph, to change its nodes in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["GraphReaders", "behind_barrier", "is_standard"]


class GraphReaders:
    """A graph as it is now.

    Args:
        graph: the main graph of a model.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        #: Reads of a value, also by subgraphs and from outside.
        self.uses = Counter(value.name for value in graph.output)
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            self.uses.update(_reads(node))
        #: Lengths of constant vectors, and constants that are one number.
        self.lengths = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 1}
        self.numbers = {tensor.name for tensor in graph.initializer if not tensor.dims}
        #: Constants of float32.
        self.floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        #: Those of them that are the number 1.
        self.ones = {
            tensor.name
            for tensor in graph.initializer
            if tensor.name in self.floats and not tensor.dims and numpy_helper.to_array(tensor) == 1.0
        }
        #: Constants of bytes without a sign.
        self.bytes = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.UINT8}
        self._shapes = {
            tensor.name: tensor
            for tensor in graph.initializer
            if len(tensor.dims) == 1 and tensor.data_type == TensorProto.INT64
        }
        #: Lengths of values' last axes, as far as they were asked for; None where nothing tells.
        self.last_lengths: dict[str, int | None] = {}
        #: How many axes values have that are known to have any.
        self.ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info)
            if value.type.tensor_type.HasField("shape")
        }

    def last_of_shape(self, shape: str) -> int | None:
        """Return the last entry of a shape, a constant or a Concat that ends with one, if it is a length."""
        maker = self.makers.get(shape)
        if maker is not None and not maker.domain and maker.op_type == "Concat":
            shape = maker.input[-1]
        if shape not in self._shapes:
            return None
        entries = numpy_helper.to_array(self._shapes[shape])
        return int(entries[-1]) if entries.size and entries[-1] > 0 else None

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node that makes a value which is read once."""
        return self.makers.get(value) if self.uses[value] == 1 else None

    def reader(self, value: str) -> onnx.NodeProto | None:
        """Return the one node of this graph that reads a value, if it is its first input."""
        readers = self.readers.get(value, [])
        return readers[0] if self.uses[value] == 1 and readers and readers[0].input[0] == value else None

    def replace(self, new: dict[int, onnx.NodeProto], gone: list[onnx.NodeProto], retyped: set[str]) -> None:
        """Put new nodes in the places of old ones (by ``id``); drop what is gone, and the types of some values."""
        dropped = {id(node) for node in gone}
        kept = [new.get(id(node), node) for node in self.graph.node if id(node) in new or id(node) not in dropped]
        nodes = []
        for node in kept:  # copies: the graph's own go with the list
            nodes.append(onnx.NodeProto())
            nodes[-1].CopyFrom(node)
        infos = [info for info in self.graph.value_info if info.name not in retyped]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.graph.value_info.extend(infos)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for below in inner.node:
                yield from _reads(below)
            yield from (value.name for value in inner.output)


def is_standard(node: onnx.NodeProto, operator: str) -> bool:
    """Whether a node is that operator of ONNX itself."""
    return not node.domain and node.op_type == operator


def behind_barrier(value: str, look: GraphReaders, gone: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return a value's maker, behind an Unsqueeze and Squeeze that undo each other; the two are added to ``gone``."""
    maker = look.maker(value)
    if maker is None or not is_standard(maker, "Squeeze"):
        return maker
    inner = look.maker(maker.input[0])
    if inner is None or not is_standard(inner, "Unsqueeze") or inner.input[1:] != maker.input[1:]:
        return None
    gone += [maker, inner]
    return look.maker(inner.input[0])
