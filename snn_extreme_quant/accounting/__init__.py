"""What networks cost: operations and an estimate of their energy. Needs no torch."""

from snn_extreme_quant.accounting.energy import CONSTANTS, BertSizes, Energy, Operations, spiking_bert_energy

__all__ = ["CONSTANTS", "BertSizes", "Energy", "Operations", "spiking_bert_energy"]
