"""Quantised layers that know SpikingJelly's step modes, under SpikingJelly's names.

In mode ``"s"`` a layer takes one step ``(N, ...)``, in mode ``"m"`` a sequence ``(T, N, ...)``.

Example:
    >>> layer = Conv2d(1, 4, 3, padding=1, step_mode="m")
    >>> import torch
    >>> layer(torch.ones(5, 2, 1, 8, 8)).shape
    torch.Size([5, 2, 4, 8, 8])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from spikingjelly.activation_based import base, functional
from spikingjelly.activation_based import layer as sj_layer
from torch import Tensor, nn

from snn_extreme_quant import layers
from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import SampleError

if TYPE_CHECKING:

    class _StepModule:
        step_mode: str
else:
    _StepModule = base.StepModule

__all__ = [
    "INNER_LAYERS",
    "LAYERS",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "inner_layers",
]


class _Stepped(_StepModule):
    """Adds ``step_mode``, at construction and when taking the place of a float layer."""

    def __init__(self, *args: Any, step_mode: str = "s", **kwargs: Any) -> None:
        """Create the layer; all arguments but ``step_mode`` go to the quantised layer."""
        super().__init__(*args, **kwargs)
        self.step_mode = step_mode

    @classmethod
    def from_float(cls, module: nn.Module, config: WeightConfig) -> Self:
        """Take the place of ``module``, in its step mode."""
        layer: Self = super().from_float(module, config)  # type: ignore[misc]
        layer.step_mode = getattr(module, "step_mode", "s")
        return layer

    def extra_repr(self) -> str:
        """Show the step mode too."""
        return f"{super().extra_repr()}, step_mode={self.step_mode}"  # type: ignore[misc]


class Linear(_Stepped, layers.Linear):
    """SpikingJelly's ``layer.Linear`` with low-bit weights (either mode reads the last axis)."""


class _SteppedConv(_Stepped):
    _SEQUENCE: tuple[str, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve one step or a sequence of steps.

        Raises:
            SampleError: in mode ``"m"``, the input is no batched sequence.
        """
        forward = super().forward  # type: ignore[misc]
        if self.step_mode == "m" and input.dim() != len(self._SEQUENCE):
            # Without this check torch would take (T, C, ...) for one image of T * C channels.
            raise SampleError(
                f"{type(self).__name__}(step_mode='m') takes ({', '.join(self._SEQUENCE)}); got {tuple(input.shape)}."
                " Use step_mode='s' for single steps."
            )
        output: Tensor = forward(input) if self.step_mode == "s" else functional.seq_to_ann_forward(input, (forward,))
        return output


class Conv1d(_SteppedConv, layers.Conv1d):
    """SpikingJelly's ``layer.Conv1d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "L")


class Conv2d(_SteppedConv, layers.Conv2d):
    """SpikingJelly's ``layer.Conv2d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "H", "W")


class Conv3d(_SteppedConv, layers.Conv3d):
    """SpikingJelly's ``layer.Conv3d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "D", "H", "W")


class ConvTranspose1d(_SteppedConv, layers.ConvTranspose1d):  # type: ignore[misc]
    """SpikingJelly's ``layer.ConvTranspose1d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "L")


class ConvTranspose2d(_SteppedConv, layers.ConvTranspose2d):  # type: ignore[misc]
    """SpikingJelly's ``layer.ConvTranspose2d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "H", "W")


class ConvTranspose3d(_SteppedConv, layers.ConvTranspose3d):  # type: ignore[misc]
    """SpikingJelly's ``layer.ConvTranspose3d`` with low-bit weights."""

    _SEQUENCE = ("T", "N", "C", "D", "H", "W")


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    sj_layer.Linear: Linear,
    sj_layer.Conv1d: Conv1d,
    sj_layer.Conv2d: Conv2d,
    sj_layer.Conv3d: Conv3d,
    sj_layer.ConvTranspose1d: ConvTranspose1d,
    sj_layer.ConvTranspose2d: ConvTranspose2d,
    sj_layer.ConvTranspose3d: ConvTranspose3d,
}

#: Stateful containers, which count as neurons, each with the children that it calls like any module.
INNER_LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    sj_layer.LinearRecurrentContainer: ("sub_module", "rc"),
    sj_layer.ElementWiseRecurrentContainer: ("sub_module",),
}


def inner_layers(module: nn.Module) -> Sequence[str]:
    """Return the attributes of a stateful module that it calls like any layer, and which may therefore be swapped.

    Subclasses of the containers may use their children in another way: they get none.

    Example:
        >>> inner_layers(sj_layer.LinearRecurrentContainer(sj_layer.Linear(4, 4), 4, 4))
        ('sub_module', 'rc')
    """
    return INNER_LAYERS.get(type(module), ())
