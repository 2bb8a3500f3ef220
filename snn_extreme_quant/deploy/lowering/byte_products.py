"""Products of two computed matrices of small whole numbers, as in spiking attention, over bytes.

Spikes are 0 and 1, and what a product of spikes gives are counts. Where both factors fit a byte, the product of bytes
is exact, faster than the one of floats, and reshaping and transposing move a quarter of the memory. The factors become
bytes where they are made, before they are reshaped.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from snn_extreme_quant.deploy.lowering import operators  # noqa: F401 - registers the operators
from snn_extreme_quant.deploy.recording.exactness import Exactness
from snn_extreme_quant.deploy.recording.grid import BYTE, Grid

__all__ = ["with_byte_products"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq
#: Operations that only move values, with what is moved as their first argument.
_MOVES = {
    aten.flatten.using_ints, aten.unflatten.int, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.movedim.int, aten.squeeze.dim, aten.unsqueeze.default, aten.expand.default,
    aten.select.int, aten.slice.Tensor, aten.swapaxes.default, aten.mT.default, _OURS.transpose.default,
}  # fmt: skip


def with_byte_products(module: fx.GraphModule, exactness: Exactness) -> fx.GraphModule:
    """Return the graph with exact products of two small factors computed over bytes; the results are the same.

    Args:
        module: a recorded graph; it is left as it is.
        exactness: what was found of this graph, or of one with the same names of nodes.

    Example:
        A layer of spiking attention, ``(query @ key.T) @ value``, becomes two integer products: of spikes with spikes
        and, for up to 255 features a head, of counts with spikes.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    output = module.graph.output_node()
    graph.output(fx.map_arg(output.args[0], copies.__getitem__))
    known: dict[tuple[fx.Node, bool], fx.Node] = {}
    sums: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        grids = exactness.products.get(node.name)
        if grids is not None and _pays(*grids):
            _rewrite(graph, copies[node], grids, known, sums)
    graph.lint()
    return fx.GraphModule(module, graph)


def _pays(first: Grid, second: Grid) -> bool:
    """Whether the factors are an unsigned and a signed byte whose products may be added in pairs of 16 bit.

    onnxruntime adds them so, saturating, on processors without VNNI.
    """
    fit = first.units <= BYTE and second.units <= BYTE // 2
    return first.low == 0 and fit and 2 * first.units * second.units < 2**15


def _rewrite(
    graph: fx.Graph,
    node: fx.Node,
    grids: tuple[Grid, Grid],
    known: dict[tuple[fx.Node, bool], fx.Node],
    sums: dict[fx.Node, fx.Node],
) -> None:
    factors = [
        _as_bytes(graph, cast("fx.Node", factor), grid, signed, known, sums)
        for factor, grid, signed in zip(node.args[:2], grids, (False, True), strict=True)
    ]
    with graph.inserting_before(node):
        total = graph.call_function(_OURS.byte_matmul.default, tuple(factors))
        unit = 2.0 ** -(grids[0].fraction + grids[1].fraction)
        value = graph.call_function(_OURS.from_sums.default, (total, unit))
    sums[value] = total
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _as_bytes(
    graph: fx.Graph,
    node: fx.Node,
    grid: Grid,
    signed: bool,
    known: dict[tuple[fx.Node, bool], fx.Node],
    sums: dict[fx.Node, fx.Node],
) -> fx.Node:
    """Return a value of the graph in bytes, made so at the start of the chain of moves that leads to it."""
    if (node, signed) in known:
        return known[node, signed]
    if node.target in _MOVES:
        source = _as_bytes(graph, cast("fx.Node", node.args[0]), grid, signed, known, sums)
        with graph.inserting_after(node):
            made = graph.call_function(cast("Any", node.target), (source, *node.args[1:]), node.kwargs)
    else:
        # Sums of bytes are in units already.
        source, inverse = (sums[node], 1.0) if node in sums else (node, 2.0**grid.fraction)
        with graph.inserting_after(node):
            made = graph.call_function(_OURS.to_bytes.default, (source, inverse, signed))
    known[node, signed] = made
    return made
