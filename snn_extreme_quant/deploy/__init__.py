"""From a trained model to a file, and the proof that they are the same.

Names are loaded when first used: what opens and runs a file needs no torch, what makes and verifies one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.answers import Answer as Answer
    from snn_extreme_quant.deploy.classifier import Classifier as Classifier
    from snn_extreme_quant.deploy.export import ExportReport as ExportReport
    from snn_extreme_quant.deploy.export import LayerReport as LayerReport
    from snn_extreme_quant.deploy.export import export_onnx as export_onnx
    from snn_extreme_quant.deploy.inference import FileRun as FileRun
    from snn_extreme_quant.deploy.inference import run_file as run_file
    from snn_extreme_quant.deploy.integer_export import FixedPointReport as FixedPointReport
    from snn_extreme_quant.deploy.integer_options import IntegerOptions as IntegerOptions
    from snn_extreme_quant.deploy.integer_verify import IntegerComparison as IntegerComparison
    from snn_extreme_quant.deploy.model_packing import Packing as Packing
    from snn_extreme_quant.deploy.model_packing import pack_model as pack_model
    from snn_extreme_quant.deploy.native import NativeStatus as NativeStatus
    from snn_extreme_quant.deploy.native import native_status as native_status
    from snn_extreme_quant.deploy.sessions import session as session
    from snn_extreme_quant.deploy.stream import Stream as Stream
    from snn_extreme_quant.deploy.token_scales import ScaleReport as ScaleReport
    from snn_extreme_quant.deploy.verification import verify as verify
    from snn_extreme_quant.deploy.verify_report import Difference as Difference
    from snn_extreme_quant.deploy.verify_report import LayerVerification as LayerVerification
    from snn_extreme_quant.deploy.verify_report import VerifyReport as VerifyReport
    from snn_extreme_quant.deploy.whole_bert import integer_bert as integer_bert

#: Where each public name lives.
_HOME = {
    "Answer": "answers",
    "Classifier": "classifier",
    "Difference": "verify_report",
    "ExportReport": "export",
    "FileRun": "inference",
    "FixedPointReport": "integer_export",
    "IntegerComparison": "integer_verify",
    "IntegerOptions": "integer_options",
    "LayerReport": "export",
    "LayerVerification": "verify_report",
    "NativeStatus": "native",
    "Packing": "model_packing",
    "ScaleReport": "token_scales",
    "Stream": "stream",
    "VerifyReport": "verify_report",
    "export_onnx": "export",
    "integer_bert": "whole_bert",
    "native_status": "native",
    "pack_model": "model_packing",
    "run_file": "inference",
    "session": "sessions",
    "verify": "verification",
}

__all__ = [
    "Answer",
    "Classifier",
    "Difference",
    "ExportReport",
    "FileRun",
    "FixedPointReport",
    "IntegerComparison",
    "IntegerOptions",
    "LayerReport",
    "LayerVerification",
    "NativeStatus",
    "Packing",
    "ScaleReport",
    "Stream",
    "VerifyReport",
    "export_onnx",
    "integer_bert",
    "native_status",
    "pack_model",
    "run_file",
    "session",
    "verify",
]

if not TYPE_CHECKING:  # a name that is not listed above is an error to a type checker
    __getattr__, __dir__ = lazily(__name__, _HOME)
