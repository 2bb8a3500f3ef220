"""Reading and tidying recorded graphs."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from snn_extreme_quant.deploy.lowering import operators  # noqa: F401 - registers the operators

__all__ = [
    "EMBEDDING",
    "NEURONS",
    "PACKED",
    "SEQUENCE",
    "STEP",
    "ancestors",
    "dims",
    "is_free",
    "neuron_calls",
    "without_repetition",
]

aten = torch.ops.aten
#: In a graph without gradients and without writing in place these give their argument.
_NOTHING = (aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default)
_OURS = torch.ops.snn_xq
STEP, SEQUENCE = _OURS.neuron_step.default, _OURS.neuron_sequence.default
#: A layer of neurons, one step or all; the last two arguments are the spec's name and the layer's.
NEURONS = (STEP, SEQUENCE)
#: Sums of packed codes; arguments begin with input, packed codes and scale and end with packing layout and layer.
PACKED = (_OURS.packed_linear.default, _OURS.packed_conv.default, _OURS.packed_conv_transpose.default)
#: Rows of packed codes; arguments are indices, packed codes, scale, columns, packing layout and layer.
EMBEDDING = _OURS.packed_embedding.default


def is_free(size: Any) -> bool:
    """Whether a recorded size is open (a symbol) and not a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def dims(node: Any) -> tuple[Any, ...]:
    """Return the recorded shape of a node's tensor; () if it is none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Return a node and all it is computed from."""
    found, todo = set(), [node]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += current.all_input_nodes
    return found


def neuron_calls(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """Return the single-step calls of each neuron layer, in order."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target is STEP:
            calls.setdefault(cast("str", node.args[-1]), []).append(node)
    return calls


def without_repetition(module: fx.GraphModule) -> fx.GraphModule:
    """Merge equal operations on equal values, so that what each step recomputes is seen to be one value."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    known: dict[Any, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], copies.__getitem__))
            continue
        if _is_whole_slice(node) or (node.target in _NOTHING and not node.kwargs):
            copies[node] = copies[cast("fx.Node", node.args[0])]
            continue
        args = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        key = (node.op, node.target, repr(args)) if node.op == "call_function" and node.target is not STEP else node
        if key not in known:
            known[key] = graph.node_copy(node, copies.__getitem__)
        copies[node] = known[key]
    return fx.GraphModule(module, graph)


def _is_whole_slice(node: fx.Node) -> bool:
    """Whether a node is ``x[:]``, which indexing such as ``x[:, t]`` records."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = cast("tuple[Any, Any, Any]", (*node.args[2:], *(None, None, 1)[len(node.args) - 2 :]))
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= 2**62)) and bool(step == 1)
