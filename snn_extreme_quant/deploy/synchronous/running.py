"""Running models of synchronous neurons on either schedule, leaving them as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.deploy.recording.running import evaluating, first_line
from snn_extreme_quant.errors import NonFiniteWeightError, SampleError, SxqError, UnsupportedModelError
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.neurons import Schedule, SpikeTrain, SynchronousIF, schedule
from snn_extreme_quant.neurons.equilibrium import ChannelIF

__all__ = [
    "OnSpikes",
    "SynchronousRun",
    "recorded",
    "run_synchronous",
    "synchronous_neurons",
]


def synchronous_neurons(model: object) -> dict[str, SynchronousIF]:
    """Return the synchronous neurons of a model by name; empty if it has none.

    Raises:
        UnsupportedModelError: it has neurons of another schedule too, or neurons with different T.
        NonFiniteWeightError: a threshold is not positive.
    """
    if not isinstance(model, nn.Module):
        return {}
    found: dict[str, SynchronousIF] = {}
    others = []
    for layer in neurons_of(model):
        if isinstance(layer.module, SynchronousIF):
            found[layer.name] = layer.module
        else:
            others.append(layer.name)
    if not found:
        return {}
    if others:
        raise UnsupportedModelError(
            f"Layer {others[0]!r} goes step by step and layer {min(found)!r} takes in all steps before it fires; a"
            " network runs on one schedule. Use synchronous neurons alone, or none."
        )
    steps = {neuron.T for neuron in found.values()}
    if len(steps) > 1:
        raise UnsupportedModelError(
            f"The synchronous neurons of {type(model).__name__} have different T: {sorted(steps)}; give all the same."
        )
    for name, neuron in found.items():
        if type(neuron).forward not in _FORWARDS or "forward" in vars(neuron):
            raise UnsupportedModelError(
                f"Layer {name!r}: {type(neuron).__name__} overrides forward() of SynchronousIF, so what it computes is"
                " not known; use SynchronousIF itself."
            )
        if isinstance(neuron, ChannelIF) and neuron.mode != "simulated":
            raise UnsupportedModelError(
                f"Layer {name!r} is in the mode {neuron.mode!r}, in which rates are not rounded to T levels; files give"
                ' spikes: set the mode "simulated" first.'
            )
        thresholds = neuron.threshold.detach()
        wrong = thresholds[~((thresholds > 0) & torch.isfinite(thresholds))]
        if wrong.numel():
            raise NonFiniteWeightError(
                f"The threshold of {name!r} is {wrong.flatten()[0].item():g}, not positive; load a good checkpoint."
            )
    return found


#: What computes as :class:`SynchronousIF` does.
_FORWARDS = (SynchronousIF.forward, ChannelIF.forward)


class OnSpikes(nn.Module):
    """A model on the schedule "spikes" as a function of tensors: trains go in and come out as ``(T, B, ...)``.

    Args:
        model: the model.
        train: whether its input is a train; else it is the same in each step.
    """

    def __init__(self, model: nn.Module, train: bool) -> None:
        super().__init__()
        self.model = model
        self.train_in = train

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        """Run the model."""
        outputs = self.model(SpikeTrain(x) if self.train_in else x, *others)
        return pytree.tree_map(lambda v: v.spikes if isinstance(v, SpikeTrain) else v, outputs)


@dataclass(frozen=True)
class SynchronousRun:
    """What a run gave: its outputs, and by neuron layer the mean currents and the rates or spikes of each call."""

    outputs: list[Tensor]
    currents: dict[str, list[Tensor]]
    emitted: dict[str, list[Tensor]]


@contextlib.contextmanager
def recorded(
    neurons: Mapping[str, nn.Module], run: SynchronousRun, replace: Callable[[str, Tensor], Tensor] | None
) -> Iterator[None]:
    """Keep in ``run`` what goes into neurons and comes out; ``replace`` is :func:`run_synchronous`'s."""

    def hook(name: str) -> Callable[..., Any]:
        def after(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            current = args[0] if args else next(iter(kwargs.values()))
            current = current.rates if isinstance(current, SpikeTrain) else current
            emitted = output.spikes if isinstance(output, SpikeTrain) else output
            run.currents[name].append(current.detach().clone())
            run.emitted[name].append(emitted.detach().clone())
            if replace is None:
                return None
            given = replace(name, emitted)
            return SpikeTrain(given) if isinstance(output, SpikeTrain) else given

        return after

    handles = [m.register_forward_hook(hook(n), with_kwargs=True, prepend=True) for n, m in neurons.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_synchronous(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    on: Schedule,
    *,
    train: bool,
    replace: Callable[[str, Tensor], Tensor] | None = None,
) -> SynchronousRun:
    """Run a model in evaluation mode.

    Args:
        model: the model; it is left as it was.
        inputs: rates or real numbers ``(B, ...)``, or with ``train`` on the schedule "spikes" ``(T, B, ...)``; of a
            model with several inputs a tuple.
        on: the schedule.
        train: whether the input is promised to be spikes.
        replace: called with a neuron's name and what it gives; what it returns goes on instead.

    Raises:
        SampleError: the model does not accept the input.
    """
    neurons = synchronous_neurons(model)
    run = SynchronousRun([], {name: [] for name in neurons}, {name: [] for name in neurons})
    called: nn.Module = OnSpikes(model, train) if on == "spikes" else model
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with schedule(model, on), evaluating(model, neurons_of(model)), recorded(neurons, run, replace):
        try:
            outputs = called(*given)
        except SxqError:
            raise
        except Exception as error:
            shapes = " and ".join(str(tuple(value.shape)) for value in given)
            raise SampleError(
                f"{type(model).__name__} does not accept an input of shape {shapes}: {first_line(error)}."
            ) from error
    run.outputs.extend(v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor))
    return run
