"""Integer graphs know one step of one sample: what joins, takes apart or slides over steps and samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.integer.check import check_integer_graph
from snn_extreme_quant.deploy.integer.graph import integer_graph
from snn_extreme_quant.deploy.lowering import operators
from snn_extreme_quant.errors import UnsupportedModelError

from .test_integer_rules import AXES, PACKED, SCALE, recorded

SHAPE = (3, 2, 4)  # T, B, C


def _current(x: Tensor) -> Tensor:
    """Channels of different units and ranges."""
    return operators.packed_linear(x, PACKED, SCALE, 5, "ternary4", "fc")


#: What of it is computed behind the decoding is for the general rule to find: the numbers must be right.
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "samples and channels in one axis": lambda x: _current(x).flatten(1) * 2,
    "spikes and samples in one axis": lambda x: x.flatten(1) - x.transpose(1, 2).flatten(1),
    "one axis, taken apart again": lambda x: _current(x).flatten(0, 2).unflatten(0, (-1, 5)) + 1,
    "all in one axis": lambda x: _current(x).flatten() + 1,
    "channels first": lambda x: _current(x).transpose(1, 2).flatten(1) + 1,
    "two sequences": lambda x: torch.cat([_current(x), _current(x) * 0.3], 0) + 1,
    "all steps but the first": lambda x: _current(x)[1:],
    "the last step": lambda x: _current(x)[-1] * 2,
    "padded in time": lambda x: F.pad(_current(x), (0, 0, 0, 0, 2, 0)) + 1,
    "sequence, twice": lambda x: _current(x).repeat(2, 1, 1) + 1,
    "largest of all steps": lambda x: F.adaptive_max_pool1d(_current(x).permute(1, 2, 0), 1),
    "largest of two channels": lambda x: F.max_pool1d(_current(x).transpose(0, 1), 2),
    "mean over all steps": lambda x: F.adaptive_avg_pool1d(_current(x).permute(1, 2, 0), 1),
    "mean over windows of steps": lambda x: F.avg_pool1d(_current(x).permute(1, 2, 0), 3, 1, 1),
    "largest in windows of steps": lambda x: F.max_pool1d(_current(x).permute(1, 2, 0), 3, 1, 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    sample = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    graph = recorded(OPERATIONS[name], sample)
    integer = integer_graph(graph, sample, AXES, spikes=True)
    for shape in (SHAPE, (1, 1, 4), (7, 3, 4)):
        spikes = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).float()
        check_integer_graph(graph, integer, [spikes])


class _Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.fires, self.between = layer.Linear(6, 5), neuron.LIFNode(), between
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fires(self.between(self.fc(x)))
        return spikes


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "samples and channels": (lambda x: x.reshape(x.shape[0], -1), "share an axis .* leave them an axis of their own"),
    "largest of all steps": (
        lambda x: x + F.adaptive_max_pool1d(x.permute(1, 2, 0), 1).permute(2, 0, 1),
        "windows are of steps or samples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_a_neuron(name: str, tmp_path: Path) -> None:
    between, why = REFUSED[name]
    torch.manual_seed(0)
    model = _Net(between).eval()
    sxq.quantize_(model, sxq.Ternary(per="channel"))
    x = (torch.rand(4, 2, 6) < 0.5).float()
    with pytest.raises(UnsupportedModelError, match=f"Layer 'fires' reads .*{why}"):
        sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes", integer=True)


def test_spikes_and_samples_in_one_axis_before_a_neuron(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Net(lambda x: x.reshape(x.shape[0], -1)).eval()
    model.fc.bias = None
    model.fc.weight.data *= 8
    sxq.quantize_(model, sxq.Ternary(per="tensor"))
    x = (torch.rand(4, 2, 6) < 0.5).float()
    sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes", integer=True)
    result = sxq.verify(model, tmp_path / "net.onnx", (torch.rand(9, 5, 6) < 0.5).float())
    assert result.ok, str(result)
    assert result.firing_rate > 0.02
