"""Models that do something that a short recording does not show: carried over exactly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import SampleError, UnsupportedModelError


class Loop(nn.Module):
    """A loop with a function of step and input before, and one of the list of outputs after."""

    def __init__(self, before: Callable[[int, Tensor], Tensor], after: Callable[[list[Tensor]], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.3)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        mem, outputs = self.lif.reset_mem(), []
        for step in range(x.shape[0]):
            spk, mem = self.lif(self.fc(self.before(step, x[step])), mem)
            outputs.append(spk)
        return self.after(outputs)


class Guarded(Loop):
    """Decides on a length."""

    def __init__(self, axis: int) -> None:
        super().__init__(lambda _, x: x, torch.stack)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 0 if x.shape[self.axis] > 6 else x)


class GuardedJelly(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.net = nn.Sequential(sj_layer.Linear(6, 5), sj_neuron.LIFNode(v_threshold=0.2))
        self.axis = axis
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y.mean(0) if x.shape[self.axis] < 12 else y.sum(0)  # type: ignore[no-any-return]


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.5).float()


def same(_: int, x: Tensor) -> Tensor:
    return x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a late step is unlike the others": lambda: Loop(lambda t, x: x * 0 if t == 7 else x, torch.stack),
    "only the last five steps": lambda: Loop(same, lambda s: sum(s[-5:])),  # type: ignore[return-value, arg-type]
    "a sum from step five on": lambda: Loop(same, lambda s: sum(s[5:])),  # type: ignore[return-value, arg-type]
    "a branch on the number of steps": lambda: Guarded(0),
    "a branch on the number of samples": lambda: Guarded(1),
    "a multi-step branch on the number of steps": lambda: GuardedJelly(0),
    "a multi-step branch on the number of samples": lambda: GuardedJelly(1),
    "the mean of the batch is subtracted": lambda: Loop(lambda _, x: x - x.mean(0), torch.stack),
    "the first sample is unlike the others": lambda: Loop(lambda _, x: torch.cat([x[:1] * 0, x[1:]]), torch.stack),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("zeros", [False, True], ids=["spikes", "zeros"])
def test_file_is_the_model_or_refuses(name: str, zeros: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    sxq.quantize_(model, sxq.Ternary())
    sample = torch.zeros(10, 4, 6) if zeros else spikes(10, 4, 6)
    sxq.export_onnx(model, sample, tmp_path / "net.onnx")
    runs = 0
    for shape in ((10, 4, 6), (4, 4, 6), (10, 9, 6), (15, 20, 6)):
        try:
            report = sxq.verify(model, tmp_path / "net.onnx", spikes(*shape))
        except SampleError:
            continue  # the file does not take this shape, and says so
        runs += 1
        assert report.spikes_different == 0, f"{shape}: {report}"
        assert report.output_difference < 1e-6, f"{shape}: {report}"
    assert runs >= 1


@pytest.mark.parametrize(
    "draw", [lambda _, x: (torch.rand_like(x) < x).float(), lambda _, x: nn.functional.dropout(x, 0.01, training=True)]
)
@pytest.mark.parametrize("sample", [torch.zeros(5, 2, 6), torch.ones(5, 2, 6), torch.rand(5, 2, 6)])
def test_random_numbers_are_refused(draw: Any, sample: Tensor, tmp_path: Path) -> None:
    model = Loop(draw, torch.stack)
    sxq.quantize_(model, sxq.Ternary())
    with pytest.raises(UnsupportedModelError, match="random numbers"):
        sxq.export_onnx(model, sample, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_step_that_nothing_reads(tmp_path: Path) -> None:
    class EverySecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(6, 5), snn.Leaky(beta=0.9, threshold=0.2)
            self.fc2, self.lif2 = nn.Linear(5, 3), snn.Leaky(beta=0.9, threshold=0.2)

        def forward(self, x: Tensor) -> Tensor:
            mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
            total: Any = 0
            for step in range(x.shape[0]):
                spk, mem1 = self.lif1(self.fc1(x[step]), mem1)
                if step % 2 == 0:
                    out, mem2 = self.lif2(self.fc2(spk), mem2)
                    total = total + out
            return total  # type: ignore[no-any-return]

    model = EverySecond()
    sxq.quantize_(model, sxq.Binary())
    sxq.export_onnx(model, spikes(6, 4, 6), tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(model, tmp_path / "net.onnx", spikes(6, 3, 6)).ok


def test_casts_to_another_precision_are_not_called_exact(tmp_path: Path) -> None:
    model = Loop(lambda _, x: x, torch.stack)
    model.fc.register_forward_hook(lambda _m, _a, y: (y.double() / 7 * 1.1).float())
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx", input="spikes")
    assert {layer.name: layer.exact for layer in report.layers} == {"fc": True, "lif": False}


def test_model_that_takes_no_more_than_so_many_steps(tmp_path: Path) -> None:
    class Limited(Loop):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 12:
                raise ValueError("too long")
            return super().forward(x)

    model = Limited(same, torch.stack)
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, spikes(10, 2, 6), tmp_path / "net.onnx", input="spikes")
    assert report.time == "free"
    assert sxq.verify(model, tmp_path / "net.onnx", spikes(12, 3, 6)).spikes_different == 0


class BehindSilence(nn.Module):
    """Mixes samples behind a layer that a sample of zeros never makes fire."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 8), snn.Leaky(beta=0.9, init_hidden=True)
        self.fc2, self.lif2 = nn.Linear(8, 5), snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(hidden + hidden[0:1]))  # type: ignore[no-any-return]


class OneChannelMixed(nn.Module):
    """Mixes samples in one of many channels, behind real-valued sums."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 128), snn.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return self.lif(torch.cat([y[:, :1].mean(0, keepdim=True).expand(len(y), 1) * 8, y[:, 1:]], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", [BehindSilence, OneChannelMixed])
def test_mixing_that_a_sample_hides(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build()
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, torch.zeros(5, 4, 6), tmp_path / "net.onnx")
    assert report.time.startswith("fixed at the sample's"), report
    assert sxq.verify(model, tmp_path / "net.onnx", torch.rand(5, 4, 6) * 50).spikes_different == 0


def test_multi_step_neuron_that_takes_two_sequences(tmp_path: Path) -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = sj_layer.Linear(6, 6, step_mode="m"), sj_layer.Linear(6, 6, step_mode="m")
            self.sn = sj_neuron.IFNode(v_threshold=0.2, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            return self.sn(self.b(self.sn(self.a(x))))  # type: ignore[no-any-return]

    model = Reused()
    sxq.quantize_(model, sxq.Ternary())
    sxq.export_onnx(model, spikes(4, 2, 6), tmp_path / "net.onnx", input="spikes")
    report = sxq.verify(model, tmp_path / "net.onnx", spikes(4, 3, 6))
    assert report.ok, str(report)
    assert report.spikes_compared == 2 * 4 * 3 * 6
