"""The operators of language models in standard ONNX operators: what ``models/gpt`` computes in ``exact`` and ``wkv``.

Operation for operation: a sum is exact, and everything else is rounded number by number in the model's order.
"""

from __future__ import annotations

import numpy as np

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.exponentials import LEAST_EXPONENT, LN2_PARTS, LOG2E, MOST_EXPONENT, MOST_KEY, SERIES

__all__ = ["average_lines", "language_text", "rounded_lines"]

#: Of the body of a Scan over tokens.
_TAKEN, _GIVEN = ("a_t", "b_t", "ev_t", "e_t"), ("a_next", "b_next", "a_seen", "b_seen")


def _constant(name: str, value: float) -> str:
    """A float32 number, written so that reading it gives the same."""
    return f"{name} = Constant <value_float: float = {float(np.float32(value))!r}> ()"


def _powers() -> str:
    """2^(place - 127), as float32; no exponential needs the first place."""
    return ", ".join(["0.0", *(repr(2.0**power) for power in range(-126, 128))])


def _exponential_lines(source: str, into: str) -> list[str]:
    """From numbers within the bounds to their exponentials: ``models.exact.raised``."""
    lines = [
        _constant("log2e", LOG2E),
        f"{into}_s = Mul ({source}, log2e)",
        f"{into}_n = Round ({into}_s)",
        *(_constant(f"ln2_{i}", part) for i, part in enumerate(LN2_PARTS)),
        f"{into}_l0 = Mul ({into}_n, ln2_0)",
        f"{into}_r0 = Sub ({source}, {into}_l0)",
        f"{into}_l1 = Mul ({into}_n, ln2_1)",
        f"{into}_r = Sub ({into}_r0, {into}_l1)",
        *(_constant(f"term_{i}", term) for i, term in enumerate(SERIES)),
    ]
    so_far = "term_0"
    for i in range(1, len(SERIES)):
        lines += [f"{into}_m{i} = Mul ({so_far}, {into}_r)", f"{into}_p{i} = Add ({into}_m{i}, term_{i})"]
        so_far = f"{into}_p{i}"
    return [
        *lines,
        f"{into}_q0 = Mul ({so_far}, {into}_r)",
        f"{into}_q1 = Mul ({into}_q0, {into}_r)",
        f"{into}_q2 = Add ({into}_q1, {into}_r)",
        _constant("unity", 1.0),
        f"{into}_q3 = Add ({into}_q2, unity)",
        f"powers = Constant <value: tensor = float[255] {{{_powers()}}}> ()",
        _constant("bias_of", 127.0),
        f"{into}_places_f = Add ({into}_n, bias_of)",
        f"{into}_places = Cast <to: int = 7> ({into}_places_f)",
        f"{into}_power = Gather <axis: int = 0> (powers, {into}_places)",
        f"{into} = Mul ({into}_q3, {into}_power)",
    ]


def _sigmoid() -> list[str]:
    return [
        "opposite = Neg (x)",
        _constant("least", LEAST_EXPONENT),
        _constant("most", MOST_EXPONENT),
        "bounded = Clip (opposite, least, most)",
        *_exponential_lines("bounded", "raised"),
        "below = Add (raised, unity)",
        "y_d = Div (unity, below)",
        # onnxruntime would make one division of this and a product behind it.
        "last = Constant <value_ints: ints = [-1]> ()",
        "y_u = Unsqueeze (y_d, last)",
        "y = Squeeze (y_u, last)",
    ]


def _norm() -> list[str]:
    return [
        "wide = Cast <to: int = 11> (x)",
        "last = Constant <value_ints: ints = [-1]> ()",
        "width = Shape <start: int = -1> (x)",
        "count = Cast <to: int = 11> (width)",
        "total = ReduceSum <keepdims: int = 1> (wide, last)",
        "mean = Div (total, count)",
        "squares = Mul (wide, wide)",
        "total_square = ReduceSum <keepdims: int = 1> (squares, last)",
        "mean_square = Div (total_square, count)",
        "square_mean = Mul (mean, mean)",
        "spread = Sub (mean_square, square_mean)",
        "zero = Constant <value: tensor = double {0.0}> ()",
        "variance = Max (spread, zero)",
        "epsilon_f = Constant <value_float: float = @epsilon> ()",
        "epsilon_d = Cast <to: int = 11> (epsilon_f)",
        "shifted = Add (variance, epsilon_d)",
        "deviation = Sqrt (shifted)",
        "one = Constant <value: tensor = double {1.0}> ()",
        "inverse = Div (one, deviation)",
        "mean_f = Cast <to: int = 1> (mean)",
        "inverse_f = Cast <to: int = 1> (inverse)",
        "centred = Sub (x, mean_f)",
        "normed = Mul (centred, inverse_f)",
        "weighted = Mul (normed, weight)",
        "y = Add (weighted, bias)",
    ]


#: From the sums before each token, ``a`` and ``b``, to the averages.
_AVERAGE = [
    "now = Mul (bonus, e)",
    "total = Add (b, now)",
    "now_value = Mul (now, value)",
    "above = Add (now_value, a)",
    "average = Div (above, total)",
]


def _weights() -> list[str]:
    return [
        _constant("least", -MOST_KEY),
        _constant("most", MOST_KEY),
        "bounded = Clip (key, least, most)",
        *_exponential_lines("bounded", "e"),
        "e_value = Mul (e, value)",
    ]


def _average_step() -> list[str]:
    return [
        *_weights(),
        "a = Identity (numerator)",
        "b = Identity (denominator)",
        *_AVERAGE,
        "a_decayed = Mul (a, decay)",
        "numerator_after = Add (e_value, a_decayed)",
        "b_decayed = Mul (b, decay)",
        "denominator_after = Add (e, b_decayed)",
    ]


def _average() -> list[str]:
    step = [
        "a_decayed = Mul (a_t, decay_f)",
        "a_next = Add (ev_t, a_decayed)",
        "b_decayed = Mul (b_t, decay_f)",
        "b_next = Add (e_t, b_decayed)",
    ]
    return average_lines("float", _weights(), step, _AVERAGE)


def average_lines(element: str, weights: list[str], step: list[str], average: list[str]) -> list[str]:
    """Return the body of an average over the tokens of a text: a Scan gives the sums before each of them.

    The Scan works on vectors: its body needs known ranks on onnxruntime up to 1.23.

    Args:
        element: type of the sums.
        weights: lines that give ``e`` and ``e_value``.
        step: lines that give ``a_next`` and ``b_next`` of ``a_t``, ``b_t``, ``ev_t``, ``e_t`` and ``decay_f``.
        average: lines that give ``average`` of the sums ``a`` and ``b``.
    """
    values, sums = (", ".join(f"{element}[?] {name}" for name in names) for names in (_TAKEN, _GIVEN))
    body = [*step, "a_seen = Identity (a_t)", "b_seen = Identity (b_t)"]
    scan = (
        "a_last, b_last, a_flat, b_flat = Scan <num_scan_inputs: int = 2, body: graph = step"
        f" ({values}) => ({sums}) {{\n    " + "\n    ".join(body) + "\n  }> (a_first, b_first, e_value_f, e_f)"
    )
    return [
        *weights,
        "shape = Shape <start: int = 0> (key)",
        "step_shape = Shape <start: int = 1> (key)",
        "state_shape = Shape <start: int = 0> (numerator)",
        "flat = Constant <value_ints: ints = [-1]> ()",
        "e_f = Flatten <axis: int = 1> (e)",
        "e_value_f = Flatten <axis: int = 1> (e_value)",
        "decay_e = Expand (decay, step_shape)",
        "decay_f = Reshape (decay_e, flat)",
        "a_first = Reshape (numerator, flat)",
        "b_first = Reshape (denominator, flat)",
        scan,
        "a = Reshape <allowzero: int = 1> (a_flat, shape)",
        "b = Reshape <allowzero: int = 1> (b_flat, shape)",
        *average,
        "numerator_after = Reshape <allowzero: int = 1> (a_last, state_shape)",
        "denominator_after = Reshape <allowzero: int = 1> (b_last, state_shape)",
    ]


def rounded_lines() -> list[str]:
    """From any ``x`` to whole numbers on its grid, in float64."""
    return [
        "inverse = Constant <value_float: float = @inverse_grid> ()",
        "most = Constant <value_float: float = @most> ()",
        "least = Neg (most)",
        "x_s = Mul (x, inverse)",
        "x_r = Round (x_s)",
        "x_c = Clip (x_r, least, most)",
        "x_d = Cast <to: int = 11> (x_c)",
    ]


def _float_linear() -> list[str]:
    return [
        *rounded_lines(),
        "weight_d = Cast <to: int = 11> (weight)",
        "sums = MatMul (x_d, weight_d)",
        "sums_f = Cast <to: int = 1> (sums)",
        "grid = Constant <value_float: float = @grid> ()",
        "y = Mul (sums_f, grid)",
    ]


_AVERAGE_INPUTS = "key, value, decay, bonus, numerator, denominator"
_AVERAGE_OUTPUTS = "average, numerator_after, denominator_after"
_TEXTS = {
    "ExactSigmoid": ("", "x", "y", _sigmoid),
    "TokenNorm": ("<epsilon>", "x, weight, bias", "y", _norm),
    "WeightedAverage": ("", _AVERAGE_INPUTS, _AVERAGE_OUTPUTS, _average),
    "StepWeightedAverage": ("", _AVERAGE_INPUTS, _AVERAGE_OUTPUTS, _average_step),
    "FloatLinearRounded": ("<grid, inverse_grid, most>", "x, weight", "y", _float_linear),
}


def language_text(operator: str) -> str:
    """Return the text of an operator's ONNX function.

    Raises:
        ConfigError: there is no such operator.
    """
    if operator not in _TEXTS:
        raise ConfigError(f"{operator!r} is not an operator of language models.")
    attributes, inputs, outputs, lines = _TEXTS[operator]
    return f"{operator} {attributes} ({inputs}) => ({outputs}) " + "{\n  " + "\n  ".join(lines()) + "\n}"
