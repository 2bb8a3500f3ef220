"""From a trained model to a file, and the proof that they are the same.

Names are loaded when first used: what opens and runs a file needs no torch, what makes and verifies one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.export import ExportReport as ExportReport
    from snn_extreme_quant.deploy.export import LayerReport as LayerReport
    from snn_extreme_quant.deploy.export import export_onnx as export_onnx
    from snn_extreme_quant.deploy.integer.export import FixedPointReport as FixedPointReport
    from snn_extreme_quant.deploy.integer.options import IntegerOptions as IntegerOptions
    from snn_extreme_quant.deploy.integer.verify import IntegerComparison as IntegerComparison
    from snn_extreme_quant.deploy.language.export import export_gpt as export_gpt
    from snn_extreme_quant.deploy.language.running import GptFile as GptFile
    from snn_extreme_quant.deploy.model_folders.answers import Answer as Answer
    from snn_extreme_quant.deploy.model_folders.classifier import Classifier as Classifier
    from snn_extreme_quant.deploy.model_folders.gpt_classifier import GptClassifier as GptClassifier
    from snn_extreme_quant.deploy.model_folders.language_packing import LanguagePacking as LanguagePacking
    from snn_extreme_quant.deploy.model_folders.language_packing import pack_language as pack_language
    from snn_extreme_quant.deploy.model_folders.packing import Packing as Packing
    from snn_extreme_quant.deploy.model_folders.packing import pack_model as pack_model
    from snn_extreme_quant.deploy.runtime.inference import FileRun as FileRun
    from snn_extreme_quant.deploy.runtime.inference import run_file as run_file
    from snn_extreme_quant.deploy.runtime.native import NativeStatus as NativeStatus
    from snn_extreme_quant.deploy.runtime.native import native_status as native_status
    from snn_extreme_quant.deploy.runtime.sessions import session as session
    from snn_extreme_quant.deploy.runtime.stream import Stream as Stream
    from snn_extreme_quant.deploy.tokens.token_scales import ScaleReport as ScaleReport
    from snn_extreme_quant.deploy.tokens.whole_bert import integer_bert as integer_bert
    from snn_extreme_quant.deploy.verification.report import Difference as Difference
    from snn_extreme_quant.deploy.verification.report import LayerVerification as LayerVerification
    from snn_extreme_quant.deploy.verification.report import VerifyReport as VerifyReport
    from snn_extreme_quant.deploy.verification.verify import verify as verify

#: Where each public name lives.
_HOME = {
    "Answer": "model_folders.answers",
    "Classifier": "model_folders.classifier",
    "Difference": "verification.report",
    "ExportReport": "export",
    "FileRun": "runtime.inference",
    "FixedPointReport": "integer.export",
    "GptClassifier": "model_folders.gpt_classifier",
    "GptFile": "language.running",
    "IntegerComparison": "integer.verify",
    "IntegerOptions": "integer.options",
    "LanguagePacking": "model_folders.language_packing",
    "LayerReport": "export",
    "LayerVerification": "verification.report",
    "NativeStatus": "runtime.native",
    "Packing": "model_folders.packing",
    "ScaleReport": "tokens.token_scales",
    "Stream": "runtime.stream",
    "VerifyReport": "verification.report",
    "export_gpt": "language.export",
    "export_onnx": "export",
    "integer_bert": "tokens.whole_bert",
    "native_status": "runtime.native",
    "pack_language": "model_folders.language_packing",
    "pack_model": "model_folders.packing",
    "run_file": "runtime.inference",
    "session": "runtime.sessions",
    "verify": "verification.verify",
}

__all__ = [
    "Answer",
    "Classifier",
    "Difference",
    "ExportReport",
    "FileRun",
    "FixedPointReport",
    "GptClassifier",
    "GptFile",
    "IntegerComparison",
    "IntegerOptions",
    "LanguagePacking",
    "LayerReport",
    "LayerVerification",
    "NativeStatus",
    "Packing",
    "ScaleReport",
    "Stream",
    "VerifyReport",
    "export_gpt",
    "export_onnx",
    "integer_bert",
    "native_status",
    "pack_language",
    "pack_model",
    "run_file",
    "session",
    "verify",
]

if not TYPE_CHECKING:  # a name that is not listed above is an error to a type checker
    __getattr__, __dir__ = lazily(__name__, _HOME)
