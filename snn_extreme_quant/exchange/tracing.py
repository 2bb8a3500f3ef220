"""What feeds what in a model, as a graph of layers and neurons.

One call of the model is traced with torch.fx; layers and neurons are its leaves. NIR describes what happens in one
time step, so the call is one step, or a sequence in a multi-step model. A loop over time steps inside ``forward`` has
no place in NIR and is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from snn_extreme_quant.errors import SampleError, UnsupportedModelError
from snn_extreme_quant.exchange.attributes import Attributes
from snn_extreme_quant.frameworks import NeuronInModel, NeuronReading, frameworks, neurons_of
from snn_extreme_quant.layers import IntegerFirst

__all__ = ["INPUT", "Flow", "FlowNode", "known_name", "trace", "undisturbed"]

#: The source that stands for the model's input.
INPUT = "input"

#: Where classes of torch's names compute what torch's compute: torch, and SpikingJelly's wrappers with a step mode.
_HOMES = ("torch.nn.", "spikingjelly.activation_based.layer.")

#: Modules of these homes that hand their input on unchanged in evaluation.
_TRANSPARENT = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout")

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_FLATTENS = (torch.flatten, "flatten")

_ONE_STEP = "Give a model whose forward() computes one time step (or a multi-step model of layers in a row)."


@dataclass(frozen=True)
class FlowNode:
    """A layer or neuron of the model: its name there, what it adds up as its input, and the shapes of one call."""

    name: str
    module: nn.Module
    sources: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    reading: NeuronReading | None = None


@dataclass(frozen=True)
class Flow:
    """A model's layers and neurons in the order of their calls.

    ``returns_state``: the model gives what its last neuron gives, ``(spikes, *states)``.
    """

    nodes: tuple[FlowNode, ...]
    output: tuple[str, ...]
    input_shape: tuple[int, ...]
    multi_step: bool
    returns_state: bool


def known_name(module: nn.Module) -> str | None:
    """Return the class name of one of torch's layers or SpikingJelly's wrappers of them; None for a user's class.

    Example:
        >>> known_name(nn.Flatten()), known_name(type("Flatten", (nn.Flatten,), {})())
        ('Flatten', None)
    """
    cls = type(module)
    return cls.__name__ if f"{cls.__module__}.".startswith(_HOMES) else None


class _Call(nn.Module):
    """Calls a model with its input alone, so that further arguments of its forward() keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Any:
        return self.model(input)


class _Tracer(fx.Tracer):
    """Takes neurons, quantised layers and childless modules for leaves."""

    def __init__(self, neurons: set[nn.Module]) -> None:
        super().__init__()
        self.neurons = neurons

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = m in self.neurons or isinstance(m, IntegerFirst) or not any(True for _ in m.children())
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        _check_plain(m, path, leaf=self.is_leaf_module(m, path))
        return super().call_module(m, forward, args, kwargs)


def _check_plain(module: nn.Module, path: str, leaf: bool) -> None:
    """Refuse a module that does something besides what its class says."""
    name = _name_in_model(path)
    for inner, part in module.named_modules() if leaf else [("", module)]:
        label = f"Layer {f'{name}.{inner}'.strip('.')!r}" if name or inner else "The model"
        if part._forward_hooks or part._forward_pre_hooks:
            raise UnsupportedModelError(
                f"{label} has forward hooks, which may change values; NIR does not carry them. Remove them"
                " (handle.remove()) for the export, and write as layers what they compute."
            )
        if leaf and "forward" in vars(part):
            raise UnsupportedModelError(
                f"{label}: its forward() was replaced on the instance; NIR carries what the class"
                f" {type(part).__name__} computes. Restore it (del module.forward)."
            )


def _name_in_model(path: str) -> str:
    return path.removeprefix("model").removeprefix(".")


class _Recorder(fx.Interpreter):
    """Runs a traced model and keeps what each node gives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


@contextmanager
def undisturbed(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Evaluate ``model`` inside, and leave its training flags and its neurons' states as they were."""
    training = {module: module.training for module in model.modules()}
    states = [(n.framework, n.module, n.framework.get_state(n.module)) for n in neurons]
    try:
        with ExitStack() as stack:
            for framework in frameworks():
                stack.enter_context(framework.capturing())
            stack.enter_context(torch.no_grad())
            model.eval()
            for framework in frameworks():
                framework.reset(model)
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for framework, module, state in states:
            framework.reset(module)
            framework.set_state(module, state)


def _default_sample(model: nn.Module, multi_step: bool) -> Tensor:
    """Return zeros of the shape that a model that starts with a linear layer takes."""
    first = next(
        (m for m in model.modules() if isinstance(m, IntegerFirst) or not any(True for _ in m.children())), None
    )
    if not isinstance(first, nn.Linear):
        raise SampleError(
            f"The shape that {type(model).__name__} takes cannot be told from its first layer,"
            f" {type(first).__name__}; give to_nir(model, sample) one batch of its input."
        )
    return first.weight.new_zeros((1, 1, first.in_features) if multi_step else (1, first.in_features))


def _graph_of(tracer: fx.Tracer, call: _Call) -> fx.Graph:
    """Trace, and leave the attributes of all modules as they were."""
    # Leaves do not run while torch.fx traces: whatever changes now, the model's own code has changed.
    before, kind = Attributes(call.model), type(call.model).__name__
    try:
        graph = tracer.trace(call)
        changed = before.changed()
    except UnsupportedModelError:
        raise
    except Exception as error:  # fx lets through whatever a proxy provokes in the model's code
        raise UnsupportedModelError(
            f"{kind}.forward() decides by its input's values or sizes ({error}). {_ONE_STEP}"
        ) from error
    finally:
        before.restore()
    if changed:
        raise UnsupportedModelError(
            f"{kind}.forward() writes to {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}: NIR carries"
            " layers and neurons, whose state they alone change. Do that outside of forward()."
        )
    return graph


def trace(model: nn.Module, sample: Tensor | None = None) -> Flow:
    """Follow ``sample`` through ``model``.

    Args:
        model: layers and neurons, connected by calls, sums, flattening and nothing else.
        sample: one call's input, ``(B, ...)``, or ``(T, B, ...)`` for a multi-step model. May be left out if the
            model starts with a linear layer.

    Raises:
        UnsupportedModelError: the model does something else, loops over time, calls a layer twice, has forward hooks,
            or writes to attributes of its modules.
        UnsupportedNeuronError: a neuron has no exact spec.
        SampleError: the sample is missing or does not fit.
    """
    neurons = neurons_of(model)
    readings = {n.module: n.read() for n in neurons}
    multi_step = any(reading.multi_step for reading in readings.values())
    if sample is None:
        sample = _default_sample(model, multi_step)
    with undisturbed(model, neurons):
        call = _Call(model)
        tracer = _Tracer(set(readings))
        graph = _graph_of(tracer, call)
        recorder = _Recorder(fx.GraphModule(tracer.root, graph))
        try:
            recorder.run(sample)
        except Exception as error:  # torch raises many types for input that does not fit
            raise SampleError(f"The sample {tuple(sample.shape)} does not fit the model: {error}.") from error
    return _Reader(call, recorder.values, readings).read(graph, multi_step)


def _operation_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


class _Reader:
    """Turns a traced graph into a :class:`Flow`."""

    def __init__(self, call: nn.Module, values: Mapping[fx.Node, Any], readings: Mapping[nn.Module, Any]) -> None:
        self.call, self.values, self.readings = call, values, readings
        self.nodes: dict[str, FlowNode] = {}
        self.carried: dict[fx.Node, tuple[str, ...]] = {}
        self.sums: set[fx.Node] = set()

    def read(self, graph: fx.Graph, multi_step: bool) -> Flow:
        input_shape: tuple[int, ...] = ()
        for node in graph.nodes:
            if node.op == "placeholder":
                self.carried[node] = (INPUT,)
                input_shape = tuple(self.values[node].shape)
            elif node.op == "call_module":
                self._module(node)
            elif node.op == "output":
                output, returns_state = self._output(node.args[0])
                return Flow(tuple(self.nodes.values()), output, input_shape, multi_step, returns_state)
            elif node.op != "get_attr":
                self._operation(node)
        raise AssertionError("an fx graph ends with an output")

    def _signal(self, value: Any, user: str) -> tuple[str, ...]:
        """Return the sources of ``value``, as an input of ``user``."""
        if value not in self.carried:
            what = f"{value.name!r}" if isinstance(value, fx.Node) else repr(value)
            raise UnsupportedModelError(
                f"{user} takes {what}, which is no spikes or currents: NIR carries those alone, no membrane"
                f" potentials, constants or other states. {_ONE_STEP}"
            )
        return self.carried[value]

    def _module(self, node: fx.Node) -> None:
        name = _name_in_model(str(node.target))
        module = self.call.get_submodule(str(node.target))
        reading = self.readings.get(module)
        label = f"Layer {name!r}"
        signals = (*node.args, *node.kwargs.values())
        if not signals:
            raise UnsupportedModelError(f"{label} is called without input.")
        sources = self._signal(signals[0], label)
        if reading is not None:
            self._check_initial(label, reading, signals[1:])
        elif len(signals) > 1:
            raise UnsupportedModelError(
                f"{label} ({type(module).__name__}) takes {len(signals)} inputs; NIR nodes one."
            )
        elif known_name(module) in _TRANSPARENT:
            self.carried[node] = sources
            return
        value = self.values[node]
        spikes = value[0] if reading is not None and reading.returns_state else value
        self._add(node, FlowNode(name, module, sources, self._shape(signals[0]), tuple(spikes.shape), reading))

    def _add(self, node: fx.Node, entry: FlowNode) -> None:
        if entry.name in self.nodes:
            raise UnsupportedModelError(f"Layer {entry.name!r} is called more than once in one call. {_ONE_STEP}")
        if not entry.name or "/" in entry.name:
            raise UnsupportedModelError("The model is itself the layer; put it into nn.Sequential(...).")
        self.nodes[entry.name] = entry
        self.carried[node] = (entry.name,)

    def _shape(self, value: Any) -> tuple[int, ...]:
        found = self.values[value]
        return tuple((found[0] if isinstance(found, tuple) else found).shape)

    def _check_initial(self, label: str, reading: NeuronReading, states: tuple[Any, ...]) -> None:
        """Refuse a state handed to a neuron that is not the one it has after a reset."""
        initial = list(reading.initial_state().values())
        for state, start in zip(states, initial, strict=False):
            value = self.values.get(state) if isinstance(state, fx.Node) else state
            if value is not None and not (isinstance(value, Tensor) and bool((value == start).all())):
                raise UnsupportedModelError(f"{label} is called with a state other than its initial one. {_ONE_STEP}")

    def _operation(self, node: fx.Node) -> None:
        self._check_in_place(node)
        if node.target is operator.getitem and isinstance(self.values[cast("fx.Node", node.args[0])], tuple):
            if node.args[1] == 0:  # of (spikes, states) the spikes; states are refused where they are used
                self.carried[node] = self._signal(node.args[0], "The model")
        elif node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs:
            self._sum(node)
        elif node.target in _FLATTENS:
            self._flatten(node)
        elif not any(True for _ in node.users):
            return
        else:
            raise UnsupportedModelError(
                f"The model calls {_operation_name(node)}() on its spikes or currents; NIR has no node for it. Use"
                f" layers, +, and flatten alone. {_ONE_STEP}"
            )

    def _check_in_place(self, node: fx.Node) -> None:
        """Refuse to write into a parameter, or into a tensor that is used again: edges carry one value each."""
        name = _operation_name(node)
        operand = node.args[0] if node.args else None
        if not name.endswith("_") or name.endswith("__") or not isinstance(operand, fx.Node):
            return
        if operand.op == "get_attr" or any(node < user for user in operand.users):
            raise UnsupportedModelError(
                f"The model writes into {_name_in_model(str(operand.target))!r} with {name}(), and uses it again; NIR"
                " carries what layers and neurons give alone. Use the result of an operation that is not in place."
            )

    def _sum(self, node: fx.Node) -> None:
        left, right = ((arg, self._signal(arg, "A sum")) for arg in node.args)
        if self._shape(left[0]) != self._shape(right[0]):
            raise UnsupportedModelError("A sum of unequal shapes; NIR adds nodes of equal shape alone.")
        if len(left[1]) > 1 and len(right[1]) > 1:
            raise UnsupportedModelError(
                "A sum of two sums: NIR adds the inputs of a node one after the other; write ((a + b) + c) + d."
            )
        # Readers add in the order of the edges; a + (b + c) is (b + c) + a, bit for bit.
        sources = (*left[1], *right[1]) if len(right[1]) == 1 else (*right[1], *left[1])
        if len(set(sources)) < len(sources):
            raise UnsupportedModelError(f"{sources[0]!r} is added to itself; NIR has at most one edge between nodes.")
        self.carried[node] = sources

    def _flatten(self, node: fx.Node) -> None:
        dims = {"start_dim": 0, "end_dim": -1}
        dims.update(dict(zip(dims, cast("tuple[int, ...]", node.args[1:]), strict=False)))
        dims.update(cast("dict[str, int]", {k: v for k, v in node.kwargs.items() if k in dims}))
        sources = self._signal(node.args[0], "flatten()")
        shapes = self._shape(node.args[0]), self._shape(node)
        self._add(node, FlowNode(node.name, nn.Flatten(**dims), sources, *shapes))

    def _output(self, value: Any) -> tuple[tuple[str, ...], bool]:
        first = value[0] if isinstance(value, (tuple, list)) else value
        sources = self._signal(first, "The output")
        if len(sources) > 1:
            raise UnsupportedModelError("The output is a sum; NIR adds the inputs of nodes. End in a layer or neuron.")
        if sources == (INPUT,):
            raise UnsupportedModelError("The model gives its input unchanged.")
        reading = self.nodes[sources[0]].reading
        whole = isinstance(value, fx.Node) and isinstance(self.values[value], tuple)
        several = isinstance(value, (tuple, list)) and len(value) > 1
        return sources, reading is not None and reading.returns_state and (whole or several)
