"""Neurons in standard ONNX operators.

Each body's text is generated from the same :class:`~snn_extreme_quant.neurons.NeuronSpec` that the step functions
carry out, operation for operation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from snn_extreme_quant.deploy.lowering.body_facts import GENERAL, BodyFacts
from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.deploy.lowering.unpacking import unpack_lines
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["NeuronFunction", "neuron_text"]

_NAME = re.compile(
    rf"(?P<step>Step)?(?P<spec>LIF_\w+?)(?:_by_(?P<weight>{'|'.join(k.lower() for k in (*KINDS.values(), 'float'))}))?"
    r"(?P<biased>_biased)?(?P<vector>_vector)?(?P<states>_states)?"
)
_LAYOUTS = {kind.lower(): layout for layout, kind in KINDS.items()} | {"float": "float"}


@dataclass(frozen=True)
class NeuronFunction:
    """One operator for a layer of neurons.

    Args:
        spec: which neuron.
        step: one time step with explicit state instead of a sequence.
        vector: a parameter is not a scalar (a sequence's body then broadcasts all of them to one step's shape).
        states: the states are outputs too (always, for a single step).
        layout: packing layout of the recurrent layer's weight, ``"float"`` if it is not quantised, "" without one.
        biased: the recurrent layer has a bias.
    """

    spec: NeuronSpec
    step: bool = False
    vector: bool = False
    states: bool = False
    layout: str = ""
    biased: bool = False

    @property
    def name(self) -> str:
        """The operator's name; :meth:`from_name` is the inverse.

        Example:
            >>> spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
            >>> NeuronFunction(spec, states=True).name
            'LIF_integrate_ge_subtract_same_step_states'
        """
        name = ("Step" if self.step else "") + self.spec.operator
        if self.layout:
            name += "_by_" + next(kind for kind, layout in _LAYOUTS.items() if layout == self.layout)
        name += "_biased" if self.biased else ""
        name += "_vector" if self.vector else ""
        return name + ("_states" if self.states and not self.step else "")

    @classmethod
    def from_name(cls, name: str) -> NeuronFunction:
        """Return the operator of this name; raises :class:`ConfigError` if there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"{name!r} is not the operator of a neuron.")
        flags = {key: match[key] is not None for key in ("step", "biased", "vector", "states")}
        spec = NeuronSpec.from_operator(match["spec"])
        return cls(spec, layout=_LAYOUTS.get(match["weight"] or "", ""), **flags)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the recurrent layer's inputs."""
        if not self.layout:
            return ()
        names = ("weight_in",) if self.layout == "float" else ("packed", "scale")
        return (*names, "bias") if self.biased else names

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs: the current, the states before, the parameters, the recurrent layer's weights."""
        prefix = "p_" if self.flattened and self.vector else ""
        states = (f"{name}0" for name in self.spec.states)
        return ("xs", *states, *(prefix + name for name in self.spec.parameter_names), *self.weights)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs: the spikes and, if asked for, the states."""
        states = tuple(f"{name}s" for name in self.spec.outputs[1:])
        return ("spikes", *states) if self.states or self.step else ("spikes",)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes: the geometry of a recurrent convolution."""
        return ("weight_shape", "channel_shape", "pads") if self.spec.feedback == "conv" else ()

    @property
    def flattened(self) -> bool:
        """Whether the body works on vectors (a recurrent layer needs the axes as they are)."""
        return not self.step and not self.layout


_CHARGE = {
    "leak": ["c0 = Mul (decay, {v})", "c{a} = Add (c0, x)"],
    "lapicque": [
        "c0 = Mul (x, resistance)",
        "c1 = Mul (c0, inverse_rc)",
        "c2 = Mul (c1, time_step)",
        "c3 = Mul (decay, {v})",
        "c = Add (c2, c3)",
    ],
    "integrate": ["c = Add ({v}, x)"],
    "relax_input": ["c0 = Sub ({v}, rest)", "c1 = Sub (x, c0)", "c2 = Div (c1, tau)", "c = Add ({v}, c2)"],
    "relax": ["c0 = Sub ({v}, rest)", "c1 = Div (c0, tau)", "c2 = Sub ({v}, c1)", "c = Add (c2, x)"],
    "rate_input": ["c0 = Sub ({v}, rest)", "c1 = Sub (x, c0)", "c2 = Mul (c1, rate)", "c = Add ({v}, c2)"],
    "rate": ["c0 = Sub ({v}, rest)", "c1 = Mul (c0, rate)", "c2 = Sub ({v}, c1)", "c = Add (c2, x)"],
    "synaptic": [
        "i1 = Mul (current_decay, i)",
        "i{a} = Add (i1, x)",
        "c0 = Mul (decay, {v})",
        "c = Add (c0, i_out)",
    ],
    "alpha": [
        "e0 = Mul (excitation_decay, i_exc)",
        "e1 = Add (e0, x)",
        "f0 = Mul (inhibition_decay, i_inh)",
        "f1 = Sub (f0, x)",
        "g0 = Add (e1, f1)",
        "c = Mul (gain, g0)",
    ],
}
#: Where the spikes fed back are added: after the input current, as the frameworks do.
_FED = {"leak": "c = Add (c_x, fed)", "synaptic": "i_out = Add (i_x, fed)"}
_UNFED = {"leak": "", "synaptic": "_out"}
_COMPARE = {"gt": "Greater", "ge": "GreaterOrEqual"}
_ONE = "one = Constant <value_float: float = 1.0> ()"


def _charge_lines(spec: NeuronSpec, v: str) -> list[str]:
    fed = spec.feedback != "none"
    lines = [line.format(v=v, a="_x" if fed else _UNFED.get(spec.charge, "")) for line in _CHARGE[spec.charge]]
    if fed:
        lines.insert(2, _FED[spec.charge])
    return lines


def _reached(spec: NeuronSpec, of: str, into: str) -> list[str]:
    return [f"{into}_b = {_COMPARE[spec.comparison]} ({of}, threshold)", f"{into} = Cast <to: int = 1> ({into}_b)"]


def _fire_lines(spec: NeuronSpec) -> list[str]:
    """From the potential ``c`` to the output ``s`` and ``fired``."""
    match spec.fire:
        case "spike":
            return [*_reached(spec, "c", "s"), "fired = Identity (s)"]
        case "ternary":
            up, down = _reached(spec, "c", "up"), _reached(spec, "n", "down")
            return [*up, "n = Neg (c)", *down, "s = Sub (up, down)", "fired = Add (up, down)"]
        case "count":
            bounds = ["nought = Constant <value_float: float = 0.0> ()", "q0 = Div (c, threshold)"]
            return [*bounds, "q1 = Max (q0, nought)", "q2 = Min (q1, levels)", "s = Round (q2)", "fired = Identity (s)"]
        case "change":
            return ["d0 = Sub (c, v)", "d1 = Abs (d0)", *_reached(spec, "d1", "s"), "fired = Identity (s)"]


def _same_step_lines(spec: NeuronSpec) -> list[str]:
    resets = {
        "subtract": ["w0 = Mul (s, threshold)", "v_out = Sub (c, w0)"],
        "value": [
            _ONE,
            "w0 = Mul (fired, v_reset)",
            "w1 = Sub (one, fired)",
            "w2 = Mul (w1, c)",
            "v_out = Add (w0, w2)",
        ],
        "zero": [_ONE, "w1 = Sub (one, fired)", "v_out = Mul (w1, c)"],
        "none": ["v_out = Identity (c)"],
    }
    return [*_charge_lines(spec, "v"), *_fire_lines(spec), *resets[spec.reset]]


def _alpha_lines(spec: NeuronSpec) -> list[str]:
    """The resets of a neuron whose currents are reset too."""
    charge = _charge_lines(spec, "v")
    if spec.reset == "none":
        return [*charge, "h = Identity (c)", "i_exc_out = Identity (e1)", "i_inh_out = Identity (f1)"]
    lines = [*charge, "f2 = Mul (f1, r)", "i_inh_out = Sub (f1, f2)"]
    if spec.reset == "cancel":
        return [*lines, "e2 = Mul (e1, r)", "i_exc_out = Sub (e1, e2)", "w0 = Mul (c, r)", "h = Sub (c, w0)"]
    lines += ["e2 = Mul (threshold, r)", "i_exc_out = Sub (e1, e2)"]
    return [*lines, "w0 = Neg (i_inh)", "w1 = Mul (w0, r)", "h = Sub (c, w1)"]


def _delayed_lines(spec: NeuronSpec) -> list[str]:
    lines = _reached(spec, "v", "r")
    if spec.charge == "alpha":
        lines += _alpha_lines(spec)
    else:
        charge = _charge_lines(spec, "v")
        lines += {
            "subtract": [*charge, "w0 = Mul (r, threshold)", "h = Sub (c, w0)"],
            "zero": [_ONE, "w0 = Sub (one, r)", "u = Mul (w0, v)", *_charge_lines(spec, "u"), "h = Identity (c)"],
            "cancel": [*charge, "w0 = Mul (r, c)", "h = Sub (c, w0)"],
            "none": [*charge, "h = Identity (c)"],
        }[spec.reset]
    lines += _reached(spec, "h", "s")
    if spec.timing == "compensated" and spec.reset != "none":
        by = "threshold" if spec.reset == "subtract" else "h"
        return [*lines, "d = Sub (s, r)", f"d1 = Mul (d, {by})", "v_out = Sub (h, d1)"]
    return [*lines, "v_out = Identity (h)"]


def _step_lines(function: NeuronFunction) -> list[str]:
    """One time step: from ``x`` and the states to ``s_out`` and ``<state>_out``, in the order of ``neuron_step``."""
    spec = function.spec
    lines = _same_step_lines(spec) if spec.timing == "same_step" else _delayed_lines(spec)
    if spec.feedback == "elementwise":
        lines = ["fed = Mul (s, feedback)", *_renamed_spikes(lines)]
    elif spec.feedback != "none":
        lines = [*_recurrent_lines(function), *_renamed_spikes(lines)]
    fired = "s" if spec.feedback == "none" else "s_new"
    lines.append(f"s_out = Mul ({fired}, amplitude)" if spec.graded else f"s_out = Identity ({fired})")
    return lines


def _renamed_spikes(lines: list[str]) -> list[str]:
    """Where the last spikes are the state ``s``, the new ones are ``s_new``."""
    return [re.sub(r"\bs\b", "s_new", line) for line in lines]


def _recurrent_lines(function: NeuronFunction) -> list[str]:
    """The current from the last spikes. The scale is kept apart from the product: see ``layer_functions``."""
    if function.spec.feedback == "linear":
        lines = ["f_0 = MatMul (s, weight)"]
    else:
        lines = ["f_0 = Conv <pads: ints = @pads> (s, weight)"]
    if function.layout == "float":
        lines.append("f_3 = Identity (f_0)")
    else:
        lines += ["f_1 = Unsqueeze (f_0, last_axis)", "f_2 = Mul (f_1, scale_s)", "f_3 = Squeeze (f_2, last_axis)"]
    return [*lines, "fed = Add (f_3, bias_s)" if function.biased else "fed = Identity (f_3)"]


def _weight_lines(function: NeuronFunction) -> list[str]:
    """From the recurrent layer's stored weight to ``weight``, ``scale_s`` and ``bias_s``; done once, not per step."""
    if not function.layout:
        return []
    lines = ["last_axis = Constant <value_ints: ints = [-1]> ()"]
    conv = function.spec.feedback == "conv"
    if function.layout == "float":
        lines.append(
            "weight = Identity (weight_in)" if conv else "weight = Transpose <perm: ints = [1, 0]> (weight_in)"
        )
    else:
        lines += [*unpack_lines(function.layout), "weight_f = Cast <to: int = 1> (codes)"]
        lines += (
            [
                "weight_t = Transpose <perm: ints = [1, 0]> (weight_f)",
                "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
                "weight = Reshape (weight_t, weight_shape)",
            ]
            if conv
            else ["weight = Identity (weight_f)"]
        )
    if conv:
        lines.append("channel_shape = Constant <value_ints: ints = @channel_shape> ()")
    for name, into in (("scale", "scale_s"), ("bias", "bias_s")):
        if name not in function.weights:
            continue
        shaped = f"{name}_c = Reshape ({name}, channel_shape)" if conv else f"{name}_c = Identity ({name})"
        spread = f"{into} = Unsqueeze ({name}_c, last_axis)" if name == "scale" else f"{into} = Identity ({name}_c)"
        lines += [shaped, spread]
    return lines


def neuron_text(function: NeuronFunction, facts: BodyFacts = GENERAL) -> str:
    """Return the text of the ONNX function in a file of which ``facts`` hold."""
    body = _step_body(function) if function.step else _sequence_body(function, facts)
    attributes = f" <{', '.join(function.attributes)}>" if function.attributes else ""
    head = f"{function.name}{attributes} ({', '.join(function.inputs)}) => ({', '.join(function.outputs)})"
    return head + " {\n  " + "\n  ".join(body) + "\n}"


def _relaxing(lines: list[str], facts: BodyFacts) -> list[str]:
    """The lines of one step without what facts make of no effect."""
    if facts.rests_at_zero:
        away = "c0 = Sub (v, rest)"
        lines = [re.sub(r"\bc0\b", "v", line) if away in lines else line for line in lines if line != away]
    if facts.halves:
        lines = [re.sub(r"Div \((\w+), tau\)", r"Mul (\1, inverse_tau)", line) for line in lines]
    return lines


def _start_lines(function: NeuronFunction, facts: BodyFacts) -> list[str]:
    """The sequence ``xf`` as the loop takes it, and the states ``<state>0f`` that it begins with."""
    spec = function.spec
    lines = ["shape = Shape <start: int = 0> (xs)"]
    if facts.scalar_states:
        lines += ["xf = Flatten <axis: int = 1> (xs)", "size = Shape <start: int = 1> (xf)"]
        return lines + [f"{name}0f = Expand ({name}0, size)" for name in spec.states]
    lines.append("step_shape = Shape <start: int = 1> (xs)")
    # The shape of one step inside the Scan; a convolution keeps its axes.
    inner = {"linear": "matrix", "conv": "step_shape"}.get(spec.feedback if function.layout else "", "size")
    if inner == "size":
        lines += ["size = Constant <value_ints: ints = [-1]> ()", "xf = Flatten <axis: int = 1> (xs)"]
    elif inner == "matrix":
        lines += [
            "length = Shape <start: int = 0, end: int = 1> (xs)",
            "width = Shape <start: int = -1> (xs)",
            "rest = Constant <value_ints: ints = [-1]> ()",
            "matrix = Concat <axis: int = 0> (rest, width)",
            "whole = Concat <axis: int = 0> (length, matrix)",
            "xf = Reshape (xs, whole)",
        ]
    else:
        lines.append("xf = Identity (xs)")
    for name in spec.states:
        lines += [f"{name}0e = Expand ({name}0, step_shape)", f"{name}0f = Reshape ({name}0e, {inner})"]
    return lines


def _sequence_body(function: NeuronFunction, facts: BodyFacts) -> list[str]:
    """All steps: a Scan over slices of known rank (its body needs known ranks on onnxruntime up to 1.23)."""
    spec = function.spec
    lines = _start_lines(function, facts)
    if facts.halves:
        lines += ["unity = Constant <value_float: float = 1.0> ()", "inverse_tau = Div (unity, tau)"]
    if function.flattened and function.vector:
        for name in spec.parameter_names:
            lines.append(f"{name}_e = Expand (p_{name}, step_shape)")
            lines.append(f"{name} = Reshape ({name}_e, size)")
    lines += _weight_lines(function)
    kind = "float[?]" if function.flattened else {"linear": "float[?,?]", "conv": "float[?,?,?,?]"}[spec.feedback]
    shown = spec.outputs[1:] if function.states else ()
    after = [f"{name}_out" if name != "s" else "s_next" for name in spec.states]
    body = _relaxing(_step_lines(function), facts)
    if "s" in spec.states:
        body.append("s_next = Identity (s_out)")
    # Spikes leave the loop as they were compared, in bytes. A runtime merges the cast with one to uint8 that follows.
    compared = spec.fire in ("spike", "change") and not spec.graded
    if compared and "s" not in spec.states:
        body.pop()
    body += [f"{name}_seen = Identity ({name}_out)" for name in shown]
    results = [f"{kind} {name}" for name in after]
    results.append(f"{kind.replace('float', 'bool')} s_b" if compared else f"{kind} s_out")
    results += [f"{kind} {name}_seen" for name in shown]
    lines.append(
        f"{', '.join(f'{name}_last' for name in spec.states)}, s_flat{''.join(f', {name}_flat' for name in shown)}"
        f" = Scan <num_scan_inputs: int = 1, body: graph = step"
        f" ({', '.join(f'{kind} {name}' for name in (*spec.states, 'x'))})"
        f" => ({', '.join(results)}) {{\n    "
        + "\n    ".join(body)
        + f"\n  }}> ({', '.join(f'{name}0f' for name in spec.states)}, xf)"
    )
    for flat, name in (("s_flat", "spikes_b" if compared else "spikes"), *((f"{n}_flat", f"{n}s") for n in shown)):
        lines.append(f"{name} = Reshape <allowzero: int = 1> ({flat}, shape)")
    if compared:
        lines.append("spikes = Cast <to: int = 1> (spikes_b)")
    return lines


def _step_body(function: NeuronFunction) -> list[str]:
    """One step with explicit state; parameters broadcast by themselves."""
    lines = ["x = Identity (xs)", "step_shape = Shape <start: int = 0> (xs)"]
    lines += [f"{name} = Expand ({name}0, step_shape)" for name in function.spec.states]
    lines += [*_weight_lines(function), *_step_lines(function), "spikes = Identity (s_out)"]
    return [*lines, *(f"{name}s = Identity ({name}_out)" for name in function.spec.outputs[1:])]
