"""Norm and softmax by shifts in standard ONNX operators; every sum in them is of whole numbers and exact."""

from __future__ import annotations

from collections.abc import Iterable

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.shift_tables import (
    PROBABILITY_BITS,
    RESIDUAL_FRACTION,
    RESIDUAL_LIMIT,
    norm_factors,
    softmax_stairs,
)

__all__ = ["is_shift", "shift_operators", "shift_text"]


def _values(kind: str, values: Iterable[float]) -> str:
    listed = list(values)
    text = ", ".join(f"{v!r}" if kind == "float" else str(v) for v in listed)
    return f"Constant <value: tensor = {kind}[{len(listed)}] {{{text}}}> ()"


def _norm() -> list[str]:
    factors, above, below = norm_factors()
    return [
        f"residual_units = Constant <value_float: float = {2.0**RESIDUAL_FRACTION}> ()",
        "half = Constant <value_float: float = 0.5> ()",
        f"most = Constant <value_float: float = {RESIDUAL_LIMIT}> ()",
        f"least = Constant <value_float: float = {-RESIDUAL_LIMIT}> ()",
        "last = Constant <value_ints: ints = [-1]> ()",
        "scaled = Mul (x, residual_units)",
        "raised = Add (scaled, half)",
        "whole = Floor (raised)",
        "units = Clip (whole, least, most)",
        # The mean, rounded: whole numbers are divided, and a division of what is not negative rounds down anywhere.
        "units_i = Cast <to: int = 6> (units)",
        "total_i = ReduceSum (units_i, last)",
        "total = Cast <to: int = 7> (total_i)",
        "shape = Shape (x)",
        "place = Constant <value_int: int = -1> ()",
        "channels = Gather (shape, place)",
        "two = Constant <value: tensor = int64 {2}> ()",
        "shift = Constant <value: tensor = int64 {1048576}> ()",
        "doubled = Mul (total, two)",
        "divisor = Mul (channels, two)",
        "rounded = Add (doubled, channels)",
        "offset = Mul (divisor, shift)",
        "positive = Add (rounded, offset)",
        "quotient = Div (positive, divisor)",
        "mean_i = Sub (quotient, shift)",
        "mean = Cast <to: int = 1> (mean_i)",
        "centred = Sub (units, mean)",
        # Squares sum up to less than 2^52.
        "centred_d = Cast <to: int = 11> (centred)",
        "squares_d = ReduceSumSquare (centred_d, last)",
        "squares = Cast <to: int = 7> (squares_d)",
        f"above = {_values('int64', above)}",
        f"below = {_values('int64', below)}",
        "scaled_above = Mul (channels, above)",
        "limits = Div (scaled_above, below)",
        "reached = LessOrEqual (squares, limits)",
        "reached_i = Cast <to: int = 7> (reached)",
        "index = ReduceSum (reached_i, last)",
        f"factors = {_values('float', factors)}",
        "factor = Gather (factors, index)",
        "product = Mul (centred, factor)",
        "product_raised = Add (product, half)",
        "y_f = Floor (product_raised)",
        "y = Cast <to: int = 6> (y_f)",
    ]


def _softmax() -> list[str]:
    stairs = softmax_stairs()
    return [
        "half = Constant <value_float: float = 0.5> ()",
        "last = Constant <value_ints: ints = [-1]> ()",
        "raised = Add (x, half)",
        "r = Floor (raised)",
        "largest = ReduceMax (r, last)",
        "exponent = Sub (r, largest)",
        f"bits = Constant <value_float: float = {float(PROBABILITY_BITS)}> ()",
        "zero = Constant <value_float: float = 0.0> ()",
        "shifted = Add (exponent, bits)",
        "places_f = Max (shifted, zero)",
        "places = Cast <to: int = 12> (places_f)",
        "one = Constant <value: tensor = uint32 {1}> ()",
        'power_u = BitShift <direction: string = "LEFT"> (one, places)',
        "power_i = Cast <to: int = 6> (power_u)",
        "pad = Constant <value_float: float = -5000.0> ()",
        "is_token = Greater (exponent, pad)",
        "nothing = Constant <value: tensor = int32 {0}> ()",
        "power = Where (is_token, power_i, nothing)",
        "total = ReduceSum (power, last)",
        f"stairs = {_values('int32', stairs)}",
        "reached = GreaterOrEqual (total, stairs)",
        "reached_i = Cast <to: int = 6> (reached)",
        "halvings = ReduceSum (reached_i, last)",
        f"powers = {_values('float', (2.0**-i for i in range(len(stairs) + 1)))}",
        "factor = Gather (powers, halvings)",
        "power_f = Cast <to: int = 1> (power)",
        "product = Mul (power_f, factor)",
        "units = Floor (product)",
        f"unit = Constant <value_float: float = {2.0**-PROBABILITY_BITS!r}> ()",
        "y = Mul (units, unit)",
    ]


_BODIES = {"ShiftNorm": _norm, "ShiftSoftmax": _softmax}


def shift_operators() -> list[str]:
    """Return the names of the operators.

    Example:
        >>> shift_operators()
        ['ShiftNorm', 'ShiftSoftmax']
    """
    return list(_BODIES)


def is_shift(operator: str) -> bool:
    """Whether an operator of our domain is a norm or a softmax by shifts."""
    return operator in _BODIES


def shift_text(operator: str) -> str:
    """Return the text of the ONNX function.

    Raises:
        ConfigError: there is no such operator.
    """
    if operator not in _BODIES:
        raise ConfigError(f"{operator!r} is no norm or softmax by shifts.")
    return f"{operator} (x) => (y) {{\n  " + "\n  ".join(_BODIES[operator]()) + "\n}"
