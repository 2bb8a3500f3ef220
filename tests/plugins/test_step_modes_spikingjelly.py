"""SpikingJelly's layers of low precision: step modes."""

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.frameworks.testing import assert_same_bits
from snn_extreme_quant_spikingjelly import layers as sxq_layers
from snn_extreme_quant_spikingjelly import plugin

LAYERS = [
    (layer.Linear, sxq_layers.Linear, (6, 5), (3, 2, 6)),
    (layer.Conv1d, sxq_layers.Conv1d, (2, 4, 3), (3, 2, 2, 9)),
    (layer.Conv2d, sxq_layers.Conv2d, (2, 4, 3), (3, 2, 2, 7, 7)),
    (layer.Conv3d, sxq_layers.Conv3d, (2, 4, 3), (3, 2, 2, 4, 5, 4)),
    (layer.ConvTranspose1d, sxq_layers.ConvTranspose1d, (2, 4, 3), (3, 2, 2, 9)),
    (layer.ConvTranspose2d, sxq_layers.ConvTranspose2d, (2, 4, 3), (3, 2, 2, 7, 7)),
    (layer.ConvTranspose3d, sxq_layers.ConvTranspose3d, (2, 4, 3), (3, 2, 2, 4, 5, 4)),
]
NAMES = [row[0].__name__ for row in LAYERS]


def test_every_layer_of_the_plugin_is_tested() -> None:
    assert {row[0]: row[1] for row in LAYERS} == dict(plugin.layers())


@pytest.mark.parametrize(("float_class", "quantised", "arguments", "shape"), LAYERS, ids=NAMES)
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_layers_take_over_the_step_mode(
    float_class: Any, quantised: Any, arguments: tuple[int, ...], shape: tuple[int, ...], step_mode: str
) -> None:
    """In mode "m" a sequence gives what mode "s" gives step by step."""
    swapped = quantised.from_float(float_class(*arguments, step_mode=step_mode), Binary())
    assert swapped.step_mode == step_mode
    assert f"step_mode={step_mode}" in repr(swapped)
    x = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).float()
    outputs = swapped(x) if step_mode == "m" else torch.stack([swapped(step) for step in x])
    functional.set_step_mode(swapped, "s" if step_mode == "m" else "m")
    others = torch.stack([swapped(step) for step in x]) if step_mode == "m" else swapped(x)
    assert_same_bits(outputs, others, "output in the other step mode")


@pytest.mark.parametrize(("float_class", "quantised", "arguments", "shape"), LAYERS, ids=NAMES)
def test_layers_are_step_modules(
    float_class: Any, quantised: Any, arguments: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """SpikingJelly's own functions accept them, and refuse modes that do not exist."""
    made = quantised(*arguments, step_mode="m", config=Ternary())
    assert isinstance(made, base.StepModule)
    assert made.step_mode == "m"
    assert made(torch.ones(shape)).shape == float_class(*arguments, step_mode="m")(torch.ones(shape)).shape
    with pytest.raises(ValueError, match="x"):
        made.step_mode = "x"


def test_convolution_mode_m_needs_a_time_axis() -> None:
    made: Any = sxq_layers.Conv2d(2, 4, 3, step_mode="m")
    with pytest.raises(SampleError, match=r"Conv2d\(step_mode='m'\) takes \(T, N, C, H, W\); got \(2, 1, 7, 7\)"):
        made(torch.ones(2, 1, 7, 7))  # torch would take it for one image of two channels
