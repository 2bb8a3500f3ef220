"""The quantised fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.config import Ternary, WeightConfig
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.quantizers.injectors import injector_for

if TYPE_CHECKING:
    from torch.nn import Linear as _Base
else:
    from brevitas.nn import QuantLinear as _Base

__all__ = ["Linear"]


class Linear(IntegerFirst, _Base):
    r"""``nn.Linear`` with quantised weights: :math:`y = (x c^\top)\,\gamma + b`.

    A Brevitas ``QuantLinear`` in all but its forward pass, which is integer-first.

    Shapes:
        input ``(..., in_features)``, output ``(..., out_features)``; codes ``(out_features, in_features)``,
        scales ``(out_features,)``, or ``(out_features, groups)`` with ``per="group"``.

    Args:
        in_features: inputs of each neuron.
        out_features: neurons.
        bias: whether to add a (float) bias.
        config: :class:`~snn_extreme_quant.Binary`, :class:`~snn_extreme_quant.Ternary` (the default) or
            :class:`~snn_extreme_quant.Uniform`.
        device: where the parameters live.
        dtype: type of the latent weight.

    Example:
        >>> layer = Linear(3, 2, bias=False)
        >>> codes, scale = layer.integer_weight()
        >>> bool(torch.equal(layer(torch.eye(3)), codes.T * scale))
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        config: WeightConfig | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with a freshly initialised weight."""
        config = Ternary() if config is None else config
        injector: dict[str, Any] = {"weight_quant": injector_for(config)}
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype, **injector)
        self._finish(config)

    @classmethod
    def _empty_like(cls, module: Any, config: WeightConfig) -> Self:
        return cls(module.in_features, module.out_features, module.bias is not None, config, device="meta")

    def _sums(self, input: Tensor, codes: Tensor) -> Tensor:
        """Sum the inputs with their codes."""
        return F.linear(input, codes)

    def to_float(self) -> nn.Linear:
        """Return an ``nn.Linear`` with the dequantised weight."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = self._float_weight(), self._float_bias()  # type: ignore[assignment]
        return layer
