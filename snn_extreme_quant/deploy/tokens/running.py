"""Running models of tokens so that their spikes can be compared: as counts, or spike by spike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.deploy.recording.running import evaluating, first_line
from snn_extreme_quant.deploy.synchronous.running import SynchronousRun, recorded, run_synchronous, synchronous_neurons
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs
from snn_extreme_quant.errors import SampleError, SxqError
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.neurons import SynchronousIF, schedule
from snn_extreme_quant.neurons.equilibrium import Mode
from snn_extreme_quant.neurons.equilibrium_steps import StepIF

__all__ = ["On", "deployable", "run_tokens", "spiking", "token_neurons"]

#: One pass over rates; all spikes of the schedule synchronous; all steps of the schedule step.
On = Literal["counts", "spikes", "steps"]
#: The mode in which a model gives what is deployed.
_MODE: dict[On, Mode] = {"counts": "simulated", "spikes": "simulated", "steps": "surrogate"}


def token_neurons(model: nn.Module, on: On) -> dict[str, nn.Module]:
    """Return the layers of neurons by name, in order of registration."""
    kind = StepIF if on == "steps" else SynchronousIF
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


@contextlib.contextmanager
def deployable(bert: SpikingBert, on: On) -> Iterator[None]:
    """Put the model into the mode in which it gives what is deployed, for as long as the context lasts."""
    before = bert.mode
    bert.mode = _MODE[on]
    try:
        yield
    finally:
        bert.mode = before


@contextlib.contextmanager
def spiking(model: nn.Module, bert: SpikingBert, on: On) -> Iterator[None]:
    """The same, on the schedule of ``on`` too: what a record is made in."""
    with deployable(bert, on):
        if on == "steps":
            yield
            return
        with schedule(model, on):
            yield


def run_tokens(
    model: nn.Module,
    bert: SpikingBert,
    inputs: TokenInputs,
    on: On,
    replace: Callable[[str, Tensor], Tensor] | None = None,
) -> SynchronousRun:
    """Run a model in evaluation mode and keep what each layer of neurons gives: rates, or spikes ``(T, B, ...)``.

    Args:
        model: the model; it is left as it was.
        bert: the encoder in it.
        inputs: a batch.
        on: what is run.
        replace: called with a neuron's name and what it gives; what it returns goes on instead.

    Raises:
        SampleError: the model does not accept the input.
    """
    with deployable(bert, on):
        if on != "steps":
            synchronous_neurons(model)  # refuses neurons that cannot be run so
            return run_synchronous(model, inputs.tensors, on, train=False, replace=replace)
        neurons = token_neurons(model, on)
        run = SynchronousRun([], {name: [] for name in neurons}, {name: [] for name in neurons})
        with evaluating(model, neurons_of(model)), recorded(neurons, run, replace):
            try:
                outputs = model(*inputs.tensors)
            except SxqError:
                raise
            except Exception as error:
                raise SampleError(
                    f"{type(model).__name__} does not accept token ids of shape {tuple(inputs.ids.shape)}:"
                    f" {first_line(error)}."
                ) from error
    run.outputs.extend(value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor))
    return run
