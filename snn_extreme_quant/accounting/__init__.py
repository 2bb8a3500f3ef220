"""What networks cost: memory, operations and an estimate of their energy. Importing it needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.accounting.energy import CONSTANTS as CONSTANTS
    from snn_extreme_quant.accounting.energy import BertSizes as BertSizes
    from snn_extreme_quant.accounting.energy import Energy as Energy
    from snn_extreme_quant.accounting.energy import Operations as Operations
    from snn_extreme_quant.accounting.energy import spiking_bert_energy as spiking_bert_energy
    from snn_extreme_quant.accounting.gpt_energy import Elementwise as Elementwise
    from snn_extreme_quant.accounting.gpt_energy import GptEnergy as GptEnergy
    from snn_extreme_quant.accounting.gpt_energy import GptSizes as GptSizes
    from snn_extreme_quant.accounting.gpt_energy import spike_gpt_energy as spike_gpt_energy
    from snn_extreme_quant.accounting.memory import FileMemory as FileMemory
    from snn_extreme_quant.accounting.memory import MatrixMemory as MatrixMemory
    from snn_extreme_quant.accounting.memory import WeightMemory as WeightMemory
    from snn_extreme_quant.accounting.memory import WeightShape as WeightShape
    from snn_extreme_quant.accounting.memory import file_memory as file_memory
    from snn_extreme_quant.accounting.memory import weight_memory as weight_memory
    from snn_extreme_quant.accounting.shapes import weight_shapes as weight_shapes

#: Where each public name lives.
_HOME = {
    "CONSTANTS": "energy",
    "BertSizes": "energy",
    "Elementwise": "gpt_energy",
    "Energy": "energy",
    "FileMemory": "memory",
    "GptEnergy": "gpt_energy",
    "GptSizes": "gpt_energy",
    "MatrixMemory": "memory",
    "Operations": "energy",
    "WeightMemory": "memory",
    "WeightShape": "memory",
    "file_memory": "memory",
    "spike_gpt_energy": "gpt_energy",
    "spiking_bert_energy": "energy",
    "weight_memory": "memory",
    "weight_shapes": "shapes",
}

__all__ = [
    "CONSTANTS",
    "BertSizes",
    "Elementwise",
    "Energy",
    "FileMemory",
    "GptEnergy",
    "GptSizes",
    "MatrixMemory",
    "Operations",
    "WeightMemory",
    "WeightShape",
    "file_memory",
    "spike_gpt_energy",
    "spiking_bert_energy",
    "weight_memory",
    "weight_shapes",
]

if not TYPE_CHECKING:  # a name that is not listed above is an error to a type checker
    __getattr__, __dir__ = lazily(__name__, _HOME)
