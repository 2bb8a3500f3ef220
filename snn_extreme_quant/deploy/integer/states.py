"""What the states of a single step are in integers: unit, type, range, and the value before the first step.

A neuron's state is what its fixed-point form makes of it. Of what the model or the file carries besides, either the
value after the step does not depend on the one before, and has the form of what is carried; or the step adds to it, or
takes the larger of it and something, and it has the unit of that. Anything else has no integer form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.emission import Emitter, NotIntegerError
from snn_extreme_quant.deploy.integer.moves import affine_of
from snn_extreme_quant.deploy.integer.neurons import neuron_outputs
from snn_extreme_quant.deploy.integer.rewriting import Rewriter
from snn_extreme_quant.deploy.integer.shapes import Shapes
from snn_extreme_quant.deploy.integer.values import (
    INT32,
    Affine,
    Constant,
    Real,
    Term,
    Value,
    compressed,
    smallest_type,
)
from snn_extreme_quant.deploy.recording.graphs import NEURONS
from snn_extreme_quant.deploy.streaming.graph import State, StepGraph
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.neurons.fixed_point import FixedPointNeuron

__all__ = ["StateForm", "StepStates"]

aten = torch.ops.aten
_SUM, _LARGEST = aten.add.Tensor, aten.maximum.default
#: Initial values are whole numbers of units to this precision.
_PRECISION = 1e-6
#: The placeholder of the number of steps, where the step in float has none.
_STEPS = "state_steps"
_WITH_CONSTANT = "a sum over time of integers and a constant (a bias)"


@dataclass(frozen=True)
class StateForm:
    """A state in integers.

    Args:
        unit: what one stands for, float64, for each element whose axis of samples is 1.
        low: the least integer, likewise.
        high: the largest.
        dtype: the integers' type.
        initial: the integers before the first step, no larger than needed to broadcast.
        most_steps: for how many steps the range holds; None for any number.
        offset: of a sum, what each step adds besides, a real number; None if nothing. Such a sum can only be decoded.
    """

    unit: Tensor
    low: Tensor
    high: Tensor
    dtype: torch.dtype
    initial: Tensor
    most_steps: int | None = None
    offset: Tensor | None = None

    def decoded(self, integers: Tensor, steps: int) -> Tensor:
        """Return the state after so many steps as real numbers, float64."""
        real = integers.double() * self.unit
        return real if self.offset is None else real + steps * self.offset

    def of(self, state: State) -> State:
        """Return the state as the file has it."""
        return replace(state, initial=self.initial, dtype=self.dtype)


@dataclass(frozen=True)
class _Growth:
    """A state that a step adds to, or of which it takes the larger value."""

    state: fx.Node
    change: Any
    operation: Any


class StepStates:
    """The states of a step, and what the rewriter makes of them.

    Args:
        step: the step in float.
        shapes: of the values of its graph.
        folded: the neuron layers in fixed point.
        spikes: whether the input is promised to be spikes.
        max_steps: for how many steps sums are proved at least.

    Raises:
        UnsupportedModelError: a state has no integer form.
    """

    def __init__(
        self,
        step: StepGraph,
        shapes: Shapes,
        folded: Mapping[str, FixedPointNeuron],
        *,
        spikes: bool,
        max_steps: int,
    ) -> None:
        self.step, self.shapes, self.folded, self.spikes = step, shapes, folded, spikes
        self.max_steps = step.steps or max_steps
        graph = step.graph.graph
        self.placeholders: list[fx.Node] = graph.find_nodes(op="placeholder")[1:]
        results = cast("Sequence[fx.Node]", graph.output_node().args[0])
        self.ends = dict(zip(self.placeholders, results[len(step.outputs) :], strict=True))
        self.of_state = dict(zip(self.placeholders, step.states, strict=True))
        grows = (self._growth(placeholder, end) for placeholder, end in self.ends.items())
        self.growths = {self.ends[growth.state]: growth for growth in grows if growth is not None}
        self.known: dict[fx.Node, StateForm] = {}
        self.complete = False
        for placeholder in self.placeholders:
            self._find(placeholder, ())
        # Constants that are added up are worth their number of steps, which is a state too.
        self.counted = any(form.offset is not None for form in self.known.values())
        self.counter = next((g.state for g in self.growths.values() if self._counts(g)), None)
        self.sums: dict[fx.Node, fx.Node] = {}
        self.complete = True

    @property
    def count(self) -> int:
        """How many states the step in float has."""
        return len(self.placeholders)

    @property
    def forms(self) -> list[StateForm]:
        """The form of each state."""
        zero = torch.zeros((), dtype=torch.float64)
        count = StateForm(zero + 1, zero, zero + self.max_steps, torch.int32, zero.to(torch.int32))
        found = [self.known[placeholder] for placeholder in self.placeholders]
        return [*found, count] if self.own_counter else found

    @property
    def own_counter(self) -> bool:
        """Whether the steps are counted in a state that the step in float does not have: the last one."""
        return self.counted and self.counter is None

    @property
    def states(self) -> tuple[State, ...]:
        """The states as the file has them."""
        states = [*self.step.states, *([State("steps", 0.0)] if self.own_counter else [])]
        return tuple(form.of(state) for form, state in zip(self.forms, states, strict=True))

    @property
    def most_steps(self) -> int | None:
        """For how many steps all ranges hold; None for any number."""
        return min((form.most_steps for form in self.forms if form.most_steps is not None), default=None)

    # What the rewriter asks for -----------------------------------------------------------------------------------

    def knows(self, node: fx.Node) -> bool:
        """Whether a node is a state before the step, or one after it that grows out of that before."""
        return node in self.known or node in self.growths

    def value(self, rewriter: Rewriter, node: fx.Node) -> Value:
        """Return what such a node is in integers."""
        if node in self.known:
            return self._typed(node, rewriter.emitter.graph.placeholder(node.name))
        growth, emitter = self.growths[node], rewriter.emitter
        before = cast("Affine", rewriter.values[growth.state]).terms[0]
        change = growth.change
        term, _ = _change(emitter, rewriter.values[change] if isinstance(change, fx.Node) else change)
        total = emitter.call(growth.operation, before.node, emitter.typed(term, torch.int32).node)
        value, offset = self._typed(growth.state, total), self.known[growth.state].offset
        if offset is None:
            return value
        self.sums[growth.state] = total
        if not self.complete:
            return Real(total, _WITH_CONSTANT)
        count = emitter.call(aten.to.dtype, self._count(rewriter), torch.float32)
        constant = emitter.call(aten.mul.Tensor, count, emitter.constant(compressed(offset).float()))
        return Real(emitter.call(_SUM, emitter.decoded(value), constant), _WITH_CONSTANT)

    def _counts(self, growth: _Growth) -> bool:
        """Whether a state is the number of steps."""
        one = not isinstance(growth.change, fx.Node) and bool(growth.change == 1)
        return one and growth.operation is _SUM and bool(self.of_state[growth.state].initial == 0)

    def _count(self, rewriter: Rewriter) -> fx.Node:
        """Return the number of steps, this one included."""
        if self.counter is not None:
            before = cast("Affine", rewriter.values[self.counter]).terms[0].node
        else:
            graph = rewriter.emitter.graph
            known = [n for n in graph.find_nodes(op="placeholder") if n.target == _STEPS]
            before = known[0] if known else graph.placeholder(_STEPS)
        return rewriter.emitter.call(_SUM, before, rewriter.emitter.whole(torch.ones((), dtype=torch.float64)))

    def _typed(self, placeholder: fx.Node, node: fx.Node) -> Affine:
        form, shape = self.known[placeholder], self.shapes.closed[placeholder]
        return affine_of(Term(node, form.unit, form.low, form.high, form.dtype), shape)

    def after(self, rewriter: Rewriter, values: Sequence[Any]) -> list[fx.Node]:
        """Return the integers of the states after the step."""
        emitter = rewriter.emitter
        found = [
            self.sums[placeholder]
            if self.known[placeholder].offset is not None
            else emitter.typed(emitter.single(value), self.known[placeholder].dtype).node
            for placeholder, value in zip(self.placeholders, values, strict=True)
        ]
        return [*found, self._count(rewriter)] if self.own_counter else found

    # Forms --------------------------------------------------------------------------------------------------------

    def _growth(self, placeholder: fx.Node, end: fx.Node) -> _Growth | None:
        if end.target not in (_SUM, _LARGEST) or end.kwargs or placeholder not in self._needed(end):
            return None
        for state, change in (end.args[:2], end.args[1::-1]):
            if state is placeholder and (not isinstance(change, fx.Node) or placeholder not in self._needed(change)):
                return _Growth(placeholder, change, end.target)
        return None

    def _needed(self, target: fx.Node) -> set[fx.Node]:
        """Return what a value's form depends on: not on what neurons read."""
        found: set[fx.Node] = set()
        waiting = [target]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                parameters = cast("list[fx.Node]", node.args[2]) if node.target in NEURONS else node.all_input_nodes
                waiting.extend(parameters)
        return found

    def _find(self, placeholder: fx.Node, within: tuple[fx.Node, ...]) -> None:
        """Find a state's form, those that it depends on first."""
        if placeholder in self.known:
            return
        name = self.of_state[placeholder].name
        end = self.ends[placeholder]
        growth = self.growths.get(end)
        growth = growth if growth is not None and growth.state is placeholder else None
        target = end if growth is None else growth.change
        try:
            if placeholder in within or (isinstance(target, fx.Node) and placeholder in self._needed(target)):
                raise NotIntegerError("it is computed from its own value before the step, and not by adding to it")
            if isinstance(target, fx.Node):
                for other in self.placeholders:
                    if other in self._needed(target):
                        self._find(other, (*within, placeholder))
            rewriter = Rewriter(
                self.step.graph,
                self.shapes,
                spikes=self.spikes,
                max_steps=self.max_steps,
                folded=self.folded,
                states=self,
            )
            value = self._evaluated(rewriter, target) if isinstance(target, fx.Node) else target
            if growth is None:
                self.known[placeholder] = self._carried(rewriter.emitter, placeholder, value)
            else:
                self.known[placeholder] = self._grown(rewriter.emitter, growth, value)
        except NotIntegerError as reason:
            raise UnsupportedModelError(
                f"The state {name!r} of a step has no integer form: {reason}. Export the sequence (form='sequence'),"
                " give out what each step computes instead of carrying it on, or export without integer=True."
            ) from reason

    def _evaluated(self, rewriter: Rewriter, target: fx.Node) -> Value:
        needed = self._needed(target)
        for node in self.step.graph.graph.nodes:
            if node in needed and node.target in NEURONS:
                rewriter.values[node] = neuron_outputs(rewriter, node, self.folded[str(node.args[-1])])
            elif node in needed:
                rewriter.evaluate(node)
        return cast("Value", rewriter.values[target])

    def _carried(self, emitter: Emitter, placeholder: fx.Node, value: Value) -> StateForm:
        """What does not depend on its value before the step."""
        term, shape = _single(emitter, value), self.shapes.closed[placeholder]
        end = self.ends[placeholder]
        of_neuron = end.target is operator.getitem and cast("fx.Node", end.args[0]).target in NEURONS
        initial = self._initial(placeholder, term.unit, rounded=bool(of_neuron and end.args[1] != 0))
        low, high = (torch.as_tensor(bound).expand(shape) for bound in (term.low, term.high))
        low, high = torch.minimum(low, initial), torch.maximum(high, initial)
        dtype = smallest_type(float(low.min()), float(high.max()))
        return StateForm(term.unit.expand(shape), low, high, dtype, compressed(initial).to(dtype))

    def _grown(self, emitter: Emitter, growth: _Growth, value: Value) -> StateForm:
        shape = self.shapes.closed[growth.state]
        term, offset = _change(emitter, value)
        alone = growth.operation is _SUM and list(growth.state.users) == [self.ends[growth.state]]
        if offset is not None and not alone:
            raise NotIntegerError(f"it holds {_WITH_CONSTANT}")
        unit, least, most = (
            torch.as_tensor(v, dtype=torch.float64).expand(shape) for v in (term.unit, term.low, term.high)
        )
        if growth.operation is _LARGEST:
            if bool((unit < 0).any()):
                raise NotIntegerError("it compares values of negative units")
            start = self.of_state[growth.state].initial
            initial = least if start == -math.inf else self._initial(growth.state, unit)
            low, high = torch.minimum(initial, least), torch.maximum(initial, most)
            return StateForm(unit, low, high, torch.int32, compressed(initial).to(torch.int32))
        initial = self._initial(growth.state, unit)
        steps = self.max_steps
        low, high = initial + steps * least.clamp_max(0), initial + steps * most.clamp_min(0)
        reach = float(torch.maximum(-low, high).max())
        if reach >= INT32:
            raise NotIntegerError(f"within {steps} steps it may reach {reach:.4g}, which does not fit 32 bits")
        largest = float(torch.maximum(-least, most).max())
        if largest and (offset is not None or self._only_decoded(growth)):
            steps = int((INT32 - 1 - float(initial.abs().max())) // largest)
        proved = steps if largest else None
        return StateForm(unit, low, high, torch.int32, compressed(initial).to(torch.int32), proved, offset)

    def _initial(self, placeholder: fx.Node, unit: Tensor, *, rounded: bool = False) -> Tensor:
        """Return what a state is before the first step, in units; only a neuron's may be rounded."""
        start = float(self.of_state[placeholder].initial)
        exact = torch.where(unit == 0, 0.0 if start == 0 else math.inf, start / torch.where(unit == 0, 1.0, unit))
        whole = exact.round()
        if not rounded and not bool(((exact - whole).abs() <= _PRECISION).all()):
            raise NotIntegerError(f"its value before the first step, {start:g}, is no whole number of its unit")
        if float(whole.abs().max()) >= INT32:
            raise NotIntegerError(f"its value before the first step, {start:g}, does not fit 32 bits")
        return whole.expand(self.shapes.closed[placeholder])

    def _only_decoded(self, growth: _Growth) -> bool:
        """Whether a sum goes to the outputs alone, scaled and divided at most."""
        end = self.ends[growth.state]

        counts = {other for other, g in self.growths.items() if not isinstance(g.change, fx.Node)}

        def decoded(node: fx.Node) -> bool:
            return all(user.op == "output" or scaled(user, node) for user in node.users)

        def scaled(user: fx.Node, node: fx.Node) -> bool:
            if user.target not in (aten.div.Tensor, aten.mul.Tensor):
                return False
            other = user.args[1] if user.args[0] is node else user.args[0]
            if user.target is aten.div.Tensor and counts & self._needed(user):
                return True  # divided by the number of steps, which is done in float
            return (not isinstance(other, fx.Node) or other.op == "get_attr") and decoded(user)

        return list(growth.state.users) == [end] and decoded(end)


def _single(emitter: Emitter, value: Any) -> Term:
    if isinstance(value, Real):
        raise NotIntegerError(f"it holds {value.reason}")
    if not isinstance(value, Affine):
        raise NotIntegerError("it is not computed from the input")
    return emitter.single(value)


def _change(emitter: Emitter, value: Any) -> tuple[Term, Tensor | None]:
    """Return what a step adds, or compares with: one integer tensor, or a whole number; and a constant besides."""
    offset = value.offset if isinstance(value, Affine) and not value.terms else None
    offset = value.value if isinstance(value, Constant) else offset
    number = value if isinstance(value, (int, float)) else None
    if offset is not None and bool((offset == offset.flatten()[0]).all()):
        number = float(offset.flatten()[0])
    if number is None:
        if isinstance(value, Affine) and len(value.terms) == 1 and value.has_offset:
            try:
                return emitter.single(value), None
            except NotIntegerError:
                return value.terms[0], value.offset
        return _single(emitter, value), None
    if number != round(number) or abs(number) >= INT32:
        raise NotIntegerError(f"it adds {number:g} in every step, which is no whole number")
    whole = torch.tensor(number, dtype=torch.float64)
    return Term(emitter.whole(whole), torch.ones_like(whole), whole, whole, torch.int32), None
