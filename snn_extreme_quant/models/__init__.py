"""Spiking language models whose weights are 1 bit or 1.58 bit.

Names are loaded when first used: finding a shipped model needs no torch, building one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.models.config import SpikingBertConfig as SpikingBertConfig
    from snn_extreme_quant.models.spike_gpt import SpikeGPT as SpikeGPT
    from snn_extreme_quant.models.spike_gpt_config import SpikeGPTConfig as SpikeGPTConfig
    from snn_extreme_quant.models.spike_gpt_state import SpikeGPTState as SpikeGPTState
    from snn_extreme_quant.models.spiking_bert import BertDetails as BertDetails
    from snn_extreme_quant.models.spiking_bert import SpikingBert as SpikingBert

#: Where each public name lives.
_HOME = {
    "BertDetails": "spiking_bert",
    "SpikeGPT": "spike_gpt",
    "SpikeGPTConfig": "spike_gpt_config",
    "SpikeGPTState": "spike_gpt_state",
    "SpikingBert": "spiking_bert",
    "SpikingBertConfig": "config",
}

__all__ = ["BertDetails", "SpikeGPT", "SpikeGPTConfig", "SpikeGPTState", "SpikingBert", "SpikingBertConfig"]

__getattr__, __dir__ = lazily(__name__, _HOME)
