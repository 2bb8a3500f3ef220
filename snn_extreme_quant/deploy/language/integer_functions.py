"""The operators of SpikeGPT's integer files in standard ONNX operators: what ``models/gpt/integer_tokens.py`` computes.

No body holds a float. Limits act in 32 bits, as onnxruntime compares only half of 64 in Clip, Min and Max; numbers are
shifted without a sign, so those that have one are raised before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from snn_extreme_quant.deploy.language.functions import average_lines
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.shift_tables import RESIDUAL_LIMIT, norm_factors, whole_norm_factors
from snn_extreme_quant.exported.token_tables import (
    DECAY_BITS,
    GATE_BITS,
    GATE_OCTAVES,
    KEY_LIMIT,
    KEY_OCTAVES,
    NORM_MANTISSA,
    NORM_PLACES,
    OCTAVE_BITS,
    POWER_BITS,
    RAISED_SHIFT,
    power_table,
)

__all__ = ["language_integer_text"]

_UINT8, _INT8, _INT32, _INT64, _UINT32, _UINT64 = 2, 3, 6, 7, 12, 13
_WIDE = 2**62


def _one(name: str, kind: str, value: int) -> str:
    return f"{name} = Constant <value: tensor = {kind} {{{value}}}> ()"


def _cast(name: str, value: str, kind: int) -> str:
    return f"{name} = Cast <to: int = {kind}> ({value})"


def _list(name: str, values: Iterable[int]) -> str:
    listed = list(values)
    return f"{name} = Constant <value: tensor = int64[{len(listed)}] {{{', '.join(map(str, listed))}}}> ()"


def _norm() -> list[str]:
    _, above, below = norm_factors(NORM_MANTISSA)
    most = int(RESIDUAL_LIMIT)
    return [
        "last = Constant <value_ints: ints = [-1]> ()",
        _one("most_x", "int32", most),
        _one("least_x", "int32", -most),
        "units_i = Clip (x, least_x, most_x)",
        _cast("units", "units_i", _INT64),
        "total = ReduceSum (units, last)",
        "channels = Shape <start: int = -1> (x)",
        # A division of what is not negative rounds down anywhere.
        _one("two", "int64", 2),
        _one("raise_mean", "int64", 2**20),
        "doubled = Mul (total, two)",
        "divisor = Mul (channels, two)",
        "rounded = Add (doubled, channels)",
        "raise_sum = Mul (divisor, raise_mean)",
        "positive = Add (rounded, raise_sum)",
        "mean_r = Div (positive, divisor)",
        "mean = Sub (mean_r, raise_mean)",
        "centred = Sub (units, mean)",
        "square = Mul (centred, centred)",
        "squares = ReduceSum (square, last)",
        _list("above", above),
        _list("below", below),
        "scaled_above = Mul (channels, above)",
        "limits = Div (scaled_above, below)",
        "reached = LessOrEqual (squares, limits)",
        _cast("reached_i", "reached", _INT32),
        "index = ReduceSum (reached_i, last)",
        _list("factors", whole_norm_factors(NORM_MANTISSA)),
        "factor = Gather <axis: int = 0> (factors, index)",
        "normed_p = Mul (centred, factor)",
        _one("raise", "int64", _WIDE),
        _one("raise_half", "int64", _WIDE + (1 << NORM_PLACES >> 1)),
        _one("places", "uint64", NORM_PLACES),
        _one("base_places", "int64", _WIDE >> NORM_PLACES),
        "normed_r = Add (normed_p, raise_half)",
        _cast("normed_u", "normed_r", _UINT64),
        'normed_s = BitShift <direction: string = "RIGHT"> (normed_u, places)',
        _cast("normed_l", "normed_s", _INT64),
        "normed = Sub (normed_l, base_places)",
        "product_w = Mul (normed, gain)",
        "product = Add (product_w, offset)",
        "shift_i = Constant <value_int: int = @shift> ()",
        _cast("shift_u", "shift_i", _UINT64),
        "raised = Add (product, raise)",
        *_LIMITED,
    ]


def _halves() -> list[str]:
    return [
        _one("raise", "int32", 2**15),
        "raised = Add (x, raise)",
        _cast("raised_u", "raised", _UINT32),
        _one("eight", "uint32", 8),
        'high_u = BitShift <direction: string = "RIGHT"> (raised_u, eight)',
        'whole_u = BitShift <direction: string = "LEFT"> (high_u, eight)',
        _cast("whole", "whole_u", _INT32),
        "rest = Sub (raised, whole)",
        _cast("low", "rest", _UINT8),
        _cast("high_i", "high_u", _INT32),
        _one("middle", "int32", 128),
        "high_s = Sub (high_i, middle)",
        _cast("high", "high_s", _INT8),
    ]


def _table() -> str:
    values = ", ".join(map(str, power_table()))
    return f"powers = Constant <value: tensor = int64[{len(power_table())}] {{{values}}}> ()"


def _raised_lines(exponent: str, into: str) -> list[str]:
    """From exponents in 64 bits, from 0, to 2^14 times their powers; ``powers`` and ``steps`` are there."""
    return [
        f"{into}_f = Mod ({exponent}, steps)",
        f"{into}_o = Div ({exponent}, steps)",
        f"{into}_p = Gather <axis: int = 0> (powers, {into}_f)",
        _cast(f"{into}_pu", f"{into}_p", _UINT64),
        _cast(f"{into}_ou", f"{into}_o", _UINT64),
        f'{into}_u = BitShift <direction: string = "LEFT"> ({into}_pu, {into}_ou)',
        _cast(into, f"{into}_u", _INT64),
    ]


#: Half a unit of what is shifted away, and the shift.
_SHIFT = [
    "shift_i = Constant <value_int: int = @shift> ()",
    _cast("shift_u", "shift_i", _UINT64),
    _one("bit", "uint64", 1),
    'unit_u = BitShift <direction: string = "LEFT"> (bit, shift_u)',
    'half_u = BitShift <direction: string = "RIGHT"> (unit_u, bit)',
    _cast("half", "half_u", _INT64),
]
_MOST = ["most_l = Constant <value_int: int = @most> ()", _cast("most", "most_l", _INT32)]
#: From what was raised to the result, shifted and limited.
_LIMITED = [
    _cast("raised_u", "raised", _UINT64),
    'shifted_u = BitShift <direction: string = "RIGHT"> (raised_u, shift_u)',
    _cast("shifted", "shifted_u", _INT64),
    _cast("raise_u", "raise", _UINT64),
    'base_u = BitShift <direction: string = "RIGHT"> (raise_u, shift_u)',
    _cast("base", "base_u", _INT64),
    "whole_l = Sub (shifted, base)",
    _cast("whole", "whole_l", _INT32),
    *_MOST,
    "least = Neg (most)",
    "y = Clip (whole, least, most)",
]


def _gated() -> list[str]:
    octaves = GATE_OCTAVES << OCTAVE_BITS
    return [
        _one("lowest", "int32", -octaves),
        _one("highest", "int32", octaves - 1),
        "bounded = Clip (x, lowest, highest)",
        "positive = Sub (bounded, lowest)",
        _cast("exponent", "positive", _INT64),
        _table(),
        _one("steps", "int64", 1 << OCTAVE_BITS),
        *_raised_lines("exponent", "power"),
        _one("unity", "int64", 1 << (POWER_BITS + GATE_OCTAVES)),
        "total = Add (power, unity)",
        _one("scale", "int64", 1 << GATE_BITS),
        "above = Mul (power, scale)",
        _one("two", "int64", 2),
        "half_total = Div (total, two)",
        "above_half = Add (above, half_total)",
        "gate = Div (above_half, total)",
        _cast("value_l", "value", _INT64),
        "product = Mul (gate, value_l)",
        *_SHIFT,
        _one("raise", "int64", _WIDE),
        "raised_half = Add (half, raise)",
        "raised = Add (product, raised_half)",
        *_LIMITED,
    ]


def _squared() -> list[str]:
    return [
        _one("nought", "int32", 0),
        "positive = Max (x, nought)",
        _cast("positive_l", "positive", _INT64),
        "square = Mul (positive_l, positive_l)",
        *_SHIFT,
        "raised = Add (square, half)",
        _cast("raised_u", "raised", _UINT64),
        'shifted_u = BitShift <direction: string = "RIGHT"> (raised_u, shift_u)',
        _cast("whole", "shifted_u", _INT32),
        *_MOST,
        "y = Min (whole, most)",
    ]


def _key_lines(exponent: str, into: str) -> list[str]:
    """From exponents of keys to 2^18 times their powers."""
    return [
        f"{into}_b = Clip ({exponent}, lowest, highest)",
        f"{into}_r = Add ({into}_b, raise_octaves)",
        _cast(f"{into}_x", f"{into}_r", _INT64),
        *_raised_lines(f"{into}_x", f"{into}_w"),
        f"{into} = Div ({into}_w, too_long)",
    ]


def _weights() -> list[str]:
    return [
        _one("lowest", "int32", -KEY_LIMIT),
        _one("highest", "int32", KEY_LIMIT),
        _one("raise_octaves", "int32", KEY_OCTAVES << OCTAVE_BITS),
        _one("too_long", "int64", 1 << RAISED_SHIFT),
        _table(),
        _one("steps", "int64", 1 << OCTAVE_BITS),
        *_key_lines("key", "e"),
        "key_now = Add (key, bonus)",
        *_key_lines("key_now", "now"),
        _cast("value_l", "value", _INT64),
        "e_value = Mul (e, value_l)",
        _one("raise", "int64", _WIDE),
        _one("base", "int64", _WIDE >> DECAY_BITS),
        _one("shift_u", "uint64", DECAY_BITS),
        _one("unit", "int64", 1 << DECAY_BITS),
    ]


def _decayed(of: str, decay: str, added: str, into: str) -> list[str]:
    """One step of a sum. The product of the whole would need more than 64 bits."""
    return [
        f"{into}_r = Add ({of}, raise)",
        _cast(f"{into}_ru", f"{into}_r", _UINT64),
        f'{into}_su = BitShift <direction: string = "RIGHT"> ({into}_ru, shift_u)',
        _cast(f"{into}_s", f"{into}_su", _INT64),
        f"{into}_h = Sub ({into}_s, base)",
        f"{into}_w = Mul ({into}_h, unit)",
        f"{into}_l = Sub ({of}, {into}_w)",
        f"{into}_hd = Mul ({into}_h, {decay})",
        f"{into}_lp = Mul ({into}_l, {decay})",
        f"{into}_ld = Div ({into}_lp, unit)",
        f"{into}_d = Add ({into}_hd, {into}_ld)",
        f"{into} = Add ({into}_d, {added})",
    ]


#: From the sums before each token, ``a`` and ``b``, to the averages.
_AVERAGE = [
    "total = Add (b, now)",
    "now_value = Mul (now, value_l)",
    "above = Add (now_value, a)",
    # The sign by a shift: onnxruntime's Sign reads half of 64 bits.
    "raised_above = Add (above, raise)",
    _cast("raised_above_u", "raised_above", _UINT64),
    _one("all_but_sign", "uint64", 62),
    'positive_u = BitShift <direction: string = "RIGHT"> (raised_above_u, all_but_sign)',
    _cast("positive", "positive_u", _INT64),
    _one("two", "int64", 2),
    _one("one", "int64", 1),
    "doubled = Mul (positive, two)",
    "sign = Sub (doubled, one)",
    "size = Mul (above, sign)",
    "half_total = Div (total, two)",
    "size_half = Add (size, half_total)",
    "quotient = Div (size_half, total)",
    "signed = Mul (quotient, sign)",
    _cast("average", "signed", _INT32),
]


def _average_step() -> list[str]:
    return [
        *_weights(),
        "a = Identity (numerator)",
        "b = Identity (denominator)",
        *_AVERAGE,
        *_decayed("a", "decay", "e_value", "numerator_after"),
        *_decayed("b", "decay", "e", "denominator_after"),
    ]


def _average() -> list[str]:
    step = [
        *_decayed("a_t", "decay_f", "ev_t", "a_next"),
        *_decayed("b_t", "decay_f", "e_t", "b_next"),
    ]
    return average_lines("int64", _weights(), step, _AVERAGE)


_SUMS = "key, value, decay, bonus, numerator, denominator"
_AVERAGES = "average, numerator_after, denominator_after"
#: By name: attributes, inputs, outputs, and what makes the body.
_BODIES: dict[str, tuple[str, str, str, Callable[[], list[str]]]] = {
    "IntTokenNorm": ("<shift, most>", "x, gain, offset", "y", _norm),
    "IntHalves": ("", "x", "high, low", _halves),
    "IntGated": ("<shift, most>", "x, value", "y", _gated),
    "IntSquared": ("<shift, most>", "x", "y", _squared),
    "IntWeightedAverage": ("", _SUMS, _AVERAGES, _average),
    "StepIntWeightedAverage": ("", _SUMS, _AVERAGES, _average_step),
}


def language_integer_text(operator: str) -> str:
    """Return the text of an operator's ONNX function.

    Raises:
        ConfigError: there is no such operator.
    """
    if operator not in _BODIES:
        raise ConfigError(f"{operator!r} is not an operator of integer files of language models.")
    attributes, inputs, outputs, lines = _BODIES[operator]
    return f"{operator} {attributes} ({inputs}) => ({outputs}) " + "{\n  " + "\n  ".join(lines()) + "\n}"
