"""The operators of SpikingBERT's integer files in standard ONNX operators; no body holds a float."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from snn_extreme_quant.exported.shift_tables import (
    NORM_BITS,
    PROBABILITY_BITS,
    RESIDUAL_LIMIT,
    norm_factors,
    softmax_stairs,
    whole_norm_factors,
)

__all__ = ["token_integer_text"]

#: Added before a shift of unsigned numbers, which rounds down.
_WIDE, _NARROW = 2**61, 2**30
_UINT8, _INT8, _INT32, _INT64, _UINT32, _UINT64 = 2, 3, 6, 7, 12, 13
_PAD_DISTANCE = -5000


def _one(name: str, kind: str, value: int) -> str:
    return f"{name} = Constant <value: tensor = {kind} {{{value}}}> ()"


def _list(name: str, kind: str, values: Iterable[int]) -> str:
    listed = list(values)
    return f"{name} = Constant <value: tensor = {kind}[{len(listed)}] {{{', '.join(map(str, listed))}}}> ()"


def _cast(name: str, value: str, kind: int) -> str:
    return f"{name} = Cast <to: int = {kind}> ({value})"


#: Numbers are shifted without a sign, so the offset is raised by 2^61 when a file is loaded.
_RAISED = [
    _one("raise", "int64", _WIDE),
    "shift_i = Constant <value_int: int = @shift> ()",
    _cast("shift_u", "shift_i", _UINT64),
    _cast("raise_u", "raise", _UINT64),
    'base_u = BitShift <direction: string = "RIGHT"> (raise_u, shift_u)',
    _cast("base", "base_u", _INT64),
    "raised_offset = Add (offset, raise)",
]
_SHIFTED = [
    _cast("sum_u", "sum", _UINT64),
    'shifted_u = BitShift <direction: string = "RIGHT"> (sum_u, shift_u)',
    _cast("shifted", "shifted_u", _INT64),
    "whole_i = Sub (shifted, base)",
]


def _scaled(kind: int) -> list[str]:
    """Limits act in 32 bits, which what is shifted fits: onnxruntime compares only half of 64 bits in Min and Max."""
    return [
        *_RAISED,
        _cast("x_i", "x", _INT64),
        "product = Mul (x_i, gain)",
        "sum = Add (product, raised_offset)",
        *_SHIFTED,
        _cast("whole", "whole_i", _INT32),
        "above = Max (whole, low)",
        "limited = Min (above, high)",
        _cast("y", "limited", kind),
    ]


def _spikes(signed: bool) -> list[str]:
    """Each step is compared with the counts: its number of spikes before is less than the count."""
    lines = [
        "none = Constant <value_int: int = 0> ()",
        "one = Constant <value_int: int = 1> ()",
        "all = Constant <value_int: int = @steps> ()",
        "numbers = Range (none, all, one)",
        _cast("numbers_i", "numbers", _INT32),
        "x_shape = Shape (x)",
        "x_rank = Shape (x_shape)",
        "x_ones = ConstantOfShape <value: tensor = int64[1] {1}> (x_rank)",
        "any_size = Constant <value_ints: ints = [-1]> ()",
        "step_shape = Concat <axis: int = 0> (any_size, x_ones)",
        "step = Reshape (numbers_i, step_shape)",
        "up = Greater (x, step)",
    ]
    if not signed:
        return [*lines, _cast("y", "up", _UINT8)]
    return [
        *lines,
        "opposite = Neg (x)",
        "down = Greater (opposite, step)",
        _cast("up_i", "up", _INT32),
        _cast("down_i", "down", _INT32),
        "both = Sub (up_i, down_i)",
        _cast("y", "both", _INT8),
    ]


def _residual() -> list[str]:
    return [
        *_RAISED,
        _cast("x_i", "x", _INT64),
        _cast("counts_i", "counts", _INT64),
        "product = Mul (x_i, gain)",
        "carried_product = Mul (counts_i, carried)",
        "products = Add (product, carried_product)",
        "sum = Add (products, raised_offset)",
        *_SHIFTED,
        _cast("y", "whole_i", _INT32),
    ]


def _shift_norm() -> list[str]:
    _, above, below = norm_factors()
    return [
        "last = Constant <value_ints: ints = [-1]> ()",
        _one("most", "int32", int(RESIDUAL_LIMIT)),
        _one("least", "int32", -int(RESIDUAL_LIMIT)),
        "units = Clip (x, least, most)",
        # A division of what is not negative rounds down anywhere.
        "total_i = ReduceSum (units, last)",
        _cast("total", "total_i", _INT64),
        "shape = Shape (x)",
        "place = Constant <value_int: int = -1> ()",
        "channels = Gather (shape, place)",
        _one("two", "int64", 2),
        _one("raise_mean", "int64", 2**20),
        "doubled = Mul (total, two)",
        "divisor = Mul (channels, two)",
        "rounded = Add (doubled, channels)",
        "raise_sum = Mul (divisor, raise_mean)",
        "positive = Add (rounded, raise_sum)",
        "quotient = Div (positive, divisor)",
        "mean = Sub (quotient, raise_mean)",
        _cast("mean_i", "mean", _INT32),
        "centred = Sub (units, mean_i)",
        _cast("centred_i", "centred", _INT64),
        "square = Mul (centred_i, centred_i)",
        "squares = ReduceSum (square, last)",
        _list("above", "int64", above),
        _list("below", "int64", below),
        "scaled_above = Mul (channels, above)",
        "limits = Div (scaled_above, below)",
        "reached = LessOrEqual (squares, limits)",
        _cast("reached_i", "reached", _INT32),
        "index = ReduceSum (reached_i, last)",
        _list("factors", "int32", whole_norm_factors()),
        "factor = Gather (factors, index)",
        "product = Mul (centred, factor)",
        _one("raise", "int32", 2 ** (NORM_BITS - 1) + _NARROW),
        "raised = Add (product, raise)",
        _cast("raised_u", "raised", _UINT32),
        _one("shift", "uint32", NORM_BITS),
        'shifted_u = BitShift <direction: string = "RIGHT"> (raised_u, shift)',
        _cast("shifted", "shifted_u", _INT32),
        _one("base", "int32", _NARROW >> NORM_BITS),
        "y = Sub (shifted, base)",
    ]


def _shift_softmax() -> list[str]:
    stairs = softmax_stairs()
    return [
        "last = Constant <value_ints: ints = [-1]> ()",
        _one("one_u", "uint32", 1),
        "fraction_i = Constant <value_int: int = @fraction> ()",
        _cast("fraction_u", "fraction_i", _UINT32),
        # Half a unit, none of which is left where there is no fraction.
        'unit_u = BitShift <direction: string = "LEFT"> (one_u, fraction_u)',
        'half_u = BitShift <direction: string = "RIGHT"> (unit_u, one_u)',
        _cast("half", "half_u", _INT32),
        _one("raise", "int32", _NARROW),
        _cast("raise_u", "raise", _UINT32),
        'base_u = BitShift <direction: string = "RIGHT"> (raise_u, fraction_u)',
        _cast("base", "base_u", _INT32),
        "raise_half = Add (half, raise)",
        "raised = Add (x, raise_half)",
        _cast("raised_u", "raised", _UINT32),
        'rounded_u = BitShift <direction: string = "RIGHT"> (raised_u, fraction_u)',
        _cast("rounded", "rounded_u", _INT32),
        "lowered = Sub (pads, base)",
        "r = Add (rounded, lowered)",
        "largest = ReduceMax (r, last)",
        "exponent = Sub (r, largest)",
        _one("bits", "int32", PROBABILITY_BITS),
        _one("nothing", "int32", 0),
        "moved = Add (exponent, bits)",
        "places = Max (moved, nothing)",
        _cast("places_u", "places", _UINT32),
        'power_u = BitShift <direction: string = "LEFT"> (one_u, places_u)',
        _cast("power_i", "power_u", _INT32),
        _one("pad", "int32", _PAD_DISTANCE),
        "is_token = Greater (exponent, pad)",
        "power = Where (is_token, power_i, nothing)",
        "total = ReduceSum (power, last)",
        _list("stairs", "int32", stairs),
        "reached = GreaterOrEqual (total, stairs)",
        _cast("reached_i", "reached", _INT32),
        "halvings = ReduceSum (reached_i, last)",
        _cast("halvings_u", "halvings", _UINT32),
        _cast("kept_u", "power", _UINT32),
        'y_u = BitShift <direction: string = "RIGHT"> (kept_u, halvings_u)',
        _cast("y", "y_u", _INT32),
    ]


def _product(kind: int) -> list[str]:
    if kind == _INT32:
        return ["y = MatMul (a, b)"]
    return [
        "zero_i = Constant <value_int: int = @zero_point> ()",
        _cast("zero", "zero_i", _UINT8),
        _one("none", "uint8", 0),
        _cast("zero_32", "zero_i", _INT32),
        _one("byte", "int32", 256),
        "raise = Mul (zero_32, byte)",
        "raised = Add (a, raise)",
        _cast("raised_u", "raised", _UINT32),
        _one("eight", "uint32", 8),
        'high_u = BitShift <direction: string = "RIGHT"> (raised_u, eight)',
        'whole_u = BitShift <direction: string = "LEFT"> (high_u, eight)',
        _cast("whole", "whole_u", _INT32),
        "rest = Sub (raised, whole)",
        _cast("high", "high_u", _UINT8),
        _cast("low", "rest", _UINT8),
        "high_sums = MatMulInteger (high, b, zero)",
        "low_sums = MatMulInteger (low, b, none)",
        "placed = Mul (high_sums, byte)",
        "y = Add (placed, low_sums)",
    ]


_X = ["x", "gain", "offset", "low", "high"]
#: By name: attributes, inputs, and what makes the body.
_BODIES: dict[str, tuple[list[str], list[str], Callable[[], list[str]]]] = {
    "IntCounts": (["shift"], _X, lambda: _scaled(_UINT8)),
    "IntCountsSigned": (["shift"], _X, lambda: _scaled(_INT8)),
    "IntCountsWide": (["shift"], _X, lambda: _scaled(_INT32)),
    "IntScale": (["shift"], _X, lambda: _scaled(_INT32)),
    "IntSpikes": (["steps"], ["x"], lambda: _spikes(signed=False)),
    "IntSpikesSigned": (["steps"], ["x"], lambda: _spikes(signed=True)),
    "IntResidual": (["shift"], ["x", "counts", "gain", "carried", "offset"], _residual),
    "IntShiftNorm": ([], ["x"], _shift_norm),
    "IntShiftSoftmax": (["fraction"], ["x", "pads"], _shift_softmax),
    "IntProduct": (["zero_point"], ["a", "b"], lambda: _product(_UINT8)),
    "IntProductSigned": (["zero_point"], ["a", "b"], lambda: _product(_INT8)),
    "IntProductWide": (["zero_point"], ["a", "b"], lambda: _product(_INT32)),
}


def token_integer_text(operator: str) -> str:
    """Return the text of the ONNX function."""
    attributes, inputs, lines = _BODIES[operator]
    named = f" <{', '.join(attributes)}>" if attributes else ""
    return f"{operator}{named} ({', '.join(inputs)}) => (y)" + " {\n  " + "\n  ".join(lines()) + "\n}"
