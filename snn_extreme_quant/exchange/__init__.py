"""Models to and from the Neuromorphic Intermediate Representation (NIR)."""

from snn_extreme_quant.exchange.neurons import nir_losses
from snn_extreme_quant.exchange.nir_reading import from_nir
from snn_extreme_quant.exchange.nir_writing import to_nir

__all__ = ["from_nir", "nir_losses", "to_nir"]
