"""What integer graphs make of neurons: one fixed-point form for all calls of a layer."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from snn_extreme_quant.deploy.integer.moves import affine_of
from snn_extreme_quant.deploy.integer.values import Affine, Constant, Term, Value, compressed
from snn_extreme_quant.deploy.recording.graphs import SEQUENCE
from snn_extreme_quant.errors import UnsupportedModelError, UnsupportedNeuronError
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point import (
    FixedPointNeuron,
    IntegerCurrent,
    IntegerSum,
    RecurrentSums,
    fold_neuron,
)
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT, spike_limits
from snn_extreme_quant.quantizers.packing import unpack

if TYPE_CHECKING:
    from snn_extreme_quant.deploy.integer.rewriting import Arguments, Rewriter

__all__ = ["NeuronCalls", "NeuronValues", "neuron", "neuron_outputs"]

_OURS = torch.ops.snn_xq


@dataclass
class NeuronCalls:
    """All that the calls of one neuron layer have in common, found before the layer is brought to fixed point.

    Args:
        spec: the neuron, as it was read.
        parameters: by name, float32.
        scales: the unit of each sum that feeds it, for one step.
        lows: the least sums over all calls.
        highs: the largest.
        offset: what is added to the sums.
        initial: by state, the largest magnitude that a call starts from.
        recurrent: the layer that carries its spikes back.
        calls: how often the layer is called in ``max_steps`` time steps.
        own_length: steps of the longest sequence of the model's own length that it is called over, however many steps
            the input has.
        over_steps: whether its current holds sums over all steps, whose range is known for ``max_steps`` of them.
    """

    spec: NeuronSpec
    parameters: Mapping[str, Tensor]
    scales: list[Tensor]
    lows: list[Tensor]
    highs: list[Tensor]
    offset: Tensor
    initial: dict[str, Tensor] = field(default_factory=dict)
    recurrent: RecurrentSums | None = None
    calls: int = 0
    own_length: int = 0
    over_steps: bool = False

    def folded(self, layer: str, decay_bits: int, max_steps: int) -> FixedPointNeuron:
        """Return the layer in fixed point, proved for all its calls within ``max_steps`` steps."""
        sums = zip(self.scales, self.lows, self.highs, strict=True)
        current = IntegerCurrent(tuple(IntegerSum(*s) for s in sums), self.offset)
        found = fold_neuron(
            self.spec,
            self.parameters,
            current,
            self.initial,
            self.recurrent,
            decay_bits=decay_bits,
            max_steps=max(max_steps, self.calls),
            layer=layer,
        )
        if self.over_steps:
            return replace(found, steps=max_steps)
        return found if found.steps is None else replace(found, steps=max(max_steps, self.own_length))


@dataclass(frozen=True)
class NeuronValues:
    """What a call of a neuron layer reads and gives, as values of the integer graph."""

    current: Affine
    outputs: tuple[Affine, ...]


@dataclass(frozen=True)
class _Call:
    """The arguments of a neuron's call, in words."""

    current: Affine
    states: Sequence[Any]
    parameters: dict[str, Tensor]
    weights: Sequence[Constant]
    layout: str
    geometry: Sequence[int]
    spec: NeuronSpec
    layer: str
    sequence: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one step."""
        return self.current.shape[1:] if self.sequence else self.current.shape

    def of_a_step(self, values: Tensor, most: Any = None) -> Tensor:
        """Return what holds for each step of a sequence; ``most`` joins the steps, else they must be the same."""
        whole = values.expand(self.current.shape)
        if not self.sequence:
            return whole
        if most is not None:
            joined: Tensor = most(whole, 0)
            return joined
        if bool((whole != whole[:1]).any()):
            raise UnsupportedModelError(
                f"Neuron layer {self.layer!r}: its current is scaled differently from step to step, which has no"
                " fixed-point form; export without integer=True."
            )
        return whole[0]


def neuron(rewriter: Rewriter, node: fx.Node, given: Arguments) -> Value:
    """One call of a layer of neurons, all steps or one."""
    call = _read(rewriter, node, given)
    _survey(rewriter.calls, call)
    if rewriter.folded is None:
        known = rewriter.calls[call.layer]
        known.calls += _count(rewriter, given) if call.sequence else 1
        known.over_steps |= given.nodes[0] in rewriter.over_steps
        if call.sequence and 0 not in rewriter.open_axes(given.nodes[0]):
            known.own_length = max(known.own_length, rewriter.closed_shape(given.nodes[0])[0])
        fixed = None
        current, states = call.current.terms[0].node if call.current.terms else node, []
    else:
        fixed = rewriter.folded[call.layer]
        current = _current(rewriter, call, fixed)
        states = [_state(rewriter, call, fixed, n, v) for n, v in zip(call.spec.states, call.states, strict=True)]
    result = _emitted(rewriter, call, fixed, current, states) if fixed is not None else node
    outputs = _outputs(rewriter, call.spec, call.parameters, call.current.shape, fixed, result)
    rewriter.neurons[node] = NeuronValues(call.current, outputs)
    return outputs


def neuron_outputs(rewriter: Rewriter, node: fx.Node, fixed: FixedPointNeuron) -> tuple[Affine, ...]:
    """Return what one call of a layer of neurons gives, whatever it reads."""
    spec, layer = NeuronSpec.from_operator(str(node.args[-2])), str(node.args[-1])
    values = (rewriter.values[parameter] for parameter in cast("Sequence[fx.Node]", node.args[2]))
    parameters = dict(zip(spec.parameter_names, (_constant(value, layer) for value in values), strict=True))
    shape = rewriter.closed_shape(cast("fx.Node", node.args[0]))
    return _outputs(rewriter, spec, parameters, shape, fixed, rewriter.emitter.graph.placeholder(node.name))


def _read(rewriter: Rewriter, node: fx.Node, given: Arguments) -> _Call:
    _, states, parameters, weights, layout, geometry, name, layer = given.known
    spec = NeuronSpec.from_operator(name)
    values = dict(zip(spec.parameter_names, (_constant(p, layer) for p in parameters), strict=True))
    if layout == "float":
        raise UnsupportedModelError(
            f"Neuron layer {layer!r}: its recurrent layer has float weights; quantise it (sxq.quantize_) or export"
            " without integer=True."
        )
    if (
        spec.graded
        and values["amplitude"].numel() > 1
        and bool((values["amplitude"] != values["amplitude"].flatten()[0]).any())
    ):
        raise UnsupportedNeuronError(
            f"Neuron layer {layer!r}: its graded spikes have an amplitude for each channel; integer files take one"
            " amplitude, or none."
        )
    current = rewriter.layer_input(given)
    return _Call(current, states, values, weights, layout, geometry, spec, layer, node.target is SEQUENCE)


def _constant(value: Any, layer: str) -> Tensor:
    if not isinstance(value, Constant):
        raise UnsupportedModelError(
            f"Neuron layer {layer!r}: a parameter of it is computed from the input, which has no fixed-point form."
        )
    return value.value


def _survey(calls: dict[str, NeuronCalls], call: _Call) -> None:
    """Note what a call is fed by; all calls of a layer share units and offset."""
    terms = call.current.terms
    scales = [compressed(call.of_a_step(t.unit)) for t in terms]
    lows = [call.of_a_step(t.low, torch.amin) for t in terms]
    highs = [call.of_a_step(t.high, torch.amax) for t in terms]
    offset = compressed(call.of_a_step(call.current.offset))
    starts = {
        name: value.value.double().abs()
        for name, value in zip(call.spec.states, call.states, strict=True)
        if isinstance(value, Constant)
    }
    known = calls.get(call.layer)
    if known is None:
        recurrent = _recurrent(call)
        calls[call.layer] = NeuronCalls(call.spec, call.parameters, scales, lows, highs, offset, starts, recurrent)
        return
    if len(scales) != len(known.scales):
        raise UnsupportedModelError(
            f"Neuron layer {call.layer!r} is fed the sum of {len(known.scales)} values in one call and of {len(scales)}"
            " in another, which has no common fixed-point form: its own spikes are added from the second step on,"
            " perhaps. Use a neuron with feedback of its own (snntorch.RLeaky), or export without integer=True."
        )
    if not torch.equal(offset, known.offset) or not all(
        torch.equal(a, b) for a, b in zip(scales, known.scales, strict=True)
    ):
        raise UnsupportedModelError(
            f"Neuron layer {call.layer!r} is fed differently from call to call (other scales or another bias), which"
            " has no common fixed-point form; export without integer=True."
        )
    known.lows = [torch.minimum(a, b) for a, b in zip(lows, known.lows, strict=True)]
    known.highs = [torch.maximum(a, b) for a, b in zip(highs, known.highs, strict=True)]
    for name, start in starts.items():
        before = known.initial.get(name, torch.zeros((), dtype=torch.float64))
        known.initial[name] = torch.maximum(before, start)


def _count(rewriter: Rewriter, given: Arguments) -> int:
    """Return how often a layer is called over a sequence, if the input has ``max_steps`` steps.

    The sequence may be of a length of its own (a value repeated in the model), or several times as long as the input.
    """
    one, three = rewriter.closed_shape(given.nodes[0])[0], rewriter.shape_of(given.nodes[0])[0]
    if 0 not in rewriter.open_axes(given.nodes[0]):
        return one
    each = (three - one) // 2
    return one + each * (rewriter.max_steps - 1)


def _recurrent(call: _Call) -> RecurrentSums | None:
    if not call.weights:
        return None
    packed, scale, *bias = (w.value for w in call.weights)
    codes = torch.from_numpy(unpack(packed.numpy(), scale.shape[0], call.layout)).double()
    by_channel = (-1, *(1 for _ in call.geometry[2 : (len(call.geometry) + 4) // 3])) if call.geometry else (-1,)
    zero = torch.zeros((), dtype=torch.float64)
    return RecurrentSums(
        scale.double().view(by_channel),
        codes.abs().sum(0).view(by_channel),
        bias[0].double().view(by_channel) if bias else zero,
    )


def _current(rewriter: Rewriter, call: _Call, fixed: FixedPointNeuron) -> fx.Node:
    """Return the input of the operator: the one sum that feeds it, or all of them in fixed point."""
    emitter = rewriter.emitter
    terms = call.current.terms
    if len(terms) == 1:
        return emitter.typed(terms[0], torch.int32).node
    total: fx.Node | None = None
    for term, multiplier in zip(terms, fixed.multipliers, strict=True):
        node = emitter.typed(term, torch.int32).node
        if bool((multiplier != 1).any()):
            node = emitter.call(torch.ops.aten.mul.Tensor, node, emitter.whole(multiplier))
        total = node if total is None else emitter.call(torch.ops.aten.add.Tensor, total, node)
    return cast("fx.Node", total)


def _state(rewriter: Rewriter, call: _Call, fixed: FixedPointNeuron, name: str, value: Any) -> fx.Node:
    """Return a state before the call: a constant, or what an earlier call left."""
    kind = torch.int32 if name != "s" else torch.uint8
    if isinstance(value, Constant):
        start = value.value.double()
        whole = start if name == "s" else (start * 2.0**fixed.fraction / fixed.unit).round()
        return rewriter.emitter.constant(compressed(whole).to(kind), f"{call.layer} {name}")
    if isinstance(value, Affine) and len(value.terms) == 1 and not value.has_offset:
        term = value.terms[0]
        unit = torch.ones((), dtype=torch.float64) if name == "s" else fixed.unit * 2.0**-fixed.fraction
        if bool((term.unit == unit).all()) and term.bounds[1] <= (1 if name == "s" else STATE_LIMIT):
            return rewriter.emitter.typed(term, kind).node
    raise UnsupportedModelError(
        f"Neuron layer {call.layer!r}: its state {name!r} is changed between steps, which has no fixed-point form;"
        " leave the states to the neurons, or export without integer=True."
    )


def _emitted(
    rewriter: Rewriter, call: _Call, fixed: FixedPointNeuron, current: fx.Node, states: list[fx.Node]
) -> fx.Node:
    emitter = rewriter.emitter
    return emitter.call(
        _OURS.fixed_neuron_sequence.default if call.sequence else _OURS.fixed_neuron_step.default,
        current,
        states,
        [emitter.constant(compressed(p), f"{call.layer} {name}") for name, p in fixed.parameters.items()],
        [emitter.constant(call.weights[0].value, call.layer)] if call.weights else [],
        call.layout,
        list(call.geometry),
        fixed.shift,
        fixed.spec.operator,
        call.layer,
    )


def _outputs(
    rewriter: Rewriter,
    spec: NeuronSpec,
    parameters: Mapping[str, Tensor],
    shape: tuple[int, ...],
    fixed: FixedPointNeuron | None,
    result: fx.Node,
) -> tuple[Affine, ...]:
    """Return spikes and states as values; before the layer is folded their units are not known."""
    levels = int(parameters["levels"].max()) if spec.fire == "count" else 1
    low, high = spike_limits(spec, levels)
    amplitude = float(parameters["amplitude"].flatten()[0]) if spec.graded else 1.0
    quantum = torch.ones(()) if fixed is None else fixed.unit * 2.0**-fixed.fraction
    ranges = [(torch.tensor(amplitude), low, high, torch.int8 if low < 0 else torch.uint8)]
    ranges += [(quantum, -STATE_LIMIT, STATE_LIMIT, torch.int32)] * (len(spec.outputs) - 1)
    values = []
    for index, (unit, least, most, kind) in enumerate(ranges):
        node = rewriter.emitter.call(operator.getitem, result, index) if fixed is not None else result
        bottom, top = (torch.tensor(float(end), dtype=torch.float64).expand(shape) for end in (least, most))
        values.append(affine_of(Term(node, unit.double().expand(shape), bottom, top, kind), shape))
    return tuple(values)
