"""The quantised convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.config import Ternary, WeightConfig
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.quantizers.injectors import injector_for

if TYPE_CHECKING:
    from torch.nn import Conv1d as _Conv1dBase
    from torch.nn import Conv2d as _Conv2dBase
    from torch.nn import Conv3d as _Conv3dBase
else:
    from brevitas.nn import QuantConv1d as _Conv1dBase
    from brevitas.nn import QuantConv2d as _Conv2dBase
    from brevitas.nn import QuantConv3d as _Conv3dBase

__all__ = ["Conv1d", "Conv2d", "Conv3d"]


class _Conv(IntegerFirst):
    """What the convolutions share; ``_FLOAT`` is the ``torch.nn`` class they stand for."""

    _FLOAT: Any
    _conv_forward: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        config: WeightConfig | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with a freshly initialised weight; arguments as ``torch.nn``'s, and ``config``."""
        config = Ternary() if config is None else config
        # Brevitas takes only "zeros" in its constructor; the forward pass below is torch's own and knows all modes.
        options: dict[str, Any] = {"weight_quant": injector_for(config), "device": device, "dtype": dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=bias, **options
        )
        reference = self._FLOAT(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device="meta"
        )
        for name in ("stride", "padding", "dilation", "padding_mode", "_reversed_padding_repeated_twice"):
            setattr(self, name, getattr(reference, name))
        self._finish(config)

    @classmethod
    def _empty_like(cls, module: Any, config: WeightConfig) -> Self:
        options: dict[str, Any] = {"config": config, "device": "meta"}
        return cls(*_geometry(module), **options)

    def _sums(self, input: Tensor, codes: Tensor) -> Tensor:
        return cast("Tensor", self._conv_forward(input, codes, None))

    def _per_output(self, values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (self.weight.dim() - 2))

    def to_float(self) -> nn.Module:
        """Return the ``torch.nn`` convolution with the dequantised weight."""
        layer: Any = self._FLOAT(*_geometry(self), device="meta")
        layer.weight, layer.bias = self._float_weight(), self._float_bias()
        return cast("nn.Module", layer.train(self.training))


def _geometry(module: Any) -> tuple[Any, ...]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    return (*(getattr(module, name) for name in names), module.bias is not None, module.padding_mode)


class Conv1d(_Conv, _Conv1dBase):
    r"""``nn.Conv1d`` with low-bit weights: :math:`y = (x * c)\,\gamma + b`, integer-first.

    Shapes:
        input ``(B, C, L)`` or ``(C, L)``, output ``(B, N, L')`` or ``(N, L')``; codes ``(N, C / groups, k)``, scales
        ``(N,)``.

    Example:
        >>> Conv1d(2, 4, 3, padding="same")(torch.ones(1, 2, 5)).shape
        torch.Size([1, 4, 5])
    """

    _FLOAT = nn.Conv1d
    _input_axis = -2


class Conv2d(_Conv, _Conv2dBase):
    r"""``nn.Conv2d`` with low-bit weights: :math:`y = (x * c)\,\gamma + b`, integer-first.

    Shapes:
        input ``(B, C, H, W)`` or ``(C, H, W)``, output ``(B, N, H', W')`` or ``(N, H', W')``; codes
        ``(N, C / groups, kh, kw)``, scales ``(N,)``.

    Example:
        >>> from snn_extreme_quant import Binary
        >>> Conv2d(1, 4, 3, padding=1, config=Binary())(torch.ones(1, 1, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    _FLOAT = nn.Conv2d
    _input_axis = -3


class Conv3d(_Conv, _Conv3dBase):
    r"""``nn.Conv3d`` with low-bit weights: :math:`y = (x * c)\,\gamma + b`, integer-first.

    Shapes:
        input ``(B, C, D, H, W)`` or ``(C, D, H, W)``, output ``(B, N, D', H', W')`` or ``(N, D', H', W')``; codes
        ``(N, C / groups, kd, kh, kw)``, scales ``(N,)``.

    Example:
        >>> Conv3d(1, 4, 3, padding=1)(torch.ones(1, 1, 4, 8, 8)).shape
        torch.Size([1, 4, 4, 8, 8])
    """

    _FLOAT = nn.Conv3d
    _input_axis = -4
