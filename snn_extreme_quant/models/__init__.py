"""Spiking language models whose weights are 1 bit or 1.58 bit."""

from snn_extreme_quant.models.config import SpikingBertConfig
from snn_extreme_quant.models.spiking_bert import BertDetails, SpikingBert

__all__ = ["BertDetails", "SpikingBert", "SpikingBertConfig"]
