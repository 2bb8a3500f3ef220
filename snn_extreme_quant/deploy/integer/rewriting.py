"""From a recorded graph in float to one in integers.

Every value of the recorded graph is followed as what it is in integers (:mod:`.integer_values`); each operation has a
rule that says what it makes of that. What has no form in integers is real. Real values may stand before the encoding of
the input and behind the last integer operation, but no layer and no neuron can read one.

The graph is walked twice: first to find what feeds each neuron layer and within which limits, then, with the layers'
fixed-point forms, to write the integer graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.arguments import Arguments, mapped
from snn_extreme_quant.deploy.integer.arithmetic import ARITHMETIC
from snn_extreme_quant.deploy.integer.emission import Emitter, NotIntegerError
from snn_extreme_quant.deploy.integer.layers import LAYERS, encode
from snn_extreme_quant.deploy.integer.moves import IDENTITIES, JOINS, MOVES, affine_of, join, move, pad
from snn_extreme_quant.deploy.integer.neurons import NeuronCalls, NeuronValues, neuron
from snn_extreme_quant.deploy.integer.pooling import POOLING
from snn_extreme_quant.deploy.integer.shapes import Shapes
from snn_extreme_quant.deploy.integer.values import Affine, Constant, Real, Size, Term, Value
from snn_extreme_quant.deploy.recording.graphs import NEURONS
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.neurons.fixed_point import FixedPointNeuron

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.states import StepStates

__all__ = ["Arguments", "Rewriter"]

aten = torch.ops.aten
_OURS = torch.ops.snn_xq

#: Elementwise operations, which may stand before the encoding of the input.
_ELEMENTWISE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.abs.default,
    aten.clamp.default, aten.relu.default, aten.add.Scalar, aten.mul.Scalar, aten.sub.Scalar, aten.div.Scalar,
    aten.rsub.Scalar, aten.to.dtype, aten._to_copy.default, operator.getitem,
}  # fmt: skip
_FILLED = {
    aten.zeros.default, aten.ones.default, aten.full.default, aten.zeros_like.default, aten.ones_like.default,
    aten.full_like.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
}  # fmt: skip
_FLOAT_LAYERS = ("linear", "conv", "addmm", "matmul", "mm", "bmm", "embedding")
_RAW = "the model's raw input, real numbers"


class Rewriter:
    """One walk through a recorded graph.

    Args:
        module: the recorded graph.
        shapes: of its values.
        spikes: whether the input is promised to be spikes.
        max_steps: for how many steps overflow is excluded at least.
        folded: the neuron layers in fixed point; None on the first walk.
        states: of a graph of one step, what its states are in integers.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        shapes: Shapes,
        *,
        spikes: bool,
        max_steps: int,
        folded: Mapping[str, FixedPointNeuron] | None = None,
        states: StepStates | None = None,
    ) -> None:
        """Prepare an empty integer graph."""
        self.module = module
        self.shapes = shapes
        self.spikes = spikes
        self.max_steps = max_steps
        self.folded = folded
        self.states = states
        self.emitter = Emitter()
        self.values: dict[fx.Node, Any] = {}
        self.calls: dict[str, NeuronCalls] = {}
        #: Of rows of embeddings, relative to the largest value that there can be.
        self.rounding = 0.0
        self.neurons: dict[fx.Node, NeuronValues] = {}
        self.inputs: dict[str, Term] = {}
        self.inside = self._before_neurons()
        #: Recorded values whose range is that of sums over the most steps, up to the next neurons.
        self.over_steps: set[fx.Node] = set()

    def run(self) -> fx.GraphModule:
        """Return the integer graph."""
        for node in self.module.graph.nodes:
            self.evaluate(node)
        outputs = self._looked_up(self.module.graph.output_node().args[0])
        if self.folded is not None:
            if self.states is None:
                given = mapped(outputs, self._real_node)
            else:
                first = len(outputs) - self.states.count
                given = (*mapped(outputs[:first], self._real_node), *self.states.after(self, outputs[first:]))
            self.emitter.graph.output(given)
        graph = fx.GraphModule(self.emitter.root, self.emitter.graph)
        if self.folded is not None:
            graph.graph.eliminate_dead_code()
            graph.delete_all_unused_submodules()
            graph.graph.lint()
            graph.recompile()
        return graph

    def evaluate(self, node: fx.Node) -> None:
        """Find what a node of the recorded graph is, given those before it."""
        if node.target not in NEURONS and not self.over_steps.isdisjoint(node.all_input_nodes):
            self.over_steps.add(node)
        if self.states is not None and self.states.knows(node):
            self.values[node] = self.states.value(self, node)
        elif node.op == "placeholder":
            self.values[node] = self._input(node)
        elif node.op == "get_attr":
            self.values[node] = Constant(self._attribute(str(node.target)))
        elif node.op == "call_function":
            self.values[node] = self._rewritten(node)

    # What rules ask for -----------------------------------------------------------------------------------------------

    def open_axes(self, node: fx.Node) -> dict[int, str]:
        """Return the open axes of a value of the recorded graph."""
        return self.shapes.open_axes.get(node, {})

    def shape_of(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a value of the recorded graph, for 3 steps of 2 samples."""
        return self.shapes.whole[node]

    def closed_shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a value of the recorded graph, open axes being 1."""
        return self.shapes.closed[node]

    def times_longer(self, node: fx.Node, axis: int) -> int:
        """Return how many times as long as in :meth:`closed_shape` an axis is at most, in ``max_steps`` steps.

        Raises:
            NotIntegerError: its length goes with the samples, of which there may be any number, or not in proportion
                to the steps.
        """
        depends = self.open_axes(node).get(axis)
        if depends is None:
            return 1
        if depends != "T":
            raise NotIntegerError("it sums over samples")
        if self.shape_of(node)[axis] != 3 * self.closed_shape(node)[axis]:
            raise NotIntegerError("it sums over a part of the steps, or over pairs of them")
        return self.max_steps

    def read(self, layer: str, term: Term) -> None:
        """Note the integers that a layer reads: over all its calls those of the largest magnitude."""
        known = self.inputs.get(layer)
        if known is None or _magnitude(term) > _magnitude(known):
            self.inputs[layer] = term

    def layer_input(self, given: Arguments) -> Affine:
        """Return what a layer or a neuron reads.

        Raises:
            UnsupportedModelError: it has no form in integers.
        """
        value, layer = given.values[0], given.values[-1]
        if isinstance(value, Affine) and value.terms:
            return value
        if isinstance(value, Constant):
            value = affine_of_constant(value)
        if isinstance(value, Affine):
            return value
        raise UnsupportedModelError(f"Layer {layer!r} reads {value.reason}. {_remedy(value)}")

    # The walk ---------------------------------------------------------------------------------------------------------

    def _before_neurons(self) -> set[fx.Node]:
        """Return what a neuron layer depends on."""
        found: set[fx.Node] = set()
        for node in reversed(self.module.graph.nodes):
            if node.target in NEURONS or any(user in found for user in node.users):
                found.add(node)
        return found

    def _attribute(self, name: str) -> Tensor:
        value: Any = self.module
        for part in name.split("."):
            value = getattr(value, part)
        return cast("Tensor", value).detach()

    def _input(self, node: fx.Node) -> Value:
        placeholder = self.emitter.graph.placeholder("input")
        if not self.spikes:
            return Real(placeholder, _RAW, encoding=True)
        spikes = self.emitter.call(aten.to.dtype, placeholder, torch.uint8)
        shape = self.closed_shape(node)
        one = torch.ones((), dtype=torch.float64).expand(shape)
        return affine_of(Term(spikes, one, torch.zeros_like(one), one, torch.uint8), shape)

    def _looked_up(self, value: Any) -> Any:
        return mapped(value, lambda v: self.values[v] if isinstance(v, fx.Node) else v)

    def _rewritten(self, node: fx.Node) -> Any:
        values = tuple(self._looked_up(list(node.args)))
        kwargs = {k: self._looked_up(v) for k, v in node.kwargs.items()}
        nodes = tuple(n for n in node.args if isinstance(n, fx.Node))
        if node.target in _FILLED and nodes and isinstance(values[0], (Affine, Real)):  # of its shape and type only
            like = nodes[0].meta.get("val", torch.zeros(()))
            values = (Constant(torch.zeros(self.closed_shape(nodes[0]), dtype=like.dtype)), *values[1:])
        given = Arguments(values, kwargs, nodes, self.emitter.call, node.target)
        if node.target is operator.getitem and isinstance(values[0], (tuple, list)):
            return values[0][values[1]]
        leaves: list[Any] = []
        mapped([list(values), list(kwargs.values())], leaves.append)
        kinds = {type(v) for v in leaves if isinstance(v, (Affine, Constant, Real, Size))}
        if node.target is aten.sym_size.int:
            return self._size(given)
        if (
            kinds <= {Size}
            and node.target not in NEURONS
            and node.op == "call_function"
            and node not in self.shapes.closed
        ):
            return self._computed_size(node.target, given)
        if kinds <= {Size, Constant} and node.target not in (*NEURONS, *LAYERS):
            return self._computed_constant(node, given)
        return self._ruled(node, given)

    def _ruled(self, node: fx.Node, given: Arguments) -> Any:
        rule = self._rule(node)
        layer = node.target in LAYERS and (node in self.inside or self._is_raw(given.values[0]))
        if rule is not None and (layer or node.target in NEURONS):
            return self._strictly(node, given, rule)
        try:
            if rule is None:
                raise NotIntegerError("")
            return rule(self, node, given)
        except NotIntegerError as reason:
            return self._real(node, given, str(reason))
        except UnsupportedModelError:
            # A layer behind the last neuron that reads real numbers: part of the decoding.
            return self._real(node, given, "")

    @staticmethod
    def _is_raw(value: Any) -> bool:
        return isinstance(value, Real) and value.encoding

    def _strictly(self, node: fx.Node, given: Arguments, rule: Callable[..., Value]) -> Value:
        """Apply the rule of a layer or a neuron: there is no way around it."""
        try:
            return rule(self, node, given)
        except NotIntegerError as reason:
            raise UnsupportedModelError(
                f"Layer {given.values[-1]!r} cannot be computed in integers, because of what it reads or sums:"
                f" {reason}. Put a neuron before it, or export without integer=True."
            ) from reason

    def _rule(self, node: fx.Node) -> Callable[..., Value] | None:
        target: Any = node.target
        if target in NEURONS:
            return neuron
        if target in LAYERS:
            return LAYERS[target]
        if target is _OURS.fixed_point.default:
            return encode
        if target in IDENTITIES or (target in (aten.to.dtype, aten._to_copy.default) and _keeps_type(node)):
            return lambda _rewriter, _node, given: given.affine(0)
        if target in MOVES:
            return move
        if target in (aten.pad.default, aten.constant_pad_nd.default):
            return pad
        return join if target in JOINS else (ARITHMETIC | POOLING).get(target)

    # Lengths, constants, real numbers ---------------------------------------------------------------------------------

    def _size(self, given: Arguments) -> Size:
        value, axis = given.values[0], given.values[1]
        length = self.closed_shape(given.nodes[0])[axis]
        if axis % len(self.shape_of(given.nodes[0])) not in self.open_axes(given.nodes[0]):
            return Size(length, length)
        source = value.terms[0].node if isinstance(value, Affine) else self._real_node(value)
        return Size(length, self.emitter.call(aten.sym_size.int, source, axis))

    def _computed_size(self, target: Any, given: Arguments) -> Size:
        result = target(*given.known, **given.known_kwargs)
        if not any(isinstance(v, Size) and isinstance(v.node, fx.Node) for v in given.values):
            return Size(result, result)
        nodes = mapped(list(given.values), lambda v: v.node if isinstance(v, Size) else v)
        return Size(result, self.emitter.call(target, *nodes))

    def _computed_constant(self, node: fx.Node, given: Arguments) -> Any:
        def plain(value: Any) -> Any:
            return value.value if isinstance(value, (Size, Constant)) else value

        args = mapped(list(given.values), plain)
        kwargs = {k: mapped(v, plain) for k, v in given.kwargs.items()}
        with torch.no_grad():
            result = cast("Any", node.target)(*args, **kwargs)
        if isinstance(result, (list, tuple)):
            return tuple(Constant(v) for v in result)
        # Along open axes a constant is known to be the same only if it is filled, repeated or computed elementwise;
        # what is computed from an open length itself is none.
        lengths = any(isinstance(v, Size) and isinstance(v.node, fx.Node) for v in given.values)
        same = node.target in _FILLED | MOVES or (node.target in IDENTITIES | JOINS | _ELEMENTWISE and not lengths)
        if (lengths or any(self.open_axes(n) for n in (node, *given.nodes))) and not same:
            return self._real(node, given, "it depends on the number of steps or samples")
        return Constant(result)

    def _real_node(self, value: Any) -> Any:
        """Return a value as a float tensor of the integer graph."""
        if isinstance(value, (Real, Size)):
            return value.node
        return self.emitter.decoded(value) if isinstance(value, (Affine, Constant)) else value

    def _of_all_samples(self, nodes: Sequence[fx.Node], values: Sequence[Any], parts: list[Any]) -> list[Any]:
        """Return what is joined, constants too for all steps and samples: of open axes they hold one element.

        Args:
            nodes: the parts in the recorded graph.
            values: what they are.
            parts: what they are as float tensors.
        """
        call = self.emitter.call
        like = next((part for value, part in zip(values, parts, strict=True) if not isinstance(value, Constant)), None)
        whole = []
        for node, value, part in zip(nodes, values, parts, strict=True):
            axes = self.open_axes(node) if isinstance(value, Constant) and like is not None else {}
            sizes = [
                call(aten.sym_size.int, like, axis) if axis in axes else -1 for axis in range(len(self.shape_of(node)))
            ]
            whole.append(call(aten.expand.default, part, sizes) if axes else part)
        return whole

    def _real(self, node: fx.Node, given: Arguments, reason: str) -> Any:
        """Compute a value in float, as it was recorded."""
        leaves: list[Any] = []
        mapped([list(given.values), list(given.kwargs.values())], leaves.append)
        real = [v for v in leaves if isinstance(v, Real)]
        affine = any(isinstance(v, Affine) for v in leaves)
        args = mapped(list(given.values), self._real_node)
        if node.target in JOINS:
            args[0] = self._of_all_samples(cast("Sequence[fx.Node]", node.args[0]), given.values[0], args[0])
        kwargs = {k: mapped(v, self._real_node) for k, v in given.kwargs.items()}
        result = self.emitter.call(node.target, *args, **kwargs)
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0].strip("_")
        why = f"what {name!r} gives" + (f" ({reason})" if reason and not reason.startswith("it is computed") else "")
        known = next((v.reason for v in real if v.reason != _RAW), "")
        harmless = node.target in (_ELEMENTWISE | MOVES | IDENTITIES | JOINS)
        encoding = harmless and not affine and bool(real) and all(v.encoding for v in real)
        return Real(result, _RAW if encoding else known or why, encoding)


def _magnitude(term: Term) -> float:
    low, high = term.bounds
    return max(-low, high)


def affine_of_constant(value: Constant) -> Affine:
    """Return a constant as a value without terms."""
    return Affine(tuple(value.value.shape), (), value.value.double())


def _keeps_type(node: fx.Node) -> bool:
    kind = node.kwargs.get("dtype", node.args[1] if len(node.args) > 1 else None)
    return kind in (None, torch.float32)


def _remedy(value: Real) -> str:
    if value.encoding or value.reason == _RAW:
        return (
            "Make sxq.FixedPointInput(bits, fraction) the model's first module, or encode the input with"
            " sxq.rate_encode and export with input='spikes'."
        )
    if any(f"'{name}" in value.reason for name in _FLOAT_LAYERS):
        return (
            "Quantise the float layer (sxq.quantize_, for example with sxq.Uniform(8)), or export without integer=True."
        )
    return (
        "Integer files have no such operation before a layer or a neuron: replace it, or export without integer=True."
    )
