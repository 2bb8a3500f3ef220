"""One truth about each neuron: a specification and pure functions that carry it out; our own neuron; fixed points.

Names are loaded when first used: a specification needs no torch, the functions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.neurons.dynamics import neuron_sequence as neuron_sequence
    from snn_extreme_quant.neurons.dynamics import neuron_step as neuron_step
    from snn_extreme_quant.neurons.fixed_point_solvers import Solution as Solution
    from snn_extreme_quant.neurons.fixed_point_solvers import Solver as Solver
    from snn_extreme_quant.neurons.fixed_point_solvers import solve_fixed_point as solve_fixed_point
    from snn_extreme_quant.neurons.fixed_point_solvers import spectral_radius as spectral_radius
    from snn_extreme_quant.neurons.implicit import ImplicitLayer as ImplicitLayer
    from snn_extreme_quant.neurons.spec import NeuronSpec as NeuronSpec
    from snn_extreme_quant.neurons.spike_train import SpikeTrain as SpikeTrain
    from snn_extreme_quant.neurons.synchronous import Schedule as Schedule
    from snn_extreme_quant.neurons.synchronous import SynchronousIF as SynchronousIF
    from snn_extreme_quant.neurons.synchronous import schedule as schedule
    from snn_extreme_quant.neurons.synchronous import set_schedule as set_schedule
    from snn_extreme_quant.neurons.synchronous import spikes_first as spikes_first
    from snn_extreme_quant.neurons.synchronous import synchronous_count as synchronous_count

#: Where each public name lives.
_HOME = {
    "ImplicitLayer": "implicit",
    "NeuronSpec": "spec",
    "Schedule": "synchronous",
    "Solution": "fixed_point_solvers",
    "Solver": "fixed_point_solvers",
    "SpikeTrain": "spike_train",
    "SynchronousIF": "synchronous",
    "solve_fixed_point": "fixed_point_solvers",
    "neuron_sequence": "dynamics",
    "neuron_step": "dynamics",
    "schedule": "synchronous",
    "set_schedule": "synchronous",
    "spectral_radius": "fixed_point_solvers",
    "spikes_first": "synchronous",
    "synchronous_count": "synchronous",
}

__all__ = [
    "ImplicitLayer",
    "NeuronSpec",
    "Schedule",
    "Solution",
    "Solver",
    "SpikeTrain",
    "SynchronousIF",
    "neuron_sequence",
    "neuron_step",
    "schedule",
    "set_schedule",
    "solve_fixed_point",
    "spectral_radius",
    "spikes_first",
    "synchronous_count",
]

if not TYPE_CHECKING:  # a name that is not listed above is an error to a type checker
    __getattr__, __dir__ = lazily(__name__, _HOME)
