"""The SpikingJelly plugin of snn_extreme_quant: reads its neurons into specs and brings layers with ``step_mode``."""

from snn_extreme_quant_spikingjelly.plugin import SpikingJelly

__all__ = ["SpikingJelly", "plugin"]

#: What the entry point publishes.
plugin = SpikingJelly()
