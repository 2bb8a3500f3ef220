"""``quantize_``: swap a model's layers for quantised ones, in place."""

from snn_extreme_quant.replace.quantize import quantize_
from snn_extreme_quant.replace.report import LeftLayer, QuantizeReport, ReplacedLayer

__all__ = ["LeftLayer", "QuantizeReport", "ReplacedLayer", "quantize_"]
