"""Fixed-point neurons in standard ONNX operators: no float among them.

Each body's text is generated from the same :class:`~snn_extreme_quant.neurons.NeuronSpec` that
:mod:`~snn_extreme_quant.neurons.fixed_point_dynamics` carries out. A leak's product has 64 bits. ONNX shifts unsigned
numbers alone, so 2**62 is added before the shift, of which the 32 bits that are kept after it hold nothing: it is a
shift that rounds down. int64 goes no further, because onnxruntime compares only half of its bits in Clip, Min and Max.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from snn_extreme_quant.deploy.integer.functions import WeightBytes, product_lines, weight_bytes
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT, fixed_point_parameters

__all__ = ["IntegerNeuron", "integer_neuron_text"]

_NAME = re.compile(
    rf"(?P<step>Step)?Int(?P<spec>LIF_\w+?)(?:_by_(?P<weight>{'|'.join(k.lower() for k in KINDS.values())}))?"
    r"(?P<states>_states)?"
)
_LAYOUTS = {kind.lower(): layout for layout, kind in KINDS.items()}
#: ONNX's numbers of types.
_INT32, _INT64, _UINT64, _UINT8, _INT8 = 6, 7, 13, 2, 3


@dataclass(frozen=True)
class IntegerNeuron:
    """One operator for a layer of fixed-point neurons.

    Args:
        spec: which neuron; its charge one of fixed point's.
        step: one time step with explicit state instead of a sequence.
        states: the states are outputs too (always, for a single step).
        layout: packing layout of the recurrent layer's codes, "" without one.
    """

    spec: NeuronSpec
    step: bool = False
    states: bool = False
    layout: str = ""

    @property
    def name(self) -> str:
        """The operator's name; :meth:`from_name` is the inverse.

        Example:
            >>> IntegerNeuron(NeuronSpec("leak", "gt", "subtract", "delayed"), step=True).name
            'StepIntLIF_leak_gt_subtract_delayed'
        """
        name = ("StepInt" if self.step else "Int") + self.spec.operator
        name += f"_by_{KINDS[self.layout].lower()}" if self.layout else ""
        return name + ("_states" if self.states and not self.step else "")

    @classmethod
    def from_name(cls, name: str) -> IntegerNeuron:
        """Return the operator of this name; raises :class:`ConfigError` if there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"{name!r} is not the operator of a fixed-point neuron.")
        step = match["step"] is not None
        spec = NeuronSpec.from_operator(match["spec"])
        fixed_point_parameters(spec)
        layout = _LAYOUTS.get(match["weight"] or "", "")
        if (spec.feedback in ("linear", "conv")) != bool(layout):
            raise ConfigError(f"{name!r}: a recurrent layer and its weight's packing go together.")
        return cls(spec, step=step, states=step or match["states"] is not None, layout=layout)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return fixed_point_parameters(self.spec)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs: sums, the states before, the parameters, the recurrent layer's packed codes."""
        states = (f"{name}0" for name in self.spec.states)
        return ("xs", *states, *(f"p_{name}" for name in self.parameters), *(["packed"] if self.layout else []))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs: the spikes and, if asked for, the states."""
        states = tuple(f"{name}s" for name in self.spec.outputs[1:])
        return ("spikes", *states) if self.states or self.step else ("spikes",)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes: ``shift``, and the geometry of a recurrent convolution."""
        return ("shift", "weight_shape", "pads", "columns") if self.spec.feedback == "conv" else ("shift",)


# One time step, in int32 -------------------------------------------------------------------------------------------


def _cast(value: str, kind: int, into: str) -> str:
    return f"{into} = Cast <to: int = {kind}> ({value})"


def _leak(of: str, decay: str, into: str) -> list[str]:
    return [
        _cast(of, _INT64, f"{into}_0"),
        f"{into}_1 = Mul ({into}_0, {decay})",
        f"{into}_2 = Add ({into}_1, leak_offset)",
        _cast(f"{into}_2", _UINT64, f"{into}_3"),
        f'{into}_4 = BitShift <direction: string = "RIGHT"> ({into}_3, leak_bits)',
        _cast(f"{into}_4", _INT32, into),
    ]


def _charge_lines(spec: NeuronSpec, v: str = "v") -> list[str]:
    """From ``current`` and the states to the potential ``c`` and the currents ``i_out``, ``e1``, ``f1``."""
    match spec.charge:
        case "leak":
            return [*_leak(v, "decay", "c_l"), "c = Add (c_l, current)"]
        case "integrate":
            return [f"c = Add ({v}, current)"]
        case "synaptic":
            charged = [*_leak("i", "current_decay", "i_l"), "i_out = Add (i_l, current)"]
            return [*charged, *_leak(v, "decay", "c_l"), "c = Add (c_l, i_out)"]
        case _:
            charged = [*_leak("i_exc", "excitation_decay", "e0"), "e1 = Add (e0, current)"]
            charged += [*_leak("i_inh", "inhibition_decay", "f0"), "f1 = Sub (f0, current)"]
            return [*charged, "g0 = Add (e1, f1)", *_leak("g0", "potential_gain", "c")]


def _reached(spec: NeuronSpec, of: str, into: str) -> str:
    return f"{into} = {'Greater' if spec.comparison == 'gt' else 'GreaterOrEqual'} ({of}, threshold)"


def _fire_lines(spec: NeuronSpec) -> list[str]:
    """From the potential ``c`` to the output ``spike`` and, by a reset that needs it, ``fired`` or ``times``."""
    match spec.fire:
        case "spike":
            return [_reached(spec, "c", "fired"), _cast("fired", _UINT8, "spike")]
        case "ternary":
            lines = [_reached(spec, "c", "up"), "n = Neg (c)", _reached(spec, "n", "down"), "fired = Or (up, down)"]
            lines += [_cast("up", _INT32, "up_i"), _cast("down", _INT32, "down_i"), "times = Sub (up_i, down_i)"]
            return [*lines, _cast("times", _INT8, "spike")]
        case "count":
            lines = ["q0 = Max (c, nought)", "q1 = Div (threshold, two_of)", "q2 = Add (q0, q1)"]
            lines += ["q3 = Div (q2, threshold)", "times = Min (q3, levels)"]
            return [*lines, _cast("times", _UINT8, "spike")]
        case "change":
            return ["d0 = Sub (c, v)", "d1 = Abs (d0)", _reached(spec, "d1", "fired"), _cast("fired", _UINT8, "spike")]


def _same_step_lines(spec: NeuronSpec) -> list[str]:
    taken = "Mul (times, threshold)" if spec.fire in ("ternary", "count") else "Where (fired, threshold, nought)"
    reset = {
        "subtract": [f"w0 = {taken}", "v_out = Sub (c, w0)"],
        "value": ["v_out = Where (fired, v_reset, c)"],
        "zero": ["v_out = Where (fired, nought, c)"],
        "none": ["v_out = Identity (c)"],
    }[spec.reset]
    return [*_charge_lines(spec), *_fire_lines(spec), *reset]


def _alpha_lines(spec: NeuronSpec) -> list[str]:
    """The resets of a neuron whose currents are reset too."""
    charge = _charge_lines(spec)
    if spec.reset == "none":
        return [*charge, "h = Identity (c)", "i_exc_out = Identity (e1)", "i_inh_out = Identity (f1)"]
    lines = [*charge, "i_inh_out = Where (r, nought, f1)"]
    if spec.reset == "cancel":
        return [*lines, "i_exc_out = Where (r, nought, e1)", "h = Where (r, nought, c)"]
    lines += ["e2 = Where (r, threshold, nought)", "i_exc_out = Sub (e1, e2)"]
    return [*lines, "w0 = Where (r, i_inh, nought)", "h = Add (c, w0)"]


def _delayed_lines(spec: NeuronSpec) -> list[str]:
    lines = [_reached(spec, "v", "r")]
    if spec.charge == "alpha":
        lines += _alpha_lines(spec)
    else:
        charge = _charge_lines(spec)
        lines += {
            "subtract": [*charge, "w0 = Where (r, threshold, nought)", "h = Sub (c, w0)"],
            "zero": ["u = Where (r, nought, v)", *_charge_lines(spec, "u"), "h = Identity (c)"],
            "cancel": [*charge, "h = Where (r, nought, c)"],
            "none": [*charge, "h = Identity (c)"],
        }[spec.reset]
    lines += [_reached(spec, "h", "fired"), _cast("fired", _UINT8, "spike")]
    if spec.timing == "compensated" and spec.reset != "none":
        by = "threshold" if spec.reset == "subtract" else "h"
        lines += [f"now = Where (fired, {by}, nought)", f"before = Where (r, {by}, nought)"]
        return [*lines, "h1 = Add (h, before)", "v_out = Sub (h1, now)"]
    return [*lines, "v_out = Identity (h)"]


def _step_lines(neuron: IntegerNeuron, weights: list[WeightBytes]) -> list[str]:
    """From ``x`` and the states to ``spike`` and ``<state>_next``."""
    spec = neuron.spec
    lines = ["x_g = Mul (x, gain)", "x_b = Add (x_g, bias)"]
    if spec.feedback == "none":
        lines.append("current = Identity (x_b)")
    else:
        lines += _fed_lines(spec, weights)
    lines += _same_step_lines(spec) if spec.timing == "same_step" else _delayed_lines(spec)
    for state in spec.states:
        lines.append(
            "s_next = Identity (spike)" if state == "s" else f"{state}_next = Clip ({state}_out, lowest, highest)"
        )
    return lines


def _fed_lines(spec: NeuronSpec, weights: list[WeightBytes]) -> list[str]:
    """The current from the last spikes."""
    if spec.feedback == "elementwise":
        lines = [_cast("s", _INT32, "fed_s")]
    else:
        product = "MatMulInteger" if spec.feedback == "linear" else "ConvInteger"
        geometry = "" if spec.feedback == "linear" else " <pads: ints = @pads>"
        lines = product_lines(product, "s", "no_zero", weights, "fed_s", geometry)
    return [*lines, "fed = Mul (fed_s, feedback)", "current = Add (x_b, fed)"]


# Bodies ------------------------------------------------------------------------------------------------------------


def _constants(neuron: IntegerNeuron) -> list[str]:
    """What no step changes: limits, and the numbers of the leak's shift."""
    lines = [
        "nought = Constant <value: tensor = int32 {0}> ()",
        f"lowest = Constant <value: tensor = int32 {{{-STATE_LIMIT}}}> ()",
        f"highest = Constant <value: tensor = int32 {{{STATE_LIMIT}}}> ()",
    ]
    if neuron.spec.fire == "count":
        lines.append("two_of = Constant <value: tensor = int32 {2}> ()")
    if neuron.spec.charge == "integrate":
        return lines
    return [
        *lines,
        "shift_l = Constant <value_int: int = @shift> ()",
        _cast("shift_l", _UINT64, "leak_bits"),
        "bit = Constant <value: tensor = uint64 {1}> ()",
        'whole_u = BitShift <direction: string = "LEFT"> (bit, leak_bits)',
        _cast("whole_u", _INT64, "whole_l"),
        "two_l = Constant <value: tensor = int64 {2}> ()",
        "half = Div (whole_l, two_l)",
        f"above = Constant <value: tensor = int64 {{{2**62}}}> ()",
        "leak_offset = Add (above, half)",
    ]


def _weight_lines(neuron: IntegerNeuron) -> tuple[list[str], list[WeightBytes]]:
    """From the recurrent layer's packed codes to the bytes of its weight; done once, not each step."""
    if not neuron.layout:
        return [], []
    zero = "no_zero = Constant <value: tensor = uint8 {0}> ()"
    if neuron.spec.feedback == "linear":
        lines, weights = weight_bytes(neuron.layout, signed=True, count="count = Shape <start: int = -1> (xs)")
        return [*lines, zero], weights
    lines, weights = weight_bytes(neuron.layout, signed=False)
    lines += [zero, "weight_shape = Constant <value_ints: ints = @weight_shape> ()"]
    shaped = []
    for weight in weights:
        lines += [
            f"{weight.name}_t = Transpose <perm: ints = [1, 0]> ({weight.name})",
            f"{weight.name}_w = Reshape ({weight.name}_t, weight_shape)",
        ]
        shaped.append(WeightBytes(f"{weight.name}_w", weight.zero, weight.factor))
    return lines, shaped


def integer_neuron_text(neuron: IntegerNeuron) -> str:
    """Return the text of the ONNX function."""
    body = _step_body(neuron) if neuron.step else _sequence_body(neuron)
    head = f"{neuron.name} <{', '.join(neuron.attributes)}> ({', '.join(neuron.inputs)})"
    return f"{head} => ({', '.join(neuron.outputs)}) " + "{\n  " + "\n  ".join(body) + "\n}"


def _wide(name: str, source: str, into: str) -> str:
    """Factors of a leak have 64 bits."""
    leaks = name.endswith("decay") or name == "potential_gain"
    return _cast(source, _INT64, into) if leaks else f"{into} = Identity ({source})"


def _step_body(neuron: IntegerNeuron) -> list[str]:
    """One step with explicit state; parameters broadcast by themselves."""
    lines = ["x = Identity (xs)", "step_shape = Shape (xs)", *_constants(neuron)]
    lines += [f"{name} = Expand ({name}0, step_shape)" for name in neuron.spec.states]
    lines += [_wide(name, f"p_{name}", name) for name in neuron.parameters]
    unpack, weights = _weight_lines(neuron)
    lines += [*unpack, *_step_lines(neuron, weights), "spikes = Identity (spike)"]
    return [*lines, *(f"{name}s = Identity ({name}_next)" for name in neuron.spec.outputs[1:])]


def _sequence_body(neuron: IntegerNeuron) -> list[str]:
    """All steps: a Scan over slices of known rank (its body needs known ranks on onnxruntime up to 1.23)."""
    spec = neuron.spec
    lines = ["shape = Shape (xs)", "step_shape = Shape <start: int = 1> (xs)", *_constants(neuron)]
    lines.append("length = Shape <start: int = 0, end: int = 1> (xs)")
    # One step's shape inside the Scan: a vector, or the axes that a recurrent layer needs.
    lines += {
        "linear": [
            "width = Shape <start: int = -1> (xs)",
            "step_size = ReduceProd <keepdims: int = 1> (step_shape)",
            "one_wide = Constant <value_ints: ints = [1]> ()",
            "divisor = Max (width, one_wide)",
            "rows_of = Div (step_size, divisor)",
            "inner = Concat <axis: int = 0> (rows_of, width)",
        ],
        "conv": ["inner = Identity (step_shape)"],
    }.get(spec.feedback, ["inner = ReduceProd <keepdims: int = 1> (step_shape)"])
    lines += ["whole = Concat <axis: int = 0> (length, inner)", "xf = Reshape <allowzero: int = 1> (xs, whole)"]
    for name, source in (
        *((state, f"{state}0") for state in spec.states),
        *((parameter, f"p_{parameter}") for parameter in neuron.parameters),
    ):
        last = "f" if name in spec.states else ""
        lines += [
            _wide(name, source, f"{source}_w"),
            f"{source}_e = Expand ({source}_w, step_shape)",
            f"{name}{last} = Reshape <allowzero: int = 1> ({source}_e, inner)",
        ]
    unpack, weights = _weight_lines(neuron)
    rank = {"linear": "[?,?]", "conv": "[?,?,?,?]"}.get(spec.feedback, "[?]")
    shown = spec.outputs[1:] if neuron.states else ()
    states = {name: ("uint8" if name == "s" else "int32") + rank for name in spec.states}
    spike = ("int8" if spec.fire == "ternary" else "uint8") + rank
    # An output of a Scan's body may be given only once.
    body = [*_step_lines(neuron, weights), "spike_seen = Identity (spike)"]
    body += [f"{name}_seen = Identity ({name}_next)" for name in shown]
    takes = [*(f"{kind} {name}" for name, kind in states.items()), f"int32{rank} x"]
    gives = [f"{kind} {name}_next" for name, kind in states.items()]
    gives += [f"{spike} spike_seen", *(f"int32{rank} {name}_seen" for name in shown)]
    results = [*(f"{name}_last" for name in states), "spikes_f", *(f"{name}s_f" for name in shown)]
    lines += [
        *unpack,
        f"{', '.join(results)} = Scan <num_scan_inputs: int = 1, body: graph = step ({', '.join(takes)})"
        f" => ({', '.join(gives)}) {{\n    " + "\n    ".join(body) + "\n  }>"
        f" ({', '.join(f'{name}f' for name in states)}, xf)",
    ]
    return lines + [f"{name} = Reshape <allowzero: int = 1> ({name}_f, shape)" for name in neuron.outputs]
