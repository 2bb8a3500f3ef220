"""1-bit and 1.58-bit weights for spiking networks in snnTorch and SpikingJelly.

Importing this package imports neither torch nor a framework nor onnx; names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant._version import __version__ as __version__
from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant import accounting as accounting
    from snn_extreme_quant import calibrate as calibrate
    from snn_extreme_quant import checkpoints as checkpoints
    from snn_extreme_quant import config as config
    from snn_extreme_quant import data as data
    from snn_extreme_quant import deploy as deploy
    from snn_extreme_quant import encoding as encoding
    from snn_extreme_quant import errors as errors
    from snn_extreme_quant import exchange as exchange
    from snn_extreme_quant import exported as exported
    from snn_extreme_quant import frameworks as frameworks
    from snn_extreme_quant import layers as layers
    from snn_extreme_quant import models as models
    from snn_extreme_quant import neurons as neurons
    from snn_extreme_quant import precision_search as precision_search
    from snn_extreme_quant import quantizers as quantizers
    from snn_extreme_quant import registry as registry
    from snn_extreme_quant import replace as replace
    from snn_extreme_quant import training as training
    from snn_extreme_quant.calibrate import GptqReport as GptqReport
    from snn_extreme_quant.calibrate import gptq_ as gptq_
    from snn_extreme_quant.checkpoints import checkpoint_plan as checkpoint_plan
    from snn_extreme_quant.checkpoints import load_checkpoint as load_checkpoint
    from snn_extreme_quant.checkpoints import save_checkpoint as save_checkpoint
    from snn_extreme_quant.config import Binary as Binary
    from snn_extreme_quant.config import Float as Float
    from snn_extreme_quant.config import PrecisionPlan as PrecisionPlan
    from snn_extreme_quant.config import Ternary as Ternary
    from snn_extreme_quant.config import Uniform as Uniform
    from snn_extreme_quant.deploy import ExportReport as ExportReport
    from snn_extreme_quant.deploy import VerifyReport as VerifyReport
    from snn_extreme_quant.deploy import export_onnx as export_onnx
    from snn_extreme_quant.deploy import verify as verify
    from snn_extreme_quant.encoding import rate_encode as rate_encode
    from snn_extreme_quant.errors import SxqError as SxqError
    from snn_extreme_quant.exchange import from_nir as from_nir
    from snn_extreme_quant.exchange import nir_losses as nir_losses
    from snn_extreme_quant.exchange import to_nir as to_nir
    from snn_extreme_quant.frameworks import reset as reset
    from snn_extreme_quant.layers import Conv1d as Conv1d
    from snn_extreme_quant.layers import Conv2d as Conv2d
    from snn_extreme_quant.layers import Conv3d as Conv3d
    from snn_extreme_quant.layers import ConvTranspose1d as ConvTranspose1d
    from snn_extreme_quant.layers import ConvTranspose2d as ConvTranspose2d
    from snn_extreme_quant.layers import ConvTranspose3d as ConvTranspose3d
    from snn_extreme_quant.layers import Embedding as Embedding
    from snn_extreme_quant.layers import FixedPointInput as FixedPointInput
    from snn_extreme_quant.layers import Linear as Linear
    from snn_extreme_quant.neurons import NeuronSpec as NeuronSpec
    from snn_extreme_quant.neurons import SpikeTrain as SpikeTrain
    from snn_extreme_quant.neurons import SynchronousIF as SynchronousIF
    from snn_extreme_quant.neurons import schedule as schedule
    from snn_extreme_quant.neurons import set_schedule as set_schedule
    from snn_extreme_quant.precision_search import SearchResult as SearchResult
    from snn_extreme_quant.precision_search import search as search
    from snn_extreme_quant.replace import QuantizeReport as QuantizeReport
    from snn_extreme_quant.replace import quantize_ as quantize_

#: Where each public name lives.
_HOME = {
    "Binary": "config",
    "Conv1d": "layers",
    "Conv2d": "layers",
    "Conv3d": "layers",
    "ConvTranspose1d": "layers",
    "ConvTranspose2d": "layers",
    "ConvTranspose3d": "layers",
    "Embedding": "layers",
    "ExportReport": "deploy",
    "FixedPointInput": "layers",
    "Float": "config",
    "GptqReport": "calibrate",
    "Linear": "layers",
    "NeuronSpec": "neurons",
    "PrecisionPlan": "config",
    "QuantizeReport": "replace",
    "SearchResult": "precision_search",
    "SpikeTrain": "neurons",
    "SxqError": "errors",
    "SynchronousIF": "neurons",
    "Ternary": "config",
    "Uniform": "config",
    "VerifyReport": "deploy",
    "checkpoint_plan": "checkpoints",
    "export_onnx": "deploy",
    "from_nir": "exchange",
    "gptq_": "calibrate",
    "load_checkpoint": "checkpoints",
    "nir_losses": "exchange",
    "quantize_": "replace",
    "rate_encode": "encoding",
    "reset": "frameworks",
    "save_checkpoint": "checkpoints",
    "schedule": "neurons",
    "search": "precision_search",
    "set_schedule": "neurons",
    "to_nir": "exchange",
    "verify": "deploy",
}

__all__ = [
    "Binary",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "ExportReport",
    "FixedPointInput",
    "Float",
    "GptqReport",
    "Linear",
    "NeuronSpec",
    "PrecisionPlan",
    "QuantizeReport",
    "SearchResult",
    "SpikeTrain",
    "SxqError",
    "SynchronousIF",
    "Ternary",
    "Uniform",
    "VerifyReport",
    "__version__",
    "checkpoint_plan",
    "export_onnx",
    "from_nir",
    "gptq_",
    "load_checkpoint",
    "nir_losses",
    "quantize_",
    "rate_encode",
    "reset",
    "save_checkpoint",
    "schedule",
    "search",
    "set_schedule",
    "to_nir",
    "verify",
]

if not TYPE_CHECKING:  # a name that is not listed above is an error to a type checker
    __getattr__, __dir__ = lazily(__name__, _HOME)
