"""From a trained model to a file, and the proof that they are the same."""

from snn_extreme_quant.deploy.export import ExportReport, LayerReport, export_onnx
from snn_extreme_quant.deploy.inference import FileRun, run_file
from snn_extreme_quant.deploy.integer_export import FixedPointReport
from snn_extreme_quant.deploy.integer_graph import IntegerOptions
from snn_extreme_quant.deploy.integer_verify import IntegerComparison
from snn_extreme_quant.deploy.native import NativeStatus, native_status
from snn_extreme_quant.deploy.session import session
from snn_extreme_quant.deploy.stream import Stream
from snn_extreme_quant.deploy.verify import Difference, LayerVerification, VerifyReport, verify

__all__ = [
    "Difference",
    "ExportReport",
    "FileRun",
    "FixedPointReport",
    "IntegerComparison",
    "IntegerOptions",
    "LayerReport",
    "LayerVerification",
    "NativeStatus",
    "Stream",
    "VerifyReport",
    "export_onnx",
    "native_status",
    "run_file",
    "session",
    "verify",
]
