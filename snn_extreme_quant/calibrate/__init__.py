"""Choose the codes of trained, quantised layers by what their outputs become on calibration data."""

from snn_extreme_quant.calibrate.gptq import gptq_codes
from snn_extreme_quant.calibrate.model import CalibratedLayer, GptqReport, gptq_

__all__ = ["CalibratedLayer", "GptqReport", "gptq_", "gptq_codes"]
