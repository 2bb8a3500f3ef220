"""Records what a model computes as a graph of torch operators, with its neurons and quantised layers kept whole.

The model's own ``forward`` runs once under ``torch.export`` while its neurons and quantised layers are replaced, on
the instance and for that time only, by calls of the deployment operators. State left in the neurons from earlier runs
cannot enter: the recorded neurons start from their reset value.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snn_extreme_quant.errors import ExportError, NonFiniteWeightError, SampleError, SxqError, UnsupportedModelError
from snn_extreme_quant.frameworks import NeuronInModel, NeuronReading, neurons_of
from snn_extreme_quant.layers import FixedPointInput, IntegerFirst
from snn_extreme_quant.quantizers.packing import pack

from . import operators

__all__ = ["Capture", "Probe", "Run", "at_least_two", "capture", "first_line", "is_free", "probe", "quiet_torch", "run_model"]


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
class Capture:
    """A recorded model.

    Args:
        graph: torch operators and operators of ``snn_xq``; one placeholder for each dimension-checked input.
        sample: the input it was recorded with.
        calling: as in :class:`Probe`.
        names: name of each output, from the structure the model returns.
    """

    graph: fx.GraphModule
    sample: Tensor
    calling: str
    names: tuple[str, ...]


class _StepLoop(nn.Module):
    """Calls a step model for each time step and stacks what it gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        steps = [self.model(x[t]) for t in range(x.shape[0])]
        return pytree.tree_map(lambda *values: torch.stack(values), *steps)


@contextlib.contextmanager
def _evaluating(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Put the model into evaluation mode and its neurons into their initial state; put both back afterwards."""
    training = {module: module.training for module in model.modules()}
    states = [(n, n.framework.get_state(n.module)) for n in neurons]
    owners = {n.framework.name: n.framework for n in neurons}
    model.eval()
    try:
        for framework in owners.values():
            framework.reset(model)
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for neuron, state in states:
            neuron.framework.set_state(neuron.module, state)


@dataclass(frozen=True)
class Run:
    """What a run of the real model gave: its outputs, and by neuron layer what went into and came out of each call."""

    outputs: list[Tensor]
    currents: dict[str, list[Tensor]]
    spikes: dict[str, list[Tensor]]

    def sequence(self, values: dict[str, list[Tensor]], neuron: NeuronInModel) -> Tensor:
        """Return a layer's values with the time axis first."""
        calls = values[neuron.name]
        return calls[0] if neuron.read().multi_step else torch.stack(calls)


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


def _ids(handles: Sequence[Any]) -> set[int]:
    return {handle.id for handle in handles}


def run_model(model: nn.Module, inputs: Tensor, calling: str, neurons: list[NeuronInModel]) -> Run:
    """Run the real model, with the framework's own neurons, from its initial state.

    Raises:
        SampleError: the model does not accept the input.
    """
    currents: dict[str, list[Tensor]] = {n.name: [] for n in neurons}
    spikes: dict[str, list[Tensor]] = {n.name: [] for n in neurons}

    def hook(name: str) -> Callable[..., None]:
        def record(_module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            currents[name].append(args[0].detach().clone())
            spikes[name].append(value.detach().clone())

        return record

    # Before the user's own hooks, which may change what a neuron gives.
    handles = [n.module.register_forward_hook(hook(n.name), prepend=True) for n in neurons]
    try:
        with _evaluating(model, neurons), _entered_layers(model) as entered:
            try:
                outputs = (_StepLoop(model) if calling == "step" else model)(inputs)
            except SxqError:
                raise
            except Exception as error:
                layer = f"layer {entered[-1]!r}" if entered else "its forward()"
                hooked = [name for name, module in model.named_modules() if module._forward_hooks.keys() - _ids(handles)]
                advice = f" Forward hooks on {', '.join(map(repr, hooked))} may have changed a shape." if hooked else ""
                raise SampleError(
                    f"{type(model).__name__} does not accept an input of shape {tuple(inputs.shape)}"
                    f" ({'called step by step over its first axis' if calling == 'step' else 'called once'}):"
                    f" {layer}: {first_line(error)}.{advice}"
                ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Run([v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)], currents, spikes)


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
        return Probe(calling, calls(run_model(model, sample if calling == "sequence" else sample[:1], calling, neurons)))
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
            f"{type(model).__name__} takes one time step at a time, so the sample is a sequence of steps (T, B, ...); with"
            f" a sample of shape {tuple(sample.shape)}: {error}"
        ) from error


def _layout_of(layer: IntegerFirst) -> str:
    """Return the packing layout of a layer's codes: 1 bit or 2 bit."""
    return "binary8" if layer.quantizer.bits == 1 else "ternary4"


def _packed(layer: IntegerFirst, name: str) -> tuple[Tensor, Tensor]:
    """Return packed codes ``(K, bytes)`` and scales ``(N,)``."""
    if not bool(torch.isfinite(layer.weight).all()):
        raise NonFiniteWeightError(f"The weight of {name!r} holds NaN or infinite values; load a good checkpoint.")
    with torch.no_grad():
        codes, scale = layer.integer_weight()
    matrix = codes.detach().reshape(codes.shape[0], -1).T.to("cpu", torch.int8).numpy()
    return torch.from_numpy(pack(matrix, _layout_of(layer))), scale.detach().float().cpu().clone()


def _product_stub(layer: Any, name: str) -> Callable[[Tensor], Tensor]:
    """Return what takes the place of :meth:`IntegerFirst.product`."""
    packed, scale = _packed(layer, name)
    layout = _layout_of(layer)
    if layer.weight.dim() == 2:  # noqa: PLR2004
        return lambda input: operators.packed_linear(input, packed, scale, layer.weight.shape[0], layout, name)

    axes = layer.weight.dim() - 2
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif layer.padding == "valid":
        padding = [0] * 2 * axes
    else:
        padding = list(layer.padding) * 2
    begins_ends = list(zip(padding[:axes], padding[axes:], strict=True))

    def convolve(input: Tensor) -> Tensor:
        pads = padding
        if layer.padding_mode != "zeros":
            input = nn.functional.pad(input, [p for pair in begins_ends[::-1] for p in pair], mode=layer.padding_mode)
            pads = [0] * 2 * axes
        unbatched = input.dim() == axes + 1
        shape, stride, dilation = list(layer.weight.shape), list(layer.stride), list(layer.dilation)
        y = operators.packed_conv(
            input.unsqueeze(0) if unbatched else input, packed, scale, shape, stride, pads, dilation, layer.groups, layout, name
        )
        return y.squeeze(0) if unbatched else y

    return convolve


def _fixed_point_stub(module: FixedPointInput) -> Callable[[Tensor], Tensor]:
    return lambda input: operators.fixed_point(input, module.bits, module.fraction)


def _neuron_stub(reading: NeuronReading, name: str) -> tuple[Callable[..., Any], Callable[[], Tensor]]:
    """Return a forward pass that calls the operator, and a reset."""
    parameters = [reading.parameters[p].cpu() for p in reading.spec.parameter_names]
    operator = reading.spec.operator
    state: list[Tensor] = []

    def forward(x: Tensor, v: Tensor | None = None) -> Any:
        initial = torch.full((), reading.v0)
        if reading.multi_step:
            spikes, potentials = operators.neuron_sequence_op(x, state[-1] if state else initial, parameters, operator, name)
            state.append(potentials[-1])
            return (spikes, potentials) if reading.returns_state else spikes
        # A state of another rank is the framework's "nothing yet" (snnTorch: zeros(0)).
        given = v if v is not None and v.dim() == x.dim() else (state[-1] if state and v is None else initial)
        spikes, potential = operators.neuron_step_op(x, given, parameters, operator, name)
        state.append(potential)
        return (spikes, potential) if reading.returns_state else spikes

    def reset() -> Tensor:
        state.clear()
        return torch.zeros(0)

    return forward, reset


@contextlib.contextmanager
def _substituted(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Replace, on the instances, what must stay whole in the graph."""
    changed: list[tuple[nn.Module, str]] = []

    def put(module: nn.Module, name: str, value: object) -> None:
        module.__dict__[name] = value
        changed.append((module, name))

    with contextlib.ExitStack() as stack:
        for framework in {n.framework.name: n.framework for n in neurons}.values():
            stack.enter_context(framework.capturing())
        try:
            for neuron in neurons:
                forward, reset = _neuron_stub(neuron.read(), neuron.name)
                put(neuron.module, "forward", forward)
                for method in neuron.framework.reset_methods:
                    put(neuron.module, method, reset)
            inside = tuple(f"{n.name}." for n in neurons)
            for name, module in model.named_modules():
                if inside and name.startswith(inside):
                    continue
                if isinstance(module, IntegerFirst):
                    put(module, "product", _product_stub(module, name))
                elif isinstance(module, FixedPointInput):
                    put(module, "forward", _fixed_point_stub(module))
            yield
        finally:
            for module, name in changed:
                module.__dict__.pop(name, None)


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch's exporter from logging what a user cannot act on; our own errors say what matters."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch._dynamo", "torch.fx", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace(module: nn.Module, sample: Tensor) -> fx.GraphModule:
    """Run ``torch.export``; return the graph, free of mutation.

    The first two axes (time and batch, in either order) are left open where the model leaves them open.
    """
    free = {axis: torch.export.Dim.AUTO for axis in range(min(2, sample.dim()))}
    with quiet_torch(), torch.no_grad():
        program = torch.export.export(module, (sample,), dynamic_shapes=(free,), strict=False)
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
        graph = program.module(check_guards=False)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def is_free(size: Any) -> bool:
    """Whether a recorded size is open (a symbol) and not a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _output_names(model: nn.Module, outputs: Any) -> tuple[str, ...]:
    leaves = pytree.tree_flatten_with_path(outputs)[0]
    if len(leaves) == 1:
        return ("output",)
    names = []
    for path, _ in leaves:
        text = "_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        names.append(f"output_{text}")
    return tuple(names)


def capture(model: nn.Module, sample: Tensor, calling: str) -> Capture:
    """Record ``model`` on ``sample``.

    Args:
        model: in any mode and state; it is left as it was.
        sample: ``(T, B, ...)`` for a step model, else what the model takes.
        calling: ``"step"`` or ``"sequence"``.

    Raises:
        UnsupportedNeuronError: a neuron has no exact spec.
        UnsupportedModelError: the forward pass cannot be recorded.
    """
    neurons = neurons_of(model)
    wrapped = _StepLoop(model) if calling == "step" else model
    names: list[tuple[str, ...]] = []

    class _Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrapped

        def forward(self, x: Tensor) -> Any:
            outputs = self.inner(x)
            names.append(_output_names(model, outputs))
            return tuple(v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor))

    with _evaluating(model, neurons), _substituted(model, neurons):
        try:
            graph = _trace(_Named(), sample.detach().cpu())
        except SxqError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"The forward pass of {type(model).__name__} cannot be recorded: {first_line(error)}. Data-dependent"
                " control flow, printing of values and side effects in forward() or in hooks prevent it."
            ) from error
    if not graph.graph.output_node().args[0]:
        raise ExportError(f"{type(model).__name__} returns no tensor.")
    return Capture(graph, sample, calling, names[-1])


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: " + next((line.strip() for line in str(error).splitlines() if line.strip()), "")
