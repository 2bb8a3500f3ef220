"""Keeps what a runtime may rewrite around a sum apart from it.

Runtimes fold what stands behind a product of matrices, or before it, into the product: onnxruntime turns
``(q @ k) * 0.3 * 0.7`` into one product that is scaled by the number 0.21, in parts if it is long, a product and a sum
into one that begins at what is to be added, and a convolution and a factor into one with other weights. In real numbers
that is the same; in floats it rounds elsewhere, and a potential at its threshold falls on the other side. The sums
themselves are exact (:mod:`~snn_extreme_quant.deploy.recording.exactness`), so nothing is lost if they come out as they
are.
"""

from __future__ import annotations

import onnx

__all__ = ["keep_sums_apart"]

#: What adds up products; :func:`_computed` says of which of them sums can be exact.
_SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger")


def keep_sums_apart(graph: onnx.GraphProto) -> None:
    """Put a barrier behind, and before, each sum of products of computed values; and behind each ``constant / x``.

    A barrier adds an axis of length 1 and takes it away again: no value is touched, nothing is copied, and no pattern
    of a rewrite matches across it. A division of a constant gets one because ``(1 / x) * y`` would become ``y / x``.

    Args:
        graph: the main graph of a file, in topological order; it is changed.

    Example:
        >>> product = onnx.helper.make_node("MatMul", ["q", "k"], ["y"], name="MatMul_1")
        >>> graph = onnx.helper.make_graph([product], "network", [], [])
        >>> keep_sums_apart(graph)
        >>> [node.op_type for node in graph.node]
        ['Unsqueeze', 'Squeeze', 'Unsqueeze', 'Squeeze', 'MatMul', 'Unsqueeze', 'Squeeze']
    """
    constants = _constants(graph)
    nodes: list[onnx.NodeProto] = []
    axis = _free_name(graph, "last_axis")
    for node in graph.node:
        if node.domain or not _wanted(node, constants):
            nodes.append(node)
            continue
        if node.op_type in ("MatMul", "Gemm"):  # what stands before is folded into these alone
            for index, name in enumerate(node.input[:2]):
                apart = f"{node.output[0]}/factor_{index}"
                nodes += _barrier(name, apart, axis)
                node.input[index] = apart
        result = node.output[0]
        node.output[0] = f"{result}/alone"
        nodes += [node, *_barrier(node.output[0], result, axis)]
    if len(nodes) == len(graph.node):
        return
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(onnx.helper.make_tensor(axis, onnx.TensorProto.INT64, [1], [-1]))


def _wanted(node: onnx.NodeProto, constants: set[str]) -> bool:
    if node.op_type == "Div":
        return node.input[0] in constants
    return node.op_type in _SUMS and _computed(node, constants)


def _computed(node: onnx.NodeProto, constants: set[str]) -> bool:
    """Whether sums of this node can be exact: float weights make none, the ones of a pooling are made by a node."""
    return node.input[1] not in constants


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Return the names of weights, and of constants in nodes of their own."""
    names = {constant.name for constant in graph.initializer}
    return names | {node.output[0] for node in graph.node if node.op_type == "Constant"}


def _barrier(name: str, result: str, axis: str) -> list[onnx.NodeProto]:
    between = f"{result}/unsqueezed"
    return [
        onnx.helper.make_node("Unsqueeze", [name, axis], [between], name=f"{result}/barrier_in"),
        onnx.helper.make_node("Squeeze", [between, axis], [result], name=f"{result}/barrier_out"),
    ]


def _free_name(graph: onnx.GraphProto, name: str) -> str:
    taken = {constant.name for constant in graph.initializer} | {out for node in graph.node for out in node.output}
    taken |= {value.name for value in graph.input}
    while name in taken:
        name = f"{name}_"
    return name
