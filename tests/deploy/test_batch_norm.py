"""Batch norms are folded into the layer before them where that is what the model computes, and only there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as jelly
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.recording.batch_norm import deployed, unfolded, watching
from snn_extreme_quant.errors import UnsupportedModelError
from tests.deploy.random_layers import spikes
from tests.deploy.random_networks import Loop, Skip


def lif() -> nn.Module:
    return snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True)


def seen_data(model: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, and factors of either sign."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.3, 2, generator=generator)  # type: ignore[union-attr]
                if module.affine:
                    module.weight.normal_(0, 1, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
    return model


def prepared(model: nn.Module, config: sxq.Ternary | sxq.Binary | sxq.Uniform | None = None) -> Any:
    """Quantised, with batch norms that have seen data, in evaluation mode."""
    sxq.quantize_(seen_data(model), config or sxq.Ternary())
    return model.eval()


def folds_of(model: nn.Module, inputs: Tensor) -> dict[str, str]:
    with torch.no_grad(), watching(model) as found:
        model(inputs)
    return {name: fold.layer for name, fold in found.items()}


def check(model: nn.Module, inputs: Tensor, folds: dict[str, str], path: Path, *, exact: bool = True) -> None:
    """The file folds what it should, and is the model."""
    report = sxq.export_onnx(model, inputs, path, input="spikes")
    assert report.batch_norms == folds
    assert report.exact == exact, str(report)
    result = sxq.verify(model, path, [inputs, torch.cat([inputs, inputs], 1)])
    assert result.spikes_different == 0, str(result)
    assert result.firing_rate > 0
    assert result.batch_norms is not None
    assert result.batch_norms.compared == result.spikes_compared


# Numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    "config", [sxq.Ternary(), sxq.Binary(per="tensor"), sxq.Uniform(4), sxq.Ternary(per="group", group_size=3)]
)
def test_the_folded_layer(bias: bool, affine: bool, config: Any) -> None:
    """Scale times factor, bias times factor plus shift: computed in float64, rounded once."""
    torch.manual_seed(0)
    model = prepared(nn.Sequential(nn.Linear(8, 16, bias=bias), nn.BatchNorm1d(16, eps=1e-3, affine=affine)), config)
    linear, norm = model
    x = spikes(5, 8)
    with torch.no_grad():
        own = model(x)
        with watching(model) as folds:
            model(x)
        codes, scale = linear.integer_weight()
        with deployed(model, folds):
            folded = model(x)
            _, folded_scale = linear.integer_weight()
    factor = (norm.weight.double() if affine else 1.0) / (norm.running_var.double() + 1e-3).sqrt()
    shift = (norm.bias.double() if affine else 0.0) - norm.running_mean.double() * factor
    shift = shift + (linear.bias.double() * factor if bias else 0.0)
    factor, shift = factor.float(), shift.float()
    assert torch.equal(folded_scale, scale * (factor if scale.dim() == 1 else factor[:, None]))
    groups = [(x[:, i : i + 3] @ codes[:, i : i + 3].T) for i in range(0, 8, 3)] if scale.dim() > 1 else [x @ codes.T]
    columns = folded_scale.reshape(16, -1)
    total = sum(sums * columns[:, i] for i, sums in enumerate(groups))
    assert torch.equal(folded, total + shift)
    assert torch.allclose(folded, own, rtol=1e-5, atol=1e-5)
    assert not torch.equal(folded, own), "rounded alike everywhere: the comparison in verify would be for nothing"
    if affine:
        assert bool((folded_scale < 0).any()), "the test is meant to have negative factors"


def test_a_batch_norm_by_itself_is_a_product_and_a_sum() -> None:
    model = seen_data(nn.Sequential(nn.BatchNorm2d(3))).eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad(), watching(model) as folds:
        own = model(x)
    with torch.no_grad(), deployed(model, folds):
        result = model(x)
    fold = folds["0"]
    assert fold.layer == ""
    assert torch.equal(result, x * fold.factor.float().view(3, 1, 1) + fold.shift.float().view(3, 1, 1))
    assert torch.allclose(result, own, atol=1e-5)


# Where -------------------------------------------------------------------------------------------------------------


def image(*modules: nn.Module) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*modules), spikes(5, 2, 2, 6, 6)


FOLDED: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], dict[str, str]]] = {
    "linear": (lambda: (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), lif()), spikes(5, 2, 6)), {"1": "0"}),
    "conv1d": (
        lambda: (nn.Sequential(nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), lif()), spikes(5, 2, 2, 6)),
        {"1": "0"},
    ),
    "conv2d": (lambda: image(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), lif()), {"1": "0"}),
    "conv3d": (
        lambda: (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), lif()), spikes(5, 2, 2, 3, 3, 3)),
        {"1": "0"},
    ),
    "transposed and grouped": (
        lambda: image(nn.ConvTranspose2d(2, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), lif()),
        {"1": "0"},
    ),
    "without factors": (lambda: image(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), lif()), {"1": "0"}),
    "cumulative average": (lambda: image(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), lif()), {"1": "0"}),
    "in a loop": (
        lambda: (Loop(nn.Linear(6, 8), nn.BatchNorm1d(8), snn.Leaky(0.9, 0.3)), spikes(5, 2, 6)),
        {"steps.1": "steps.0"},
    ),
    "behind pooling": (
        lambda: image(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), lif()),
        {"2": ""},
    ),
    "behind another": (
        lambda: image(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), lif()),
        {"1": "0", "2": ""},
    ),
    "before the layer, behind spikes": (
        lambda: image(nn.BatchNorm2d(2), lif(), nn.Conv2d(2, 4, 3), lif()),
        {"0": ""},
    ),
    "before and after": (
        lambda: (Skip(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), lif()), spikes(5, 2, 2, 6, 6)),
        {"norm": ""},
    ),
    "over the steps of a linear layer": (
        lambda: (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(3), lif()), spikes(5, 2, 3, 6)),
        {"1": ""},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_where_it_is_folded(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, folds = FOLDED[case]
    model, inputs = build()
    check(prepared(model), inputs, folds, tmp_path / "net.onnx")


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_spikingjelly(axes: int, mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv, norm = getattr(sj_layer, f"Conv{axes}d"), getattr(sj_layer, f"BatchNorm{axes}d")
    model = nn.Sequential(
        conv(2, 4, 2, step_mode=mode), norm(4, step_mode=mode), jelly.IFNode(v_threshold=0.3, step_mode=mode)
    )
    check(prepared(model), spikes(5, 2, 2, *(4, 3, 3)[:axes]), {"1": "0"}, tmp_path / "net.onnx")


def test_features_in_sequences(tmp_path: Path) -> None:
    """SpikingJelly's BatchNorm1d of ``(T, N, C)``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        sj_layer.Linear(6, 8, step_mode="m"),
        sj_layer.BatchNorm1d(8, step_mode="m"),
        jelly.IFNode(v_threshold=0.3, step_mode="m"),
    )
    check(prepared(model), spikes(5, 2, 6), {"1": "0"}, tmp_path / "net.onnx")


def test_threshold_dependent(tmp_path: Path) -> None:
    """tdBN scales by the threshold too (Zheng et al. 2021)."""
    torch.manual_seed(0)
    norm = sj_layer.ThresholdDependentBatchNorm2d(1.0, 0.5, 4)
    norm.step_mode = "m"
    model = nn.Sequential(sj_layer.Conv2d(2, 4, 3, step_mode="m"), norm, jelly.IFNode(v_threshold=0.5, step_mode="m"))
    check(prepared(model), spikes(5, 2, 2, 6, 6), {"1": "0"}, tmp_path / "net.onnx")


class SharedLayer(nn.Module):
    """One layer with two batch norms: each would need scales of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.a, self.b = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.lif = lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.a(self.layer(x)) + self.b(self.layer(x.flip(-1))))


class SharedNorm(nn.Module):
    """One batch norm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.lif = lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.norm(self.a(x)) + self.norm(self.b(x)))


class SharedBoth(nn.Module):
    """A layer that is called twice, each time with its batch norm: folded like a layer called once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.lif = lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.norm(self.layer(x)) + self.norm(self.layer(x.flip(-1))))


@pytest.mark.parametrize(
    ("build", "folds"),
    [(SharedLayer, {"a": "", "b": ""}), (SharedNorm, {"norm": ""}), (SharedBoth, {"norm": "layer"})],
)
def test_shared(build: type[nn.Module], folds: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(prepared(build()), spikes(5, 2, 6), folds, tmp_path / "net.onnx")


def test_left_in_float_is_not_folded_into() -> None:
    model = seen_data(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), lif())).eval()
    assert folds_of(model, spikes(2, 6)) == {"1": ""}


def test_statistics_of_the_batch_are_not_a_constant(tmp_path: Path) -> None:
    """Samples would depend on each other, and on how many there are."""
    model = prepared(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), lif()))
    with pytest.raises(UnsupportedModelError, match="'1' normalises by the batch"):
        sxq.export_onnx(model, spikes(5, 4, 6), tmp_path / "net.onnx", input="spikes")


class _Twice(nn.Module):
    """A batch norm and a shortcut from before it; close to the identity, so that a wrong fold is a small error."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 16, bias=False)
        self.norm = nn.BatchNorm1d(16)
        self.lif = lif()
        nn.init.constant_(self.norm.bias, 5e-5)

    def forward(self, x: Tensor) -> Tensor:
        current = self.fc(x)
        return self.lif(self.norm(current) + current)


def test_not_folded_where_the_output_goes_elsewhere_too(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = _Twice()
    sxq.quantize_(model, sxq.Ternary())
    inputs = (torch.rand(16, 64, 8) < 0.5).float()
    report = sxq.export_onnx(model, inputs, tmp_path / "net.onnx", input="spikes")
    assert report.batch_norms == {"norm": ""}
    assert sxq.verify(model, tmp_path / "net.onnx", inputs).ok


def test_a_batch_norm_that_stays_in_training_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    class Training(_Twice):
        def train(self, mode: bool = True) -> Training:
            super().train(mode)
            self.norm.train(True)
            return self

    model = Training()
    sxq.quantize_(model, sxq.Ternary())
    before = {name: value.clone() for name, value in model.norm.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match="'norm' normalises by the batch"):
        sxq.export_onnx(model, torch.ones(3, 2, 8), tmp_path / "net.onnx", input="spikes")
    assert all(torch.equal(before[name], value) for name, value in model.norm.state_dict().items())


# The model is left alone -------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, Any]:
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    folded = {name: getattr(module, "folded", None) for name, module in model.named_modules()}
    return {"attributes": attributes, "folded": folded, "training": [m.training for m in model.modules()]}


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prepared(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), lif(), nn.AvgPool2d(2), nn.BatchNorm2d(4), lif())
    )
    inputs = spikes(4, 2, 2, 6, 6)
    model.train()
    before, weights = state_of(model), copy.deepcopy(model.state_dict())
    sxq.export_onnx(model, inputs, tmp_path / "net.onnx", input="spikes")
    sxq.verify(model, tmp_path / "net.onnx", inputs)
    assert state_of(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    model = prepared(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)))
    before = state_of(model)
    with pytest.raises(RuntimeError), watching(model):
        model(spikes(2, 5))
    assert state_of(model) == before
    with watching(model) as folds:
        model(spikes(2, 6))
    with deployed(model, folds):
        assert model[0].folded is not None
    with pytest.raises(RuntimeError), deployed(model, folds):
        model(spikes(2, 5))
    assert state_of(model) == before


def test_unfolded() -> None:
    model = prepared(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    with watching(model) as folds:
        model(spikes(2, 6))
    apart = unfolded(folds)
    assert {name: fold.layer for name, fold in apart.items()} == {"1": ""}
    assert torch.equal(apart["1"].factor, folds["1"].factor)


# What verify tells -------------------------------------------------------------------------------------------------


def test_a_spike_that_folding_flips_is_counted(tmp_path: Path) -> None:
    """The threshold is a current of the model as it is trained; folding makes the same current a last bit lower."""
    torch.manual_seed(0)
    model = prepared(nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64)))
    x = torch.ones(1, 1, 4)
    with torch.no_grad(), watching(model) as folds:
        own = model(x[0])
    with torch.no_grad(), deployed(model, folds):
        folded = model(x[0])
    lower = ((folded < own) & (own > 0)).nonzero()
    assert len(lower), "no current that folding rounds down"
    threshold = float(own[tuple(lower[0])])
    model = nn.Sequential(*model, jelly.IFNode(v_threshold=threshold))
    report = sxq.export_onnx(model, x, tmp_path / "net.onnx", input="spikes")
    assert report.batch_norms == {"1": "0"}
    result = sxq.verify(model, tmp_path / "net.onnx", x)
    assert result.spikes_different == 0, "the file is the folded model"
    assert result.batch_norms is not None
    assert result.batch_norms.compared == 64
    assert result.batch_norms.different == int(((own >= threshold) != (folded >= threshold)).sum()) > 0
    assert result.batch_norms.samples == 1
    assert f"changes {result.batch_norms.different} of 64 spikes" in str(result)


def test_nothing_to_tell_without_batch_norms(tmp_path: Path) -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 8), lif()))
    sxq.export_onnx(model, spikes(3, 2, 4), tmp_path / "net.onnx", input="spikes")
    result = sxq.verify(model, tmp_path / "net.onnx", spikes(3, 2, 4))
    assert result.batch_norms is None
    assert "batch norm" not in str(result)
