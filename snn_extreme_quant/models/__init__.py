"""Spiking language models whose weights are 1 bit or 1.58 bit.

Names are loaded when first used: finding a shipped model needs no torch, building one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.config import SpikingBertConfig as SpikingBertConfig
    from snn_extreme_quant.models.bert.spiking_bert import BertDetails as BertDetails
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert as SpikingBert
    from snn_extreme_quant.models.gpt.config import SpikeGPTConfig as SpikeGPTConfig
    from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT as SpikeGPT
    from snn_extreme_quant.models.gpt.state import SpikeGPTState as SpikeGPTState

#: Where each public name lives.
_HOME = {
    "BertDetails": "bert.spiking_bert",
    "SpikeGPT": "gpt.spike_gpt",
    "SpikeGPTConfig": "gpt.config",
    "SpikeGPTState": "gpt.state",
    "SpikingBert": "bert.spiking_bert",
    "SpikingBertConfig": "bert.config",
}

__all__ = ["BertDetails", "SpikeGPT", "SpikeGPTConfig", "SpikeGPTState", "SpikingBert", "SpikingBertConfig"]

__getattr__, __dir__ = lazily(__name__, _HOME)
