"""One truth about each neuron: a specification and pure functions that carry it out."""

from snn_extreme_quant.neurons.dynamics import neuron_sequence, neuron_step
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["NeuronSpec", "neuron_sequence", "neuron_step"]
