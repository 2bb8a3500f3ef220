"""Joins attention of spikes with a softmax in it as one node for the native kernels; in memory, never in a file."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.graph_readers import GraphReaders, behind_barrier, is_standard

__all__ = ["SOFT_ATTENTION", "fuse_soft_attention"]

#: The operator of these nodes. No file has it.
SOFT_ATTENTION = "FusedSoftAttention"


def fuse_soft_attention(model: onnx.ModelProto, spikes: Set[str], *, counts: bool = True) -> set[str]:
    """Put one node in place of ``softmax(q k + mask) v``, in ``model`` itself; return those nodes' operator.

    Args:
        model: whose main graph is changed.
        spikes: names of values that hold nothing but 0, 1 and -1: keys and values must be among them, or rates of
            counts.
        counts: whether counts are wanted.
    """
    look = GraphReaders(model.graph)
    new: dict[int, onnx.NodeProto] = {}
    gone: list[onnx.NodeProto] = []
    for node in model.graph.node:
        found = _attention(node, look, spikes, counts=counts)
        if found is not None:
            new |= found[0]
            gone += found[1]
    if new:
        look.replace(new, gone, {output for node in gone for output in node.output})
    return {SOFT_ATTENTION} if new else set()


def _attention(
    softmax: onnx.NodeProto, look: GraphReaders, spikes: Set[str], *, counts: bool
) -> tuple[dict[int, onnx.NodeProto], list[onnx.NodeProto]] | None:
    """Return the nodes that take the places of others (by ``id``), and those that go."""
    shift = softmax.domain == DOMAIN and softmax.op_type == "ShiftSoftmax"
    if not shift and not (is_standard(softmax, "Softmax") and _attribute(softmax, "axis", -1) == -1):
        return None
    gone = [softmax]
    masked = _masked_scores(softmax, look, gone)
    after = _reader_behind_barrier(softmax.output[0], look, gone)
    if masked is None or after is None or not is_standard(after, "MatMul"):
        return None
    scores, mask = masked
    gone.append(after)
    last = _reader_behind_barrier(after.output[0], look, gone)
    if last is None or not is_standard(last, "Transpose") or not _splits_heads(last, "rows"):
        return None
    gone.append(last)
    sources = []
    for value, to in ((scores.input[0], "rows"), (scores.input[1], "columns"), (after.input[1], "rows")):
        moved = behind_barrier(value, look, gone)
        if moved is None or not is_standard(moved, "Transpose") or not _splits_heads(moved, to):
            return None
        gone.append(moved)
        sources.append(moved.input[0])
    if len({len(_attribute(node, "perm", ())) for node in gone if is_standard(node, "Transpose")}) != 1:
        return None
    read = _read_spikes(sources[1:], look, spikes, gone)
    if read is None or (read[1] and not counts):
        return None
    rows, constants, new = read
    new[id(last)] = helper.make_node(
        SOFT_ATTENTION, [sources[0], *rows, mask, *constants], last.output, last.name, domain=DOMAIN,
        shift=int(shift), counts=int(bool(constants)),
    )  # fmt: skip
    return new, gone


def _masked_scores(
    softmax: onnx.NodeProto, look: GraphReaders, gone: list[onnx.NodeProto]
) -> tuple[onnx.NodeProto, str] | None:
    """Return the product of queries and keys that a softmax reads, and the mask that is added; both nodes go."""
    addition = look.maker(softmax.input[0])
    if addition is None or not is_standard(addition, "Add"):
        return None
    for place in (0, 1):
        inner: list[onnx.NodeProto] = []
        scores = behind_barrier(addition.input[place], look, inner)
        if scores is not None and is_standard(scores, "MatMul"):
            gone += [*inner, addition, scores]
            return scores, addition.input[1 - place]
    return None


def _read_spikes(
    values: list[str], look: GraphReaders, spikes: Set[str], gone: list[onnx.NodeProto]
) -> tuple[list[str], list[str], dict[int, onnx.NodeProto]] | None:
    """Return what the kernel reads as keys and values, their scales and zeros if they are counts, and changed nodes."""
    if set(values) <= spikes:
        return values, [], {}
    rates = [found for value in values if (found := _rates(value, look)) is not None]
    if len(rates) != len(values):
        return None
    gone += [found.node for found in rates if look.uses[found.node.output[0]] == 1]
    new = {id(found.reshape): found.of_bytes(found.reshape) for found in rates if found.reshape is not None}
    return [found.given for found in rates], [name for found in rates for name in found.node.input[1:]], new


@dataclass(frozen=True)
class _Rates:
    """Counts in bytes that become rates, perhaps with a Reshape behind."""

    node: onnx.NodeProto
    reshape: onnx.NodeProto | None

    @property
    def given(self) -> str:
        """The value that holds the bytes, in the shape in which attention reads them."""
        return str(self.node.input[0] if self.reshape is None else self.reshape.output[0])

    def of_bytes(self, reshape: onnx.NodeProto) -> onnx.NodeProto:
        """The Reshape, of bytes."""
        made = onnx.NodeProto()
        made.CopyFrom(reshape)
        made.input[0] = self.node.input[0]
        return made


def _rates(value: str, look: GraphReaders) -> _Rates | None:
    """Return what makes a value, if it is the rates of counts in bytes, with one scale and zero for all."""
    node, reshape = look.makers.get(value), None
    if node is not None and is_standard(node, "Reshape") and look.uses[value] == 1:
        node, reshape = look.makers.get(node.input[0]), node
    if node is None or not is_standard(node, "DequantizeLinear") or len(node.input) != 3:
        return None
    scale, zero = node.input[1:]
    return _Rates(node, reshape) if scale in look.numbers & look.floats and zero in look.numbers & look.bytes else None


def _splits_heads(transpose: onnx.NodeProto, to: str) -> bool:
    """Whether axes (..., S, heads, channels) become (..., heads, S, channels), or with S last."""
    order = list(_attribute(transpose, "perm", ()))
    rank = len(order)
    ends = [rank - 2, rank - 3, rank - 1] if to == "rows" else [rank - 2, rank - 1, rank - 3]
    return rank >= 3 and order == [*range(rank - 3), *ends]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _reader_behind_barrier(value: str, look: GraphReaders, gone: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """The one reader of a value, behind such a pair."""
    opened = look.reader(value)
    if opened is None or not is_standard(opened, "Unsqueeze"):
        return opened
    closed = look.reader(opened.output[0])
    if closed is None or not is_standard(closed, "Squeeze") or closed.input[1:] != opened.input[1:]:
        return None
    gone += [opened, closed]
    return look.reader(closed.output[0])
