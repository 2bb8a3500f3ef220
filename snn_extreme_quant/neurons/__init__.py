"""One truth about each neuron: a specification and pure functions that carry it out; the neuron of our own."""

from snn_extreme_quant.neurons.dynamics import neuron_sequence, neuron_step
from snn_extreme_quant.neurons.spec import NeuronSpec
from snn_extreme_quant.neurons.spike_train import SpikeTrain
from snn_extreme_quant.neurons.synchronous import (
    Schedule,
    SynchronousIF,
    schedule,
    set_schedule,
    spikes_first,
    synchronous_count,
)

__all__ = [
    "NeuronSpec",
    "Schedule",
    "SpikeTrain",
    "SynchronousIF",
    "neuron_sequence",
    "neuron_step",
    "schedule",
    "set_schedule",
    "spikes_first",
    "synchronous_count",
]
