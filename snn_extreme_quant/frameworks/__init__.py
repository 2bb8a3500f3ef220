"""What a framework plugin provides, and the loader that finds plugins."""

from snn_extreme_quant.frameworks.contract import API_VERSION, Framework, NeuronReading
from snn_extreme_quant.frameworks.loader import PluginStatus, frameworks, plugin_statuses
from snn_extreme_quant.frameworks.reading import NeuronInModel, frameworks_for, neurons_of, reset

__all__ = [
    "API_VERSION",
    "Framework",
    "NeuronInModel",
    "NeuronReading",
    "PluginStatus",
    "frameworks",
    "frameworks_for",
    "neurons_of",
    "plugin_statuses",
    "reset",
]
