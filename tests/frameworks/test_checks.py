"""What plugins ask before they read a neuron."""

import pytest
import torch
from torch import nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.checks import fires_like_a_step, readable_class

READABLE = [nn.ReLU, nn.Tanh]
REASONS = {"Sigmoid": "it is smooth; use ReLU."}


class Plain(nn.ReLU):
    def describe(self) -> str:
        return "a gate"


class Changed(nn.ReLU):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


class Smooth(nn.Sigmoid): ...


class Sigmoid(nn.Module):
    """A namesake from another package."""


def ask(module: nn.Module) -> type[nn.Module]:
    return readable_class(module, READABLE, ("forward",), REASONS)


def test_the_class_itself_and_subclasses_that_compute_the_same() -> None:
    assert ask(nn.ReLU()) is nn.ReLU
    assert ask(nn.Tanh()) is nn.Tanh
    assert ask(Plain()) is nn.ReLU


def replaced() -> nn.Module:
    module = nn.ReLU()
    module.forward = lambda input: input
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Changed, r"^Changed overrides forward\(\) of ReLU, .*; use ReLU itself\.$"),
        (replaced, r"^ReLU overrides forward\(\) of ReLU"),
        (nn.Sigmoid, r"^Sigmoid has no exact spec: it is smooth; use ReLU\.$"),
        (Smooth, r"^Smooth \(a Sigmoid\) has no exact spec: it is smooth; use ReLU\.$"),
        (Sigmoid, r"^Sigmoid is no neuron that has an exact spec; use one of ReLU, Tanh\.$"),
        (nn.Hardswish, r"^Hardswish is no neuron"),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(UnsupportedNeuronError, match=message):
        ask(make())


@pytest.mark.parametrize("at_zero", [False, True])
def test_steps(at_zero) -> None:
    assert fires_like_a_step(lambda x: (x > 0).float(), at_zero=at_zero) is not at_zero
    assert fires_like_a_step(lambda x: (x >= 0).float(), at_zero=at_zero) is at_zero


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(0, 1),
        lambda x: 2 * (x > 0).float(),
        lambda x: (x > 0).double(),
        lambda x: x > 0,
        lambda x: (x.sigmoid() > torch.rand_like(x)).float(),
        lambda x: 1 / 0,
        lambda x: None,
    ],
    ids=["ramp", "two", "double", "bool", "random", "raises", "nothing"],
)
def test_what_is_no_step(function) -> None:
    assert not fires_like_a_step(function, at_zero=False)


def test_a_step_that_writes_to_its_input() -> None:
    """The probe is a copy, so that the second look sees what the first saw."""
    assert fires_like_a_step(lambda x: x.copy_((x > 0).float()), at_zero=False)
