"""What the integer graph makes of single operations: the same numbers, and integers all the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from snn_extreme_quant.deploy.integer.check import check_integer_graph
from snn_extreme_quant.deploy.integer.graph import integer_graph
from snn_extreme_quant.deploy.integer.values import compressed, rational_multiples
from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.deploy.recording.averages import write_out_averages
from snn_extreme_quant.quantizers.packing import pack

SHAPE = (3, 2, 4, 6, 6)  # T, B, C, H, W
AXES = {0: "T", 1: "B"}
CODES = torch.randint(-1, 2, (96, 5), generator=torch.Generator().manual_seed(0))
PACKED = torch.from_numpy(pack(CODES[:4].numpy(), "ternary4"))
WIDE = torch.from_numpy(pack(CODES[:36].numpy(), "ternary4"))
GROUPED = torch.from_numpy(pack(CODES[:2, :4].numpy(), "ternary4"))
SCALE = torch.tensor([0.3, -0.7, 0.11, 0.9, 0.5])


def _linear(x: Tensor) -> Tensor:
    """Over the channels of ``(..., C)``; the units of its outputs differ, and one is negative."""
    return operators.packed_linear(x, PACKED, SCALE, 5, "ternary4", "fc")


def _conv(x: Tensor) -> Tensor:
    return operators.packed_conv(x, WIDE, SCALE, [5, 4, 3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1, "ternary4", "conv")


def _folded(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def _current(x: Tensor) -> Tensor:
    return _linear(x.movedim(2, -1))


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "moves": lambda x: x.flatten(2).unflatten(2, (6, 24)).transpose(2, 3).unsqueeze(2).squeeze(2).flip(3)[:, :, 1:],
    "select": lambda x: x[:, :, 1] + x.unbind(2)[2],
    "split": lambda x: (
        x.split(3, 2)[0] * 2 + x.chunk(2, 3)[0][:, :, :3, :1].expand(-1, -1, -1, 6, 6).repeat(1, 1, 1, 1, 1)
    ),
    "cat of units": lambda x: torch.cat([x, x * 0.25, 1 - x], 2),
    "stack of currents": lambda x: torch.stack([_current(x), _current(1 - x)], 2),
    "residual": lambda x: x + x * 0.5 - 0.75,
    "currents of different scales": lambda x: _current(x) * 0.1 + _current(x.flip(3)) + torch.tensor([1.0, 2, 3, 4, 5]),
    "batch norm": lambda x: x * torch.tensor([2.0, -1.5, 0, 0.3]).view(4, 1, 1) + torch.arange(4.0).view(4, 1, 1),
    "broadcast": lambda x: x + x[:, :, :1],
    "rsub": lambda x: torch.rsub(x, 1.5),
    "subtract with alpha": lambda x: torch.sub(x, x.flip(4), alpha=3),
    "product of spikes": lambda x: x * x.flip(4),
    "product with offsets": lambda x: (x + 1) * (2 * x.flip(4) - 0.5),
    "product of a channel": lambda x: x * x[:, :, :1],
    "negation and magnitude": lambda x: (-x).abs() + (x - x.flip(3)).abs(),
    "division": lambda x: x / 3 + x / torch.tensor([1.0, 2, 4, 5]).view(4, 1, 1),
    "relu": lambda x: F.relu(x - x.flip(3)),
    "maximum": lambda x: torch.maximum(x, x.flip(3) * 0.5) - torch.minimum(x, x.flip(4)),
    "amax": lambda x: x.amax((2, 3)) + _current(x).amax(3)[..., :1, 0],
    "sum": lambda x: x.sum(2) + (x * 0.5).sum((3, 4), keepdim=True).sum(2),
    "mean": lambda x: x.mean((3, 4)),
    "sum over time": lambda x: x.sum(0),
    "max pool": lambda x: F.max_pool2d(_folded(x), 2),
    "max pool with padding and dilation": lambda x: F.max_pool2d(_folded(x), 3, 2, 1, 2),
    "max pool ceil": lambda x: F.max_pool2d(_folded(x), 4, 3, ceil_mode=True),
    "max pool of currents": lambda x: F.max_pool2d(_conv(_folded(x)) + torch.arange(5.0).view(5, 1, 1), 2, padding=1),
    "max pool 1d": lambda x: F.max_pool1d(x.flatten(0, 1).flatten(2), 3),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(_folded(x), (3, 2)),
    "average pool": lambda x: F.avg_pool2d(_folded(x), 3, padding=1) + F.avg_pool2d(_folded(x), 3, 1, 1)[..., ::3, ::3],
    "average pool of currents": lambda x: F.avg_pool2d(_conv(_folded(x)), 2),
    "adaptive average pool": lambda x: F.adaptive_avg_pool2d(_folded(x), (1, 3)),
    "zero padding": lambda x: F.pad(x, (1, 2, 0, 1)),
    "padding of what has an offset": lambda x: F.pad(2 * x - 1, (1, 1)),
    "circular padding": lambda x: F.pad(_folded(x), (1, 1, 2, 2), mode="circular"),
    "attention": lambda x: (x.flatten(3) @ x.flatten(3).transpose(2, 3) * 0.125) @ (x + x.flip(3)).flatten(3),
    "masked attention": lambda x: (
        torch.tril(torch.ones(4, 4)) * (x.flatten(3) @ x.flatten(3).transpose(2, 3)) @ x.flatten(3)
    ),
    "attention of signed values": lambda x: (x - x.flip(3)) @ (2 * x - 1).transpose(3, 4),
    "linear": _current,
    "linear of averages": lambda x: _linear(F.avg_pool2d(_folded(x), 3).flatten(2).transpose(1, 2)),
    "linear of joined units": lambda x: _linear(torch.cat([x[:, :, :2], x[:, :, 2:] / 3], 2).movedim(2, -1)),
    "linear of products": lambda x: _linear((x @ x.transpose(3, 4)).movedim(2, -1)),
    "linear of signs": lambda x: _linear((2 * x - 1).movedim(2, -1)),
    "convolution": lambda x: _conv(_folded(x)),
    "convolution of averages": lambda x: _conv(F.avg_pool2d(_folded(x), 2, 1) * 0.3),
    "convolution by groups of different units": lambda x: operators.packed_conv(
        _folded(x) * torch.tensor([0.3, 0.3, 0.7, 0.7]).view(4, 1, 1), GROUPED, SCALE[:4],
        [4, 2, 1, 1], [1, 1], [0] * 4, [1, 1], 2, "ternary4", "grouped",
    ),
    "transposed convolution": lambda x: operators.packed_conv_transpose(
        _folded(x), WIDE, SCALE, [5, 4, 3, 3], [2, 2], [1, 1], [1, 1], [1, 1], 1, "ternary4", "up"
    ),
    "decoded at the end": lambda x: torch.softmax(_current(x), -1).mean(0),
    "mean over time": lambda x: x.sum(0) / x.shape[0],
}  # fmt: skip
#: Behind these the rest is decoding.
DECODED = {"decoded at the end", "mean over time"}


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return (self.function(x),)


def recorded(function: Callable[[Tensor], Any], sample: Tensor) -> fx.GraphModule:
    """Record a function of spikes, time and samples open."""
    free = (dict.fromkeys(AXES, torch.export.Dim.AUTO),)
    program = torch.export.export(_Function(function), (sample,), dynamic_shapes=free, strict=False)
    return write_out_averages(program.module(check_guards=False))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    """The decoded integers are the float result, for other numbers of steps and samples than were recorded too."""
    sample = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    graph = recorded(OPERATIONS[name], sample)
    integer = integer_graph(graph, sample, AXES, spikes=True)
    for shape in (SHAPE, (1, 1, *SHAPE[2:]), (7, 3, *SHAPE[2:])):
        spikes = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).float()
        check_integer_graph(graph, integer, [spikes])
    floats = _float_operations(integer.graph)
    assert (name in DECODED) == bool(floats), floats


def _float_operations(graph: fx.GraphModule) -> set[str]:
    """Operations on floats, but for the conversion of the input and of the results."""

    class Types(fx.Interpreter):
        def __init__(self) -> None:
            super().__init__(graph)
            self.found: set[str] = set()

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            result = super().call_function(target, args, kwargs)
            if isinstance(result, Tensor) and result.is_floating_point():
                self.found.add(str(target))
            return result

    types = Types()
    types.run(torch.ones(SHAPE))
    return types.found - {"aten.to.dtype", "aten.mul.Tensor", "aten.add.Tensor"}


def test_a_wrong_integer_graph_is_found() -> None:
    """The comparison can fail: another constant, and it does."""
    from snn_extreme_quant.errors import ExportError

    sample = torch.ones(SHAPE)
    graph = recorded(OPERATIONS["convolution"], sample)
    integer = integer_graph(graph, sample, AXES, spikes=True)
    name, constant = next((n, b) for n, b in integer.graph.named_buffers() if b.is_floating_point())
    setattr(integer.graph, name, constant * 1.01)
    with pytest.raises(ExportError, match="output 0"):
        check_integer_graph(graph, integer, [sample])


UNITS = st.builds(lambda p, q: p / q, st.integers(-40, 40), st.integers(1, 60))


@given(st.lists(UNITS, min_size=1, max_size=6), st.sampled_from([1.0, 0.3, 1e-6, 7e5]))
def test_common_units(fractions: list[float], base: float) -> None:
    units = torch.tensor(fractions, dtype=torch.float64) * base
    found = rational_multiples(units)
    if found is not None:  # denominators of up to six numbers may have no small common multiple
        unit, multiples = found
        assert torch.equal(multiples, multiples.round())
        assert torch.allclose(unit * multiples, units, rtol=1e-11, atol=0)


def test_units_without_a_common_one() -> None:
    assert rational_multiples(torch.tensor([1.0, 2**0.5], dtype=torch.float64)) is None


def test_compressed_broadcasts_back() -> None:
    values = torch.arange(3.0).view(1, 3, 1).expand(2, 3, 4)
    assert torch.equal(compressed(values).expand(2, 3, 4), values)
