"""Real-valued input on a grid on which sums are exact."""

from __future__ import annotations

from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError

__all__ = ["FixedPointInput"]


class FixedPointInput(nn.Module):
    r"""Round the input to unsigned fixed point: :math:`q = \mathrm{clamp}(\mathrm{round}(x\,2^f), 0, 2^b - 1)\,2^{-f}`.

    A layer with integer codes that is fed real numbers adds floats, and two runtimes may add them in another order.
    Multiples of :math:`2^{-f}` add without rounding, so behind this module the first layer is exact like the others.
    The gradient is that of the identity inside the range and 0 outside.

    Args:
        bits: b, width of the integer (1 to 16; up to 8, deployment may use integer products).
        fraction: f, bits behind the point; the range is 0 to :math:`(2^b - 1)\,2^{-f}`.

    Shapes:
        Any; the output has the input's.

    Example:
        >>> import torch
        >>> FixedPointInput(bits=8, fraction=7)(torch.tensor([0.1, 0.5, 3.0])).tolist()
        [0.1015625, 0.5, 1.9921875]
    """

    def __init__(self, bits: int = 8, fraction: int = 7) -> None:
        """Check the format."""
        super().__init__()
        if type(bits) is not int or type(fraction) is not int or not (1 <= bits <= 16 and 0 <= fraction <= 16):
            raise ConfigError(f"FixedPointInput(bits={bits}, fraction={fraction}): use bits 1..16 and fraction 0..16.")
        self.bits = bits
        self.fraction = fraction

    @property
    def highest(self) -> float:
        """The largest value that can be represented."""
        return float((2**self.bits - 1) * 2.0**-self.fraction)

    def forward(self, input: Tensor) -> Tensor:
        """Clamp and round."""
        clamped = input.clamp(0.0, self.highest)
        # ldexp by constants: both products are exact, so only round() rounds.
        rounded = (clamped.detach() * 2.0**self.fraction).round() * 2.0**-self.fraction
        return rounded if not clamped.requires_grad else clamped + (rounded - clamped).detach()

    def extra_repr(self) -> str:
        """Show the format."""
        return f"bits={self.bits}, fraction={self.fraction}"
