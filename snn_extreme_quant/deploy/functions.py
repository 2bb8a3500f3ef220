"""The operators of domain ``snn.extreme_quant`` as ONNX functions: bodies of standard operators.

The exported file carries the bodies of the operators it uses, so a runtime without our library runs them; one with
our library may run a kernel in place of a body. All bodies are of opset 18 and run on onnxruntime 1.17 and later.

Each body's text is generated from the same :class:`~snn_extreme_quant.neurons.NeuronSpec` that the step functions
carry out, operation for operation.
"""

from __future__ import annotations

from functools import cache

from onnx import FunctionProto, parser

from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OPSET", "function_body", "layer_operator", "neuron_operator", "neuron_spec"]

DOMAIN = "snn.extreme_quant"
DOMAIN_VERSION = 1
OPSET = 18

_POTENTIAL = "_potential"
_VECTOR = "_vector"
_STEP = "Step"
_KINDS = {"binary8": "Binary", "ternary4": "Ternary"}


def layer_operator(kind: str, layout: str, integer_input: bool = False) -> str:
    """Name a packed layer's operator: ``kind`` is ``"Linear"`` or ``"Conv"``.

    Example:
        >>> layer_operator("Linear", "ternary4", integer_input=True)
        'TernaryLinearInteger'
    """
    return f"{_KINDS[layout]}{kind}" + ("Integer" if integer_input else "")


def neuron_operator(spec: NeuronSpec, *, vector: bool, potential: bool, step: bool = False) -> str:
    """Name a neuron's operator.

    Args:
        spec: which neuron.
        vector: a parameter is not a scalar (the body then broadcasts all of them to one step's shape).
        potential: the membrane potentials are an output too (always, for a single step).
        step: one time step with explicit state instead of a sequence.

    Example:
        >>> spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
        >>> neuron_operator(spec, vector=False, potential=True)
        'LIF_integrate_ge_subtract_same_step_potential'
    """
    name = spec.operator + (_VECTOR if vector else "")
    return _STEP + name if step else name + (_POTENTIAL if potential else "")


@cache
def function_body(operator: str) -> FunctionProto:
    """Return the function that defines ``operator`` in standard operators.

    Raises:
        ConfigError: there is no such operator.
    """
    if operator.startswith(("Binary", "Ternary")):
        return _parse(_layer_text(operator))
    spec = neuron_spec(operator)
    if operator.startswith(_STEP):
        return _parse(_step_text(operator, spec))
    potential = operator.endswith(_POTENTIAL)
    vector = operator.removesuffix(_POTENTIAL).endswith(_VECTOR)
    return _parse(_sequence_text(operator, spec, vector, potential))


def neuron_spec(operator: str) -> NeuronSpec:
    """Return the spec of a neuron's operator; the inverse of :func:`neuron_operator`."""
    return NeuronSpec.from_operator(operator.removeprefix(_STEP).removesuffix(_POTENTIAL).removesuffix(_VECTOR))


def _parse(text: str) -> FunctionProto:
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{text}')


# Neurons -----------------------------------------------------------------------------------------------------------

_CHARGE = {
    "leak": ["c0 = Mul (decay, {v})", "c = Add (c0, x)"],
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
}
_COMPARE = {"gt": "Greater", "ge": "GreaterOrEqual"}


def _step_lines(spec: NeuronSpec) -> list[str]:
    """One time step: from ``x`` and ``v`` to ``s_out`` and ``v_out``, in the order of ``neuron_step``."""
    compare = _COMPARE[spec.comparison]

    def fire(of: str, into: str) -> list[str]:
        return [f"{into}_b = {compare} ({of}, threshold)", f"{into} = Cast <to = 1> ({into}_b)"]

    charge = [line.format(v="v") for line in _CHARGE[spec.charge]]
    one = "one = Constant <value_float: float = 1.0> ()"
    if spec.timing == "same_step":
        lines = [*charge, *fire("c", "s")]
        lines += {
            "subtract": ["w0 = Mul (s, threshold)", "v_out = Sub (c, w0)"],
            "value": [one, "w0 = Mul (s, v_reset)", "w1 = Sub (one, s)", "w2 = Mul (w1, c)", "v_out = Add (w0, w2)"],
            "zero": [one, "w1 = Sub (one, s)", "v_out = Mul (w1, c)"],
            "none": ["v_out = Identity (c)"],
        }[spec.reset]
    else:
        lines = fire("v", "r") if spec.reset != "none" else []
        lines += {
            "subtract": [*charge, "w0 = Mul (r, threshold)", "h = Sub (c, w0)"],
            "zero": [
                one,
                "w0 = Sub (one, r)",
                "u = Mul (w0, v)",
                *(t.format(v="u") for t in _CHARGE[spec.charge]),
                "h = Identity (c)",
            ],
            "cancel": [*charge, "w0 = Mul (r, c)", "h = Sub (c, w0)"],
            "none": [*charge, "h = Identity (c)"],
        }[spec.reset]
        lines += fire("h", "s")
        if spec.timing == "compensated" and spec.reset != "none":
            lines += [
                "d = Sub (s, r)",
                f"w1 = Mul (d, {'threshold' if spec.reset == 'subtract' else 'h'})",
                "v_out = Sub (h, w1)",
            ]
        else:
            lines.append("v_out = Identity (h)")
    lines.append("s_out = Mul (s, amplitude)" if spec.graded else "s_out = Identity (s)")
    return lines


def _signature(operator: str, spec: NeuronSpec, potential: bool, vector: bool = False) -> str:
    prefix = "p_" if vector else ""
    inputs = ", ".join(("xs", "v0", *(prefix + name for name in spec.parameter_names)))
    return f"{operator} ({inputs}) => ({'spikes, potentials' if potential else 'spikes'})"


def _sequence_text(operator: str, spec: NeuronSpec, vector: bool, potential: bool) -> str:
    """All steps: a Scan over rank-1 slices (its body needs known ranks on onnxruntime up to 1.23)."""
    lines = [
        "shape = Shape <start: int = 0> (xs)",
        "length = Shape <start: int = 0, end: int = 1> (xs)",
        "step_shape = Shape <start: int = 1> (xs)",
        "size = ReduceProd <keepdims: int = 1> (step_shape)",
        "flat = Concat <axis: int = 0> (length, size)",
        "xf = Reshape <allowzero: int = 1> (xs, flat)",
        "v0e = Expand (v0, step_shape)",
        "v0f = Reshape <allowzero: int = 1> (v0e, size)",
    ]
    if vector:
        for name in spec.parameter_names:
            lines.append(f"{name}_e = Expand (p_{name}, step_shape)")
            lines.append(f"{name} = Reshape <allowzero: int = 1> ({name}_e, size)")
    results = "float[?] v_out, float[?] s_out" + (", float[?] p_out" if potential else "")
    body = [*_step_lines(spec), *(["p_out = Identity (v_out)"] if potential else [])]
    scan = "v_last, s_flat" + (", p_flat" if potential else "")
    lines.append(
        f"{scan} = Scan <num_scan_inputs: int = 1, body: graph = step (float[?] v, float[?] x) => ({results}) {{\n    "
        + "\n    ".join(body)
        + "\n  }> (v0f, xf)"
    )
    lines.append("spikes = Reshape <allowzero: int = 1> (s_flat, shape)")
    if potential:
        lines.append("potentials = Reshape <allowzero: int = 1> (p_flat, shape)")
    return _signature(operator, spec, potential, vector) + " {\n  " + "\n  ".join(lines) + "\n}"


def _step_text(operator: str, spec: NeuronSpec) -> str:
    """One step with explicit state; parameters broadcast by themselves."""
    lines = ["x = Identity (xs)", "step_shape = Shape <start: int = 0> (xs)", "v = Expand (v0, step_shape)"]
    lines += [*_step_lines(spec), "spikes = Identity (s_out)", "potentials = Identity (v_out)"]
    return _signature(operator, spec, potential=True) + " {\n  " + "\n  ".join(lines) + "\n}"


# Packed layers -----------------------------------------------------------------------------------------------------


def _unpack_lines(layout_name: str) -> list[str]:
    """From ``packed`` ``(K, bytes)`` to ``codes`` int8 ``(K, N)``, by a table of all byte values.

    Only constants go in, so a runtime does this once when it loads the file. The table is computed in int32 because
    onnxruntime before 1.21 lacks int8 arithmetic.
    """
    layout = LAYOUTS[layout_name]
    places = ", ".join(str(layout.base**i) for i in range(layout.per_byte))
    return [
        "first = Constant <value: tensor = int32 {0}> ()",
        "last = Constant <value: tensor = int32 {256}> ()",
        "unit = Constant <value: tensor = int32 {1}> ()",
        f"base = Constant <value: tensor = int32 {{{layout.base}}}> ()",
        f"step = Constant <value: tensor = int32 {{{layout.step}}}> ()",
        f"places = Constant <value: tensor = int32[{layout.per_byte}] {{{places}}}> ()",
        "behind = Constant <value_ints: ints = [1]> ()",
        "bytes = Range (first, last, unit)",
        "column = Unsqueeze (bytes, behind)",
        "quotient = Div (column, places)",
        "digit = Mod (quotient, base)",
        "scaled = Mul (digit, step)",
        "shifted = Sub (scaled, unit)",
        "table = Cast <to: int = 3> (shifted)",
        "index = Cast <to: int = 6> (packed)",
        "groups = Gather <axis: int = 0> (table, index)",
        "rows_columns = Constant <value_ints: ints = [0, -1]> ()",
        "padded = Reshape (groups, rows_columns)",
        "zero = Constant <value_ints: ints = [0]> ()",
        "count = Shape (scale)",
        "codes = Slice (padded, zero, count, behind)",
    ]


def _layer_text(operator: str) -> str:
    layout = "binary8" if operator.startswith("Binary") else "ternary4"
    lines = _unpack_lines(layout)
    if "Conv" in operator:
        # The scale comes after an Unsqueeze: onnxruntime would fold a Mul that follows a Conv into its weights, and
        # rounding every term is what this package exists to avoid.
        geometry = "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group"
        lines += [
            "weight_f = Cast <to: int = 1> (codes)",
            "weight_t = Transpose <perm: ints = [1, 0]> (weight_f)",
            "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
            "weight = Reshape (weight_t, weight_shape)",
            f"sums = Conv <{geometry}> (x, weight)",
            "scale_shape = Constant <value_ints: ints = @scale_shape> ()",
            "scale_s = Reshape (scale, scale_shape)",
            "last_axis = Constant <value_ints: ints = [-1]> ()",
            "sums_u = Unsqueeze (sums, last_axis)",
            "y_u = Mul (sums_u, scale_s)",
            "y = Squeeze (y_u, last_axis)",
        ]
        return (
            f"{operator} <weight_shape, scale_shape, strides, pads, dilations, group> (x, packed, scale) => (y) "
            "{\n  " + "\n  ".join(lines) + "\n}"
        )
    if operator.endswith("Integer"):
        # x holds multiples of `grid` up to 255 * grid: an integer product, exact on every processor.
        lines += [
            "grid = Constant <value_float: float = @grid> ()",
            "inverse = Constant <value_float: float = @inverse_grid> ()",
            "x_i = Mul (x, inverse)",
            "x_u = Cast <to: int = 2> (x_i)",
            "sums_i = MatMulInteger (x_u, codes)",
            "sums_f = Cast <to: int = 1> (sums_i)",
            "sums = Mul (sums_f, grid)",
            "y = Mul (sums, scale)",
        ]
        return f"{operator} <grid, inverse_grid> (x, packed, scale) => (y) " + "{\n  " + "\n  ".join(lines) + "\n}"
    lines += [
        "weight = Cast <to: int = 1> (codes)",
        "sums = MatMul (x, weight)",
        "last_axis = Constant <value_ints: ints = [-1]> ()",
        "scale_s = Unsqueeze (scale, last_axis)",
        "sums_u = Unsqueeze (sums, last_axis)",
        "y_u = Mul (sums_u, scale_s)",
        "y = Squeeze (y_u, last_axis)",
    ]
    return f"{operator} (x, packed, scale) => (y) " + "{\n  " + "\n  ".join(lines) + "\n}"
