"""Packed layers in standard ONNX operators: unpack, integer product, scale."""

from __future__ import annotations

from snn_extreme_quant.deploy.language.functions import rounded_lines
from snn_extreme_quant.deploy.lowering.body_facts import GENERAL, BodyFacts
from snn_extreme_quant.deploy.lowering.unpacking import unpack_lines
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.operators import KINDS, layout_of
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = ["IDS_LINES", "KINDS", "digit_base", "layer_operator", "layer_operators", "layer_text"]


def layer_operator(kind: str, layout: str, integer_input: bool = False, signed: bool = False) -> str:
    """Name a packed layer's operator: ``kind`` is ``"Linear"``, ``"Conv"``, ``"ConvTranspose"`` or ``"Embedding"``.

    With ``integer_input`` the input is unsigned bytes on a grid, with ``signed`` too signed ones.

    Example:
        >>> layer_operator("Linear", "ternary4", integer_input=True)
        'TernaryLinearInteger'
    """
    return f"{KINDS[layout]}{kind}" + ("Integer" if integer_input else "") + ("Signed" if signed else "")


#: The product with the scale, kept apart from the sums by an Unsqueeze: onnxruntime would otherwise fold the scale
#: into the weights, and rounding every term is what this package exists to avoid.
_SCALED = [
    "last_axis = Constant <value_ints: ints = [-1]> ()",
    "sums_u = Unsqueeze (sums, last_axis)",
    "y_u = Mul (sums_u, scale_s)",
    "y = Squeeze (y_u, last_axis)",
]
_IN_UNITS = [
    "grid = Constant <value_float: float = @grid> ()",
    "inverse = Constant <value_float: float = @inverse_grid> ()",
    "x_i = Mul (x, inverse)",
]
#: The same behind an integer product. onnxruntime scales while it adds up (MatMulIntegerToFloat) if the scale is not a
#: constant, which the size of the input makes of it, and saves two passes over the output. The Unsqueeze behind it
#: keeps a bias that follows out of that: it would be added without rounding the product first.
_SCALED_AT_ONCE = [
    "sums = Cast <to: int = 1> (sums_i)",
    "elements = Size (x)",
    "some = Sign (elements)",
    "some_f = Cast <to: int = 1> (some)",
    "present = Mul (some_f, grid)",
    "scale_s = Mul (present, scale)",
]
_APART = [
    "y_s = Mul (sums, scale_s)",
    "last_axis = Constant <value_ints: ints = [-1]> ()",
    "y_u = Unsqueeze (y_s, last_axis)",
    "y = Squeeze (y_u, last_axis)",
]
_CONV_SCALE = ["scale_shape = Constant <value_ints: ints = @scale_shape> ()", "scale_s = Reshape (scale, scale_shape)"]


def layer_operators() -> list[str]:
    """Return the names of all packed layers.

    Example:
        >>> layer_operators()[:2]
        ['BinaryLinear', 'BinaryLinearInteger']
    """
    kinds = ("Linear", *_INTEGER_BODIES, *_ROUNDED_BODIES, *(kind for kind in _BODIES if kind != "Linear"))
    every = (f"{prefix}{kind}" for prefix in KINDS.values() for kind in kinds)
    # Codes of more than 8 bit do not fit the bytes of an integer product; of 8, with bytes up to 255, not its pairs.
    wide = [kind for name, kind in KINDS.items() if LAYOUTS[name].wide]
    none = {*(f"{kind}LinearInteger" for kind in wide), *(f"{kind}LinearIntegerSigned" for kind in ("Int8", *wide))}
    return [name for name in every if name not in none]


def layer_text(operator: str, facts: BodyFacts = GENERAL) -> str:
    """Return the text of the ONNX function in a file of which ``facts`` hold.

    Raises:
        ConfigError: there is no such operator.
    """
    layout = layout_of(operator)
    kind = operator.removeprefix(KINDS[layout])
    of_counts = kind in _COUNT_BODIES and not LAYOUTS[layout].wide
    if operator not in layer_operators() and not of_counts:
        raise ConfigError(f"{operator!r} is not the operator of a layer.")
    attributes, inputs, lines = (
        _INTEGER_BODIES[kind](layout, facts)
        if kind in _INTEGER_BODIES
        else (_COUNT_BODIES if of_counts else _BODIES | _ROUNDED_BODIES)[kind](layout)
    )
    head = f"{operator} <{', '.join(attributes)}>" if attributes else operator
    return f"{head} ({', '.join(inputs)}) => (y) " + "{\n  " + "\n  ".join(lines) + "\n}"


_Parts = tuple[list[str], list[str], list[str]]
_INPUTS = ["x", "packed", "scale"]


def _linear(layout: str) -> _Parts:
    lines = [
        *unpack_lines(layout),
        "weight = Cast <to: int = 1> (codes)",
        "sums = MatMul (x, weight)",
        "behind_last = Constant <value_ints: ints = [-1]> ()",
        "scale_s = Unsqueeze (scale, behind_last)",
        *_SCALED,
    ]
    return [], _INPUTS, lines


def _linear_integer(layout: str, facts: BodyFacts) -> _Parts:
    """``x`` holds multiples of ``grid`` up to 255 * grid: an integer product, exact on every processor."""
    product = ["x_u = Cast <to: int = 2> (x_i)", "sums_i = MatMulInteger (x_u, codes)"]
    return ["grid", "inverse_grid"], _INPUTS, _integer_lines(layout, product, facts)


def _linear_integer_signed(layout: str, facts: BodyFacts) -> _Parts:
    """The same for multiples from -127 * grid to 127 * grid.

    They are unsigned bytes with a zero point: onnxruntime multiplies signed bytes by signed ones 20 times slower.
    """
    product = [
        "offset = Constant <value_float: float = 128.0> ()",
        "x_o = Add (x_i, offset)",
        "x_u = Cast <to: int = 2> (x_o)",
        "zero_point = Constant <value: tensor = uint8 {128}> ()",
        "sums_i = MatMulInteger (x_u, codes, zero_point)",
    ]
    return ["grid", "inverse_grid"], _INPUTS, _integer_lines(layout, product, facts)


def _integer_lines(layout: str, product: list[str], facts: BodyFacts) -> list[str]:
    scaled = ["y = Mul (sums, scale_s)"] if facts.bare else _APART
    return [*unpack_lines(layout, full=facts.full_bytes), *_IN_UNITS, *product, *_SCALED_AT_ONCE, *scaled]


def _count_sums(layout: str, count: str, into: str) -> list[str]:
    """Integer sums of counts, unsigned bytes from which ``zero_point`` is taken off."""
    return [
        *unpack_lines(layout, count=count),
        "zero_i = Constant <value_int: int = @zero_point> ()",
        "zero_point = Cast <to: int = 2> (zero_i)",
        f"{into} = MatMulInteger (x, codes, zero_point)",
    ]


def _linear_counts(layout: str) -> _Parts:
    sums = _count_sums(layout, "count = Shape (scale)", "sums")
    return ["zero_point"], _INPUTS, [*sums, "sums_f = Cast <to: int = 1> (sums)", "y = Mul (sums_f, scale)"]


def _linear_sums(layout: str) -> _Parts:
    count = "count = Constant <value_ints: ints = @columns> ()"
    return ["zero_point", "columns"], _INPUTS[:2], _count_sums(layout, count, "y")


def _outputs_first(layout: str) -> list[str]:
    """Codes ``(K, N)`` as floats ``(N, K)``."""
    return [
        *unpack_lines(layout),
        "weight_f = Cast <to: int = 1> (codes)",
        "weight_t = Transpose <perm: ints = [1, 0]> (weight_f)",
    ]


def _conv(layout: str) -> _Parts:
    geometry = "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group"
    lines = [
        *_outputs_first(layout),
        "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
        "weight = Reshape (weight_t, weight_shape)",
        f"sums = Conv <{geometry}> (x, weight)",
        *_CONV_SCALE,
        *_SCALED,
    ]
    return ["weight_shape", "scale_shape", "strides", "pads", "dilations", "group"], _INPUTS, lines


def _conv_transpose(layout: str) -> _Parts:
    """The weight of a transposed convolution has the input channels first, group by group."""
    geometry = (
        "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations,"
        " output_padding: ints = @output_padding, group: int = @group"
    )
    lines = [
        *_outputs_first(layout),
        "grouped_shape = Constant <value_ints: ints = @grouped_shape> ()",
        "grouped = Reshape (weight_t, grouped_shape)",
        "swapped = Transpose <perm: ints = [0, 2, 1, 3]> (grouped)",
        "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
        "weight = Reshape (swapped, weight_shape)",
        f"sums = ConvTranspose <{geometry}> (x, weight)",
        *_CONV_SCALE,
        *_SCALED,
    ]
    attributes = [
        "weight_shape", "grouped_shape", "scale_shape", "strides", "pads", "dilations", "output_padding", "group",
    ]  # fmt: skip
    return attributes, _INPUTS, lines


#: Indices as one row of int64; a negative one becomes one that no table has, for Gather would count it from the end.
IDS_LINES = [
    "one_axis = Constant <value_ints: ints = [-1]> ()",
    "ids_given = Reshape (x, one_axis)",
    "ids_wide = Cast <to: int = 7> (ids_given)",
    "first_row = Constant <value: tensor = int64 {0}> ()",
    "no_row = Constant <value: tensor = int64 {4611686018427387904}> ()",
    "negative = Less (ids_wide, first_row)",
    "ids = Where (negative, no_row, ids_wide)",
]


def _embedding(layout: str) -> _Parts:
    """Only the rows looked up are unpacked."""
    lines = [
        *IDS_LINES,
        "rows = Gather <axis: int = 0> (packed, ids)",
        *unpack_lines(layout, "rows", "count = Constant <value_ints: ints = @columns> ()"),
        "row_codes = Cast <to: int = 1> (codes)",
        "row_scale = Gather <axis: int = 0> (scale, ids)",
        "row_scale_u = Unsqueeze (row_scale, one_axis)",
        "flat = Mul (row_codes, row_scale_u)",
        "ids_shape = Shape (x)",
        "columns_of = Constant <value_ints: ints = @columns> ()",
        "y_shape = Concat <axis: int = 0> (ids_shape, columns_of)",
        "y = Reshape (flat, y_shape)",
    ]
    return ["columns"], _INPUTS, lines


def _linear_rounded(layout: str) -> _Parts:
    """Any ``x`` on a grid: its bytes times the codes, exact on every processor.

    Digits get an axis before all others, which rows keep, so a runtime that plans memory knows every shape: of
    buffers of unknown ones it compares each with all others, in the time of their square.
    """
    if LAYOUTS[layout].wide:
        product = ["codes_d = Cast <to: int = 11> (codes)", "total = MatMul (x_d, codes_d)"]
    else:
        product = _digit_lines(digit_base(layout))
    behind = [
        "total_f = Cast <to: int = 1> (total)",
        "grid = Constant <value_float: float = @grid> ()",
        "on_grid = Mul (total_f, grid)",
        "y = Mul (on_grid, scale)",
    ]
    lines = [*unpack_lines(layout), *rounded_lines(), *product, *behind]
    return ["grid", "inverse_grid", "most", "digits"], _INPUTS, lines


def _digit_lines(base: int) -> list[str]:
    """From whole numbers ``x_d`` to their products with ``codes``, digit by digit: ``total``, in float64."""
    return [
        "powers_f = Constant <value_floats: floats = @digits> ()",
        "powers_d = Cast <to: int = 11> (powers_f)",
        # Of as many axes as x has, behind that of the digits. That is the first: counted from the end it would stay in
        # a sum over no rows in onnxruntime 1.31.
        "digit_count = Shape (powers_d)",
        "one = Constant <value: tensor = int64 {1}> ()",
        "x_shape = Shape (x)",
        "x_rank = Shape (x_shape)",
        "ones = Expand (one, x_rank)",
        "powers_shape = Concat <axis: int = 0> (digit_count, ones)",
        "powers = Reshape (powers_d, powers_shape)",
        f"half = Constant <value: tensor = double {{{base // 2}.0}}> ()",
        "halves = Mul (powers, half)",
        "offset = ReduceSum <keepdims: int = 0> (halves)",
        "x_o = Add (x_d, offset)",
        "digit_axis = Constant <value_ints: ints = [0]> ()",
        "x_1 = Unsqueeze (x_o, digit_axis)",
        "shares = Div (x_1, powers)",
        "wholes = Floor (shares)",
        f"base = Constant <value: tensor = double {{{base}.0}}> ()",
        "upper_shares = Div (wholes, base)",
        "uppers = Floor (upper_shares)",
        "lowers = Mul (uppers, base)",
        "digits_d = Sub (wholes, lowers)",
        "digits_u = Cast <to: int = 2> (digits_d)",
        f"zero_point = Constant <value: tensor = uint8 {{{base // 2}}}> ()",
        "sums_i = MatMulInteger (digits_u, codes, zero_point)",
        "sums = Cast <to: int = 11> (sums_i)",
        "parts = Mul (sums, powers)",
        "total = ReduceSum <keepdims: int = 0> (parts, digit_axis)",
    ]


def digit_base(layout: str) -> int:
    """Return the base of the digits that a product splits its inputs into: two products of such fit 16 bits.

    Example:
        >>> digit_base("ternary4"), digit_base("int8")
        (256, 128)
    """
    return 128 if layout == "int8" else 256


_ROUNDED_BODIES = {"LinearRounded": _linear_rounded}
_BODIES = {
    "Linear": _linear,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Embedding": _embedding,
}
_INTEGER_BODIES = {"LinearInteger": _linear_integer, "LinearIntegerSigned": _linear_integer_signed}
#: Of layers that read the counts of synchronous neurons.
_COUNT_BODIES = {"LinearCounts": _linear_counts, "LinearSums": _linear_sums}
