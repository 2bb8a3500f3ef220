"""The quantised transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.config import Ternary, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.quantizers.injectors import injector_for

if TYPE_CHECKING:
    from torch.nn import ConvTranspose1d as _ConvTranspose1dBase
    from torch.nn import ConvTranspose2d as _ConvTranspose2dBase
    from torch.nn import ConvTranspose3d as _ConvTranspose3dBase
else:
    from brevitas.nn import QuantConvTranspose1d as _ConvTranspose1dBase
    from brevitas.nn import QuantConvTranspose2d as _ConvTranspose2dBase
    from brevitas.nn import QuantConvTranspose3d as _ConvTranspose3dBase

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    """Exchange input and output channels within each group: ``(G I, O, ...)`` to ``(G O, I, ...)``, and back."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


class _ConvTranspose(IntegerFirst):
    """What the transposed convolutions share; ``_FLOAT`` is the ``torch.nn`` class they stand for."""

    groups: int
    _FLOAT: Any
    _TRANSPOSED: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        config: WeightConfig | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with a freshly initialised weight; arguments as ``torch.nn``'s, and ``config``."""
        config = Ternary() if config is None else config
        options: dict[str, Any] = {"weight_quant": injector_for(config), "device": device, "dtype": dtype}
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            bias=bias,
            dilation=dilation,
            padding_mode=padding_mode,
            **options,
        )
        self._finish(config)

    @classmethod
    def _empty_like(cls, module: Any, config: WeightConfig) -> Self:
        options: dict[str, Any] = {"config": config, "device": "meta"}
        return cls(*_geometry(module), **options)

    def _canonical(self, weight: Tensor) -> Tensor:
        return _swap_channels(weight, self.groups)

    def _sums(self, input: Tensor, codes: Tensor) -> Tensor:
        weight = _swap_channels(codes, self.groups)
        return type(self)._TRANSPOSED(
            input, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def _per_output(self, values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (self.weight.dim() - 2))

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return the scaled sums plus the bias.

        Raises:
            ConfigError: ``output_size`` is given. The layer is one operator with fixed attributes, so the size it adds
                is fixed at construction, by ``output_padding``.
        """
        if output_size is not None:
            raise ConfigError(
                f"{type(self).__name__} takes no output_size in a call; build it with output_padding=... instead."
            )
        return super().forward(input)

    def _float_weight(self) -> nn.Parameter:
        return nn.Parameter(_swap_channels(self.dequantised().detach(), self.groups).contiguous())

    def to_float(self) -> nn.Module:
        """Return the ``torch.nn`` transposed convolution with the dequantised weight."""
        layer: Any = self._FLOAT(*_geometry(self), device="meta")
        layer.weight, layer.bias = self._float_weight(), self._float_bias()
        return cast("nn.Module", layer.train(self.training))


def _geometry(module: Any) -> tuple[Any, ...]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups")
    return (
        *(getattr(module, name) for name in names),
        module.bias is not None,
        module.dilation,
        module.padding_mode,
    )


class ConvTranspose1d(_ConvTranspose, _ConvTranspose1dBase):
    r"""``nn.ConvTranspose1d`` with low-bit weights: :math:`y = (x *^\top c)\,\gamma + b`, integer-first.

    Scales belong to output channels, though torch keeps the weight with the input channels first.

    Shapes:
        input ``(B, C, L)`` or ``(C, L)``, output ``(B, N, L')`` or ``(N, L')``; codes ``(N, C / groups, k)``, scales
        ``(N,)``.

    Raises:
        ConfigError: a call gives ``output_size``.

    Example:
        >>> ConvTranspose1d(2, 4, 3, stride=2)(torch.ones(1, 2, 5)).shape
        torch.Size([1, 4, 11])
    """

    _FLOAT = nn.ConvTranspose1d
    _input_axis = -2
    _TRANSPOSED = F.conv_transpose1d


class ConvTranspose2d(_ConvTranspose, _ConvTranspose2dBase):
    r"""``nn.ConvTranspose2d`` with low-bit weights: :math:`y = (x *^\top c)\,\gamma + b`, integer-first.

    Scales belong to output channels, though torch keeps the weight with the input channels first.

    Shapes:
        input ``(B, C, H, W)`` or ``(C, H, W)``, output ``(B, N, H', W')`` or ``(N, H', W')``; codes
        ``(N, C / groups, kh, kw)``, scales ``(N,)``.

    Raises:
        ConfigError: a call gives ``output_size``.

    Example:
        >>> ConvTranspose2d(2, 4, 2, stride=2)(torch.ones(1, 2, 5, 6)).shape
        torch.Size([1, 4, 10, 12])
    """

    _FLOAT = nn.ConvTranspose2d
    _input_axis = -3
    _TRANSPOSED = F.conv_transpose2d


class ConvTranspose3d(_ConvTranspose, _ConvTranspose3dBase):
    r"""``nn.ConvTranspose3d`` with low-bit weights: :math:`y = (x *^\top c)\,\gamma + b`, integer-first.

    Scales belong to output channels, though torch keeps the weight with the input channels first.

    Shapes:
        input ``(B, C, D, H, W)`` or ``(C, D, H, W)``, output ``(B, N, D', H', W')`` or ``(N, D', H', W')``; codes
        ``(N, C / groups, kd, kh, kw)``, scales ``(N,)``.

    Raises:
        ConfigError: a call gives ``output_size``.

    Example:
        >>> ConvTranspose3d(2, 4, 2, stride=2)(torch.ones(1, 2, 3, 4, 5)).shape
        torch.Size([1, 4, 6, 8, 10])
    """

    _FLOAT = nn.ConvTranspose3d
    _input_axis = -4
    _TRANSPOSED = F.conv_transpose3d
