"""quantize_: what it leaves and why, what it refuses, quantising twice, and the report."""

from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer as sj
from torch import Tensor, nn

from snn_extreme_quant import Binary, PrecisionPlan, Ternary, quantize_
from snn_extreme_quant.errors import (
    ConfigError,
    NothingToQuantizeError,
    UnmatchedNameError,
    UnsupportedModelError,
)
from snn_extreme_quant.layers import Linear
from tests.swapped_models import assert_unchanged, mlp, snapshot

# What is left, with the reason.


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class DoubledConv(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight, bias) * 2


class Named(nn.Linear):
    """A subclass that computes what its base computes."""


def with_parametrised_weight() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


def with_old_weight_norm() -> nn.Module:
    layer = nn.Linear(2, 2)
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(layer)


def with_forward_on_the_instance() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    return layer


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "parametrised": (with_parametrised_weight, "its weight is parametrised; remove the parametrisation first"),
    "weight norm": (with_old_weight_norm, "its weight is computed"),
    "own forward": (lambda: Doubled(2, 2), "Doubled overrides Linear.forward()"),
    "own _conv_forward": (lambda: DoubledConv(1, 1, 1), "DoubledConv overrides Conv2d._conv_forward()"),
    "forward on the instance": (with_forward_on_the_instance, "its forward() was replaced on the instance"),
    "embedding bag": (lambda: nn.EmbeddingBag(3, 3), "no quantised layer for EmbeddingBag"),
    "bilinear": (lambda: nn.Bilinear(2, 2, 2), "no quantised layer for Bilinear"),
    "rnn": (lambda: nn.RNN(2, 2), "RNN multiplies by its weights itself, not through layers"),
    "gru": (lambda: nn.GRU(2, 2), "GRU multiplies by its weights itself"),
    "lstm": (lambda: nn.LSTM(2, 2), "LSTM multiplies by its weights itself"),
    "lstm cell": (lambda: nn.LSTMCell(2, 2), "LSTMCell multiplies by its weights itself"),
    "attention": (lambda: nn.MultiheadAttention(2, 2).train(), "MultiheadAttention multiplies by its weights itself"),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_with_the_reason(case) -> None:
    make, reason = LEFT[case]
    odd = make()
    net = nn.Sequential(nn.Linear(2, 2), odd)
    report = quantize_(net, Ternary())
    assert net[1] is odd
    (entry,) = [e for e in report.left if e.name == "1"]
    assert entry.reason.startswith(reason)
    assert len(report.replaced) == 1


def test_lazy_layers_are_left_until_they_are_initialised() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    report = quantize_(net, Ternary())
    assert [(e.name, e.reason) for e in report.left] == [("1", "lazy and not initialised; run the model once first")]
    net(torch.ones(1, 2))
    quantize_(net, Ternary())
    assert type(net[1]) is Linear


def test_a_parametrised_layer_says_so_once() -> None:
    """Not also for the modules inside the parametrisation."""
    report = quantize_(nn.Sequential(nn.Linear(2, 2), with_parametrised_weight()), Ternary())
    assert [e.name for e in report.left] == ["1"]


def test_a_subclass_that_computes_the_same_is_swapped() -> None:
    net = nn.Sequential(Named(2, 2))
    assert quantize_(net, Ternary()).replaced[0].was == "Named"
    assert type(net[0]) is Linear


def test_quantising_twice() -> None:
    net = mlp()
    quantize_(net, Ternary(), skip=["4"])
    first = net[0]
    report = quantize_(net, Binary())
    assert net[0] is first
    assert first.config == Ternary()
    assert [r.names for r in report.replaced] == [("4",)]
    assert [(e.name, e.reason) for e in report.left] == [("0", "already quantised"), ("2", "already quantised")]
    with pytest.raises(NothingToQuantizeError, match="0: already quantised"):
        quantize_(net, Binary())


# The report.


def test_report_text() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Conv2d(1, 2, 3), nn.LSTM(3, 4), nn.Linear(8, 2))
    report = quantize_(net, PrecisionPlan({"0": Binary()}, default=Ternary()), skip=["3"])
    assert str(report).splitlines() == [
        "2 layers quantised, 2 left in float",
        "0  Linear  binary   8x4",
        "1  Conv2d  ternary  2x1x3x3",
        "2  LSTM    float    LSTM multiplies by its weights itself, not through layers that could be swapped",
        "3  Linear  float    skipped by name",
    ]


def test_report_says_which_layer_was_meant_when_one_only_is_swapped() -> None:
    text = str(quantize_(nn.Sequential(nn.Linear(2, 2)), Ternary()))
    assert text.splitlines()[0] == "1 layer quantised, 0 left in float"


def test_plan_that_names_a_layer_that_cannot_be_quantised_says_why() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.EmbeddingBag(3, 4))
    with pytest.raises(UnmatchedNameError, match=r"'1' cannot be quantised: no quantised layer for EmbeddingBag"):
        quantize_(model, PrecisionPlan({"1": Binary()}, default=Ternary()))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(nn.Linear(4, 4, dtype=torch.complex64), "complex64"), (nn.Linear(4, 4, device="meta"), "meta device")],
)
def test_weights_that_are_no_numbers_are_left(layer: nn.Module, reason: str) -> None:
    report = quantize_(nn.Sequential(nn.Linear(4, 4), layer), Ternary())
    assert [(entry.name, reason in entry.reason) for entry in report.left] == [("1", True)]


def test_arguments_of_other_types() -> None:
    with pytest.raises(UnsupportedModelError, match="NoneType"):
        quantize_(None, Ternary())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="strings"):
        quantize_(nn.Sequential(nn.Linear(4, 4)), Ternary(), skip=[0])  # type: ignore[list-item]


# Nothing is left to quantise, or the model is the layer.


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (nn.Sequential, "Sequential: it has no weight matrices"),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), "it has no weight matrices"),
        (lambda: nn.Sequential(nn.EmbeddingBag(3, 3)), "0: no quantised layer for EmbeddingBag"),
        (lambda: nn.Sequential(nn.LSTM(3, 3)), "0: LSTM multiplies by its weights itself"),
        (lambda: snn.Leaky(0.5), "Leaky: it has no weight matrices"),
    ],
    ids=["empty", "no matrix", "embedding bag", "lstm", "a neuron"],
)
def test_nothing_to_quantise(make: Callable[[], nn.Module], why) -> None:
    net = make()
    before = snapshot(net)
    with pytest.raises(NothingToQuantizeError, match=why):
        quantize_(net, Ternary())
    assert_unchanged(net, before)


def test_everything_skipped() -> None:
    with pytest.raises(NothingToQuantizeError, match="0: skipped by name; 2: skipped by name; 4: skipped by name"):
        quantize_(mlp(), Ternary(), skip=["*"])
    with pytest.raises(NothingToQuantizeError, match="0: float by plan"):
        quantize_(mlp(), PrecisionPlan())


@pytest.mark.parametrize(
    "layer", [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), sj.Linear(2, 2)], ids=lambda m: type(m).__module__
)
def test_a_model_that_is_itself_the_layer(layer) -> None:
    with pytest.raises(UnsupportedModelError, match=r"itself a (Linear|Conv2d); put it into nn\.Sequential"):
        quantize_(layer, Ternary())


def test_a_model_that_derives_from_a_layer() -> None:
    class Net(nn.Linear):
        """A layer by another name."""

    with pytest.raises(UnsupportedModelError, match=r"itself a Net; put it into nn\.Sequential"):
        quantize_(Net(2, 2), Ternary())


def test_a_quantised_layer_at_the_top() -> None:
    with pytest.raises(NothingToQuantizeError, match="already quantised"):
        quantize_(Linear(2, 2), Ternary())
