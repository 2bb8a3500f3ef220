"""The snnTorch plugin of snn_extreme_quant: reads snnTorch's neurons into specs."""

from snn_extreme_quant_snntorch.plugin import SnnTorch

__all__ = ["SnnTorch", "plugin"]

#: What the entry point publishes.
plugin = SnnTorch()
