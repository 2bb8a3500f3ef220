"""Running the real model: from its initial state, with its framework's own neurons, leaving it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.errors import SampleError, SxqError
from snn_extreme_quant.frameworks import NeuronInModel

__all__ = ["Interference", "Probe", "Run", "StepLoop", "at_least_two", "evaluating", "first_line", "probe", "run_model"]


@dataclass(frozen=True)
class Probe:
    """How a model is called, found by calling it.

    Args:
        calling: ``"step"``: the model takes one time step and is called in a loop; ``"sequence"``: it takes all.
        calls: how often each neuron was called by ``model(...)`` on the whole sample (once for ``"step"``).
    """

    calling: str
    calls: dict[str, int]


@dataclass(frozen=True)
class Run:
    """What a run of the real model gave: its outputs, and by neuron layer what went into and came out of each call.

    ``states`` holds, for each call, what the neuron's attributes held after it.
    """

    outputs: list[Tensor]
    currents: dict[str, list[Tensor]]
    spikes: dict[str, list[Tensor]]
    states: dict[str, list[dict[str, Tensor]]]

    def sequence(self, values: dict[str, list[Tensor]], neuron: NeuronInModel) -> Tensor:
        """Return a layer's values with the time axis first; with the calls first if it took several sequences."""
        calls = values[neuron.name]
        return calls[0] if neuron.read().multi_step and len(calls) == 1 else torch.stack(calls)


@dataclass(frozen=True)
class Interference:
    """What to change while a model runs.

    Args:
        currents: called with a neuron's name and input; what it returns goes in instead.
        output: called with a neuron's name and output; what it returns goes on instead.
    """

    currents: Callable[[str, Tensor], Tensor] | None = None
    output: Callable[[str, Any], Any] | None = None


class _Recorder:
    """Hooks on the neurons of a model that keep what goes in and comes out."""

    def __init__(self, neurons: list[NeuronInModel], interference: Interference) -> None:
        self.interference = interference
        self.currents: dict[str, list[Tensor]] = {n.name: [] for n in neurons}
        self.spikes: dict[str, list[Tensor]] = {n.name: [] for n in neurons}
        self.states: dict[str, list[dict[str, Tensor]]] = {n.name: [] for n in neurons}
        # Before the user's own hooks, which may change what a neuron gives; after those that change what it gets.
        self.handles = [
            handle
            for n in neurons
            for handle in (
                n.module.register_forward_pre_hook(self._before(n.name), with_kwargs=True),
                n.module.register_forward_hook(self._after(n.name, n.read().attributes), prepend=True),
            )
        ]

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key = None if args else next(iter(kwargs))
            value = args[0] if key is None else kwargs[key]
            if self.interference.currents is not None:
                value = self.interference.currents(name, value)
            self.currents[name].append(value.detach().clone())
            return ((value, *args[1:]), kwargs) if key is None else (args, {**kwargs, key: value})

        return hook

    def _after(self, name: str, attributes: Mapping[str, str]) -> Callable[..., Any]:
        def hook(module: nn.Module, _args: Any, output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            self.spikes[name].append(value.detach().clone())
            held = {state: getattr(module, attribute, None) for state, attribute in attributes.items()}
            self.states[name].append({k: v.detach().clone() for k, v in held.items() if isinstance(v, Tensor)})
            return None if self.interference.output is None else self.interference.output(name, output)

        return hook


class StepLoop(nn.Module):
    """Calls a step model for each time step and stacks what it gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Loop over the first axis."""
        steps = [self.model(x[t]) for t in range(x.shape[0])]
        return pytree.tree_map(lambda *values: torch.stack(values), *steps)


@contextlib.contextmanager
def evaluating(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Put the model into evaluation mode and its neurons into their initial state; put both back afterwards."""
    training = {module: module.training for module in model.modules()}
    states = [(n, n.framework.get_state(n.module)) for n in neurons]
    owners = {n.framework.name: n.framework for n in neurons}
    model.eval()
    # A model may keep a batch norm in training mode; it is refused, but not before it has run.
    norms = [m for m in model.modules() if m.training and isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = [(b, b.clone()) for m in norms for b in m.buffers(recurse=False)]
    try:
        for framework in owners.values():
            framework.reset(model)
        with torch.no_grad():
            yield
    finally:
        for buffer, value in statistics:
            buffer.copy_(value)
        for module, flag in training.items():
            module.training = flag
        for neuron, state in states:
            neuron.framework.set_state(neuron.module, state)


@contextlib.contextmanager
def _entered_layers(model: nn.Module) -> Iterator[list[str]]:
    """Keep the names of the layers that were entered and not left; after an error the last one is where it was."""
    names = {id(module): name for name, module in model.named_modules() if name}
    entered: list[str] = []

    def enter(module: nn.Module, _args: Any) -> None:
        if id(module) in names:
            entered.append(names[id(module)])

    def leave(module: nn.Module, _args: Any, _output: Any) -> None:
        if id(module) in names and entered:
            entered.pop()

    before = nn.modules.module.register_module_forward_pre_hook(enter)
    after = nn.modules.module.register_module_forward_hook(leave)
    try:
        yield entered
    finally:
        before.remove()
        after.remove()


def run_model(
    model: nn.Module,
    inputs: Tensor,
    calling: str,
    neurons: list[NeuronInModel],
    interference: Interference | None = None,
) -> Run:
    """Run the real model, with the framework's own neurons, from its initial state.

    Args:
        model: the model; it is left as it was.
        inputs: what it takes.
        calling: ``"step"`` or ``"sequence"``.
        neurons: its neurons, whose currents and spikes are kept.
        interference: what to change on the way.

    Raises:
        SampleError: the model does not accept the input.
    """
    recorder = _Recorder(neurons, interference or Interference())
    try:
        with evaluating(model, neurons), _entered_layers(model) as entered:
            try:
                outputs = (StepLoop(model) if calling == "step" else model)(inputs)
            except SxqError:
                raise
            except Exception as error:
                layer = f"layer {entered[-1]!r}" if entered else "its forward()"
                hooked = [
                    name for name, module in model.named_modules() if any(map(_foreign, module._forward_hooks.values()))
                ]
                advice = f" Forward hooks on {', '.join(map(repr, hooked))} may have changed a shape." if hooked else ""
                raise SampleError(
                    f"{type(model).__name__} does not accept an input of shape {tuple(inputs.shape)}"
                    f" ({'called step by step over its first axis' if calling == 'step' else 'called once'}):"
                    f" {layer}: {first_line(error)}.{advice}"
                ) from error
    finally:
        for handle in recorder.handles:
            handle.remove()
    tensors = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]
    return Run(tensors, recorder.currents, recorder.spikes, recorder.states)


def _foreign(hook: Any) -> bool:
    """Whether a hook is the user's: this package watches models with hooks of its own."""
    return not str(getattr(hook, "__module__", "")).startswith(f"{__name__.partition('.')[0]}.")


def at_least_two(inputs: Tensor, axes: Sequence[int]) -> Tensor:
    """Double each of ``axes`` that has length 1: a length of 1 is taken for a property of the model."""
    for axis in axes:
        if inputs.dim() > axis and inputs.shape[axis] == 1:
            inputs = torch.cat([inputs, inputs], axis)
    return inputs


def probe(model: nn.Module, sample: Tensor, neurons: list[NeuronInModel], calling: str) -> Probe:
    """Find out whether ``model`` takes a time step or a sequence.

    A model with multi-step neurons, or that calls a neuron several times, takes a sequence. One that calls each
    neuron once is a step model, and the sample is its sequence ``(T, B, ...)``.
    """

    def calls(run: Run) -> dict[str, int]:
        return {name: len(values) for name, values in run.spikes.items()}

    if calling != "auto":
        return Probe(
            calling, calls(run_model(model, sample if calling == "sequence" else sample[:1], calling, neurons))
        )
    multi_step = any(n.read().multi_step for n in neurons)
    failure: SampleError | None = None
    # A sample of one step would make every loop look like a step model: look at two.
    for axes in ((0, 1), (0,), ()):
        try:
            found = calls(run_model(model, at_least_two(sample, axes), "sequence", neurons))
        except SampleError as error:
            failure = error
            continue
        if multi_step or not neurons or any(count > 1 for count in found.values()):
            return Probe("sequence", calls(run_model(model, sample, "sequence", neurons)))
        break
    if multi_step and failure is not None:
        raise failure
    try:
        return Probe("step", calls(run_model(model, sample[:1], "step", neurons)))
    except SampleError as error:
        if failure is not None:
            raise failure from None
        raise SampleError(
            f"{type(model).__name__} takes one time step at a time, so a sample is a sequence of steps (T, B, ...);"
            f" with a sample of shape {tuple(sample.shape)}: {error}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: " + next((line.strip() for line in str(error).splitlines() if line.strip()), "")
