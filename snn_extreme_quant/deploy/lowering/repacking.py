"""Ternary codes in 1.6 bit: five to a byte in base 3, instead of four in base 4."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, cast, get_args

import torch
from torch import fx

from snn_extreme_quant.deploy.recording.graphs import EMBEDDING, NEURONS, PACKED
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.quantizers.packing import pack, unpack
from snn_extreme_quant.registry import suggest

__all__ = ["LAYOUTS", "TernaryPacking", "check_packing", "with_packing"]

TernaryPacking = Literal["2bit", "1.6bit"]
#: Position of the recurrent layer's packing layout among the arguments of a neuron.
_LAYOUT_OF_FEEDBACK = 4
LAYOUTS = {"2bit": "ternary4", "1.6bit": "ternary5"}


def check_packing(packing: str) -> None:
    """Raise :class:`ExportError` if there is no such ternary packing.

    Example:
        >>> check_packing("1.6bit")
        >>> check_packing("1.6 bit")
        Traceback (most recent call last):
        snn_extreme_quant.errors.ExportError: ternary_packing='1.6 bit': Did you mean '1.6bit'?
    """
    if packing not in get_args(TernaryPacking):
        raise ExportError(f"ternary_packing={packing!r}: {suggest(str(packing), get_args(TernaryPacking))}")


def with_packing(module: fx.GraphModule, packing: TernaryPacking) -> fx.GraphModule:
    """Return a recorded graph whose ternary codes are stored in ``packing``; the codes stay the same.

    Args:
        module: a recorded graph, folded or not; it is left as it was.
        packing: ``"2bit"`` gives the graph back.
    """
    wanted = LAYOUTS[packing]
    if wanted == LAYOUTS["2bit"]:
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    result = fx.GraphModule(module, graph)
    stored: dict[str, str] = {}
    for node in list(graph.nodes):
        weight = _weight(node)
        if weight is None or node.args[weight.layout_at] != LAYOUTS["2bit"]:
            continue
        source = str(weight.packed.target)
        if source not in stored:  # a layer that is called twice has one constant
            stored[source] = f"ternary_codes_{len(stored)}"
            scale = weight.columns
            columns = scale if isinstance(scale, int) else attrgetter(str(scale.target))(result).shape[0]
            codes = unpack(attrgetter(source)(result).numpy(), columns, LAYOUTS["2bit"])
            result.register_buffer(stored[source], torch.from_numpy(pack(codes, wanted)))
        with graph.inserting_before(node):
            node.replace_input_with(weight.packed, graph.get_attr(stored[source]))
        node.update_arg(weight.layout_at, wanted)
    graph.eliminate_dead_code()
    result.recompile()
    return result


@dataclass(frozen=True)
class _Weight:
    """Where a node has its codes: the constant, how many columns (or the scales, which are as many), the layout."""

    packed: fx.Node
    columns: fx.Node | int
    layout_at: int


def _weight(node: fx.Node) -> _Weight | None:
    """Return the stored weight that a node reads, if it does."""
    if node.target in PACKED:
        return _Weight(cast("fx.Node", node.args[1]), cast("fx.Node", node.args[2]), len(node.args) - 2)
    if node.target is EMBEDDING:
        return _Weight(cast("fx.Node", node.args[1]), cast("int", node.args[3]), len(node.args) - 2)
    if node.target in NEURONS and node.args[_LAYOUT_OF_FEEDBACK] not in ("", "float"):
        packed, scale, *_bias = cast("list[fx.Node]", node.args[3])
        return _Weight(packed, scale, _LAYOUT_OF_FEEDBACK)
    return None
