"""Integer-first layers with low-bit weights, drop-in for ``torch.nn``'s."""

from snn_extreme_quant.layers.conv import Conv1d, Conv2d, Conv3d
from snn_extreme_quant.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from snn_extreme_quant.layers.embedding import Embedding
from snn_extreme_quant.layers.fixed_point import FixedPointInput
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.layers.linear import Linear

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "FixedPointInput",
    "IntegerFirst",
    "Linear",
]
