"""Averages written out as a sum and a division give torch's bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, fx, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering import operators  # noqa: F401 - registers the operators
from snn_extreme_quant.deploy.recording.averages import write_out_averages

aten = torch.ops.aten


class Call(nn.Module):
    """A function of one tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def written_out(module: nn.Module, x: Tensor) -> tuple[fx.GraphModule, set[Any]]:
    """The recorded module with its averages written out, and what it calls."""
    graph = torch.export.export(module, (x,), strict=False).module(check_guards=False)
    graph = write_out_averages(graph)
    return graph, {node.target for node in graph.graph.nodes if node.op == "call_function"}


def on_a_grid(*shape: int) -> Tensor:
    """Multiples of 1/16, whose sums are exact."""
    return torch.randint(-64, 65, shape, generator=torch.Generator().manual_seed(0)) / 16


EXACT: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.AvgPool1d(2), (2, 3, 9)),
    (nn.AvgPool1d(3, 2, 1), (2, 3, 9)),
    (nn.AvgPool2d(2), (2, 3, 8, 6)),
    (nn.AvgPool2d(3), (2, 3, 9, 9)),
    (nn.AvgPool2d(3, 1, 1), (2, 3, 9, 7)),
    (nn.AvgPool2d((3, 2), (1, 2), (1, 0)), (2, 3, 9, 7)),
    (nn.AvgPool2d(7), (2, 3, 7, 7)),
    (nn.AvgPool2d(2, divisor_override=3), (2, 3, 8, 8)),
    (nn.AvgPool2d(2, count_include_pad=False), (2, 3, 8, 8)),
    (nn.AvgPool3d(2), (2, 3, 4, 4, 6)),
    (nn.AvgPool3d(3, 2, 1), (2, 3, 5, 6, 7)),
    (nn.AdaptiveAvgPool1d(1), (2, 3, 7)),
    (nn.AdaptiveAvgPool1d(3), (2, 3, 9)),
    (nn.AdaptiveAvgPool2d(1), (2, 3, 7, 5)),
    (nn.AdaptiveAvgPool2d(3), (2, 3, 9, 9)),
    (nn.AdaptiveAvgPool2d((3, 1)), (2, 3, 9, 5)),
    (nn.AdaptiveAvgPool2d((2, None)), (2, 3, 6, 5)),
    (nn.AdaptiveAvgPool3d(1), (2, 3, 3, 4, 5)),
    (nn.AdaptiveAvgPool3d((1, 2, 3)), (2, 3, 3, 4, 9)),
    (Call(lambda x: x.mean(-1)), (2, 3, 7)),
    (Call(lambda x: x.mean((2, 3), keepdim=True)), (2, 3, 7, 5)),
    (Call(lambda x: x.mean(1)), (2, 3, 7)),
]


@pytest.mark.parametrize(("module", "shape"), EXACT, ids=lambda v: str(v) if isinstance(v, tuple) else repr(v)[:60])
def test_the_same_bits(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = on_a_grid(*shape)
    graph, targets = written_out(module, x)
    assert not any("avg" in str(target) or "mean" in str(target) for target in targets)
    assert aten.div.Tensor in targets
    inputs = [x, on_a_grid(*shape) * 3]
    if x.dim() == 4:
        inputs.append(x.contiguous(memory_format=torch.channels_last))
    for value in inputs:
        assert torch.equal(graph(value), module(value))


@pytest.mark.parametrize(
    ("module", "shape", "left"),
    [
        (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 3, 8, 8), aten.avg_pool2d.default),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (2, 3, 8, 8), aten.avg_pool2d.default),
        (nn.AvgPool1d(2, ceil_mode=True), (2, 3, 9), aten.avg_pool1d.default),
        (nn.AdaptiveAvgPool2d(3), (2, 3, 8, 8), aten.adaptive_avg_pool2d.default),
        (nn.AvgPool2d(2), (3, 8, 8), aten.avg_pool2d.default),
        (Call(lambda x: x.mean()), (2, 3), aten.mean.default),
        (Call(lambda x: x.mean(-1, dtype=torch.float64)), (2, 3), aten.mean.dim),
    ],
)
def test_what_is_left_as_it_is(module: nn.Module, shape: tuple[int, ...], left: Any) -> None:
    x = on_a_grid(*shape)
    graph, targets = written_out(module, x)
    assert left in targets
    assert torch.equal(graph(x), module(x))


def pooled(pool: nn.Module) -> nn.Sequential:
    """Spikes, pooled, into a layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), snn.Leaky(0.9, threshold=0.3, init_hidden=True), pool,
        nn.Conv2d(4, 3, 1), snn.Leaky(0.9, threshold=0.1, init_hidden=True),
    )  # fmt: skip
    sxq.quantize_(model, sxq.Ternary())
    return model.eval()


def test_halves_and_quarters_are_exact_for_the_next_layer(tmp_path: Path) -> None:
    model, x = pooled(nn.AvgPool2d(2)), (torch.rand(5, 2, 2, 8, 8) < 0.5).float()
    report = sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes")
    assert report.exact
    assert {layer.name: layer.reason for layer in report.layers}["3"] == "sums of 4 multiples of 2^-2 up to 1"
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert (result.spikes_different, result.output_difference) == (0, 0)
    assert result.firing_rate > 0


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (nn.AvgPool2d(3), "sums real numbers, in an order that a runtime may choose"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), "avg_pool2d is not known to give the same bits on every runtime"),
        (
            nn.AvgPool2d(2, 1, 1, count_include_pad=False),
            "avg_pool2d is not known to give the same bits on every runtime",
        ),
        (nn.AdaptiveAvgPool2d(3), "adaptive_avg_pool2d is not known to give the same bits on every runtime"),
    ],
)
def test_what_is_not_guaranteed_says_why(pool: nn.Module, reason: str, tmp_path: Path) -> None:
    model, x = pooled(pool), (torch.rand(5, 2, 2, 8, 8) < 0.5).float()
    report = sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes")
    verdicts = {layer.name: (layer.exact, layer.reason) for layer in report.layers}
    assert verdicts["1"][0]
    assert verdicts["3"] == (False, reason)
    assert not verdicts["4"][0]


def test_a_neuron_behind_an_average_by_nine_is_exact(tmp_path: Path) -> None:
    """A division rounds the same everywhere; only sums over what it gives would not."""
    model, x = pooled(nn.AvgPool2d(3)), (torch.rand(5, 2, 2, 9, 9) < 0.5).float()
    model[3] = nn.Identity()
    report = sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes")
    assert report.exact, str(report)
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert (result.spikes_different, result.output_difference) == (0, 0)
    assert result.firing_rate > 0
