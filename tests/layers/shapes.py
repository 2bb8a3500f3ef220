"""Every convolution with a shape to run it on, for the tests of this folder."""

from typing import Any

from torch import nn

from snn_extreme_quant import layers

__all__ = ["CONVOLUTIONS", "TRANSPOSED"]

#: Our class, torch's, and the shape of an unbatched input.
CONVOLUTIONS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "1d": (layers.Conv1d, nn.Conv1d, (4, 13)),
    "2d": (layers.Conv2d, nn.Conv2d, (4, 9, 13)),
    "3d": (layers.Conv3d, nn.Conv3d, (4, 7, 8, 9)),
}
TRANSPOSED: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "1d": (layers.ConvTranspose1d, nn.ConvTranspose1d, (4, 7)),
    "2d": (layers.ConvTranspose2d, nn.ConvTranspose2d, (4, 5, 6)),
    "3d": (layers.ConvTranspose3d, nn.ConvTranspose3d, (4, 3, 4, 5)),
}
