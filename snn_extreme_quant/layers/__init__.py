"""Integer-first layers with 1-bit and 1.58-bit weights, drop-in for ``torch.nn``'s."""

from snn_extreme_quant.layers.conv import Conv1d, Conv2d
from snn_extreme_quant.layers.fixed_point import FixedPointInput
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.layers.linear import Linear

__all__ = ["Conv1d", "Conv2d", "FixedPointInput", "IntegerFirst", "Linear"]
