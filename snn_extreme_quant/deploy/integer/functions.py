"""Integer sums in standard ONNX operators: packed layers without a scale, lookups, and poolings.

onnxruntime multiplies unsigned bytes. So signed inputs are shifted by 128, with that zero point, and wide ones are cut
into signed digits of base 128, which go through one product as one more axis. Weights of up to 7 bit are signed bytes
in matrix products (the fast kernel, whose pairs of products they cannot overflow) and unsigned bytes with a zero point
elsewhere: of 8 bit because pairs could overflow on processors without VNNI, in convolutions because onnxruntime
before 1.20 has no others and later ones no faster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from snn_extreme_quant.deploy.lowering.layer_functions import IDS_LINES
from snn_extreme_quant.deploy.lowering.unpacking import two_bytes_lines, unpack_lines
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.quantizers.packing import LAYOUTS

__all__ = [
    "INPUT_KINDS",
    "IntegerLayer",
    "WeightBytes",
    "integer_text",
    "is_integer_layer",
    "places_of",
    "weight_bytes",
]

#: What operators are called after the type of their input: uint8, int8, int32.
INPUT_KINDS = {"uint8": "", "int8": "Signed", "int32": "Wide"}
_KINDS = ("MatMul", "Conv", "ConvTranspose", "Embedding", "SumPool")
_NAME = re.compile(
    rf"(?P<packing>{'|'.join(KINDS.values())})?(?P<kind>MatMul|ConvTranspose|Conv|Embedding|SumPool)Integer"
    r"(?P<input>Signed|Wide)?"
)
#: The base of the digits into which wide inputs are cut: with a sign and the shift by 128 they are bytes.
_DIGIT = 128
#: Two products of a byte with smaller codes fit 16 bits.
_PAIRS_FIT = 64


@dataclass(frozen=True)
class IntegerLayer:
    """One operator that sums integers.

    Args:
        kind: ``"MatMul"``, ``"Conv"``, ``"ConvTranspose"``, ``"Embedding"`` or ``"SumPool"``.
        layout: packing layout; "" for a pooling, which has no codes.
        input: ``"uint8"``, ``"int8"`` or ``"int32"``; an embedding takes ids, and counts as ``"uint8"`` here.
    """

    kind: str
    layout: str
    input: str = "uint8"

    @property
    def name(self) -> str:
        """The operator's name; :meth:`from_name` is the inverse.

        Example:
            >>> IntegerLayer("MatMul", "ternary4", "int8").name
            'TernaryMatMulIntegerSigned'
        """
        return f"{KINDS.get(self.layout, '')}{self.kind}Integer{INPUT_KINDS[self.input]}"

    @classmethod
    def from_name(cls, name: str) -> IntegerLayer:
        """Return the operator of this name; raises :class:`ConfigError` if there is none."""
        match = _NAME.fullmatch(name)
        if match is not None:
            layout = next((layout for layout, kind in KINDS.items() if kind == match["packing"]), "")
            source = next(kind for kind, suffix in INPUT_KINDS.items() if suffix == (match["input"] or ""))
            layer = cls(match["kind"], layout, source)
            if (layer.kind == "SumPool") == (not layout) and (layer.kind != "Embedding" or source == "uint8"):
                return layer
        raise ConfigError(f"{name!r} is not an operator of integer sums.")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        if self.kind == "SumPool":
            return ("x",)
        return ("x", "packed", "multiplier") if self.kind == "Embedding" else ("x", "packed")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, all lists of whole numbers but ``group``."""
        own: dict[str, tuple[str, ...]] = {
            "MatMul": ("columns",),
            "Embedding": ("columns",),
            "Conv": _CONV,
            "ConvTranspose": (*_CONV, "output_padding", *_STRETCH),
            "SumPool": ("weight_shape", "strides", "pads", "group"),
        }
        return (*own[self.kind], "places") if self.input == "int32" else own[self.kind]


_CONV = ("columns", "weight_shape", "strides", "pads", "dilations", "group")
#: What a transposed convolution's strides and pads amount to, for its body: zeros between and around its inputs.
_STRETCH = ("stretch_axes", "stretch_pads", "stretch", "border")


def is_integer_layer(operator: str) -> bool:
    """Whether an operator of our domain sums integers.

    Example:
        >>> is_integer_layer("Int8ConvIntegerWide"), is_integer_layer("Int8LinearInteger")
        (True, False)
    """
    return _NAME.fullmatch(operator) is not None


def places_of(magnitude: int) -> list[int]:
    """Return the attribute ``places`` of a wide operator: the places of enough digits for inputs up to ``magnitude``.

    Example:
        >>> places_of(127), places_of(20000)
        ([1], [1, 128, 16384])
    """
    places = [1]
    while places[-1] * _DIGIT <= magnitude:
        places.append(places[-1] * _DIGIT)
    return places


@dataclass(frozen=True)
class WeightBytes:
    """One byte of the weight: names of its tensor and zero point ("" for signed bytes), and what it counts."""

    name: str
    zero: str
    factor: int = 1


def weight_bytes(
    layout: str,
    *,
    signed: bool,
    source: str = "packed",
    count: str = "count = Constant <value_ints: ints = @columns> ()",
) -> tuple[list[str], list[WeightBytes]]:
    """From bytes ``(K, bytes)`` to the codes ``(K, N)`` as bytes that onnxruntime multiplies.

    Args:
        layout: packing layout.
        signed: signed bytes, of layouts of up to 7 bit.
        source: name of the packed bytes.
        count: a line that gives ``count``, the number N in a list.
    """
    if LAYOUTS[layout].wide:
        lines, low, high = two_bytes_lines(layout, source, count)
        lines += [
            f"zero_low = Constant <value: tensor = uint8 {{{low}}}> ()",
            f"zero_high = Constant <value: tensor = uint8 {{{high}}}> ()",
        ]
        return lines, [WeightBytes("low", "zero_low"), WeightBytes("high", "zero_high", 256)]
    if signed and LAYOUTS[layout].largest < _PAIRS_FIT:
        return unpack_lines(layout, source, count), [WeightBytes("codes", "")]
    lines = unpack_lines(layout, source, count, unsigned=True)
    lines.append(f"zero_code = Constant <value: tensor = uint8 {{{LAYOUTS[layout].zero}}}> ()")
    return lines, [WeightBytes("codes", "zero_code")]


def integer_text(operator: str) -> str:
    """Return the text of the ONNX function."""
    layer = IntegerLayer.from_name(operator)
    lines = {
        "MatMul": _matmul,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Embedding": _embedding,
        "SumPool": _sum_pool,
    }[layer.kind](layer)
    head = f"{operator} <{', '.join(layer.attributes)}> ({', '.join(layer.inputs)}) => (y)"
    return head + " {\n  " + "\n  ".join(lines) + "\n}"


# Inputs as unsigned bytes ------------------------------------------------------------------------------------------


def _input_lines(layer: IntegerLayer, source: str = "x") -> list[str]:
    """From ``x`` to ``x_u`` with zero point ``x_zero``; of wide ones, all digits behind each other on a first axis."""
    if layer.input == "uint8":
        return ["x_zero = Constant <value: tensor = uint8 {0}> ()", f"x_u = Identity ({source})"]
    shift = [
        f"shift = Constant <value: tensor = int32 {{{_DIGIT}}}> ()",
        f"x_zero = Constant <value: tensor = uint8 {{{_DIGIT}}}> ()",
    ]
    if layer.input == "int8":
        return [
            *shift,
            f"x_i = Cast <to: int = 6> ({source})",
            "x_s = Add (x_i, shift)",
            "x_u = Cast <to: int = 2> (x_s)",
        ]
    return [
        *shift,
        "digit_places = Constant <value_ints: ints = @places> ()",
        "places_i = Cast <to: int = 6> (digit_places)",
        f"x_shape = Shape ({source})",
        "x_rank = Shape (x_shape)",
        "x_ones = ConstantOfShape <value: tensor = int64[1] {1}> (x_rank)",
        "any_size = Constant <value_ints: ints = [-1]> ()",
        "places_shape = Concat <axis: int = 0> (any_size, x_ones)",
        "place = Reshape (places_i, places_shape)",
        f"sign = Sign ({source})",
        f"size_of = Abs ({source})",
        "quotients = Div (size_of, place)",
        "digits = Mod (quotients, shift)",
        "signed_digits = Mul (digits, sign)",
        "x_s = Add (signed_digits, shift)",
        "x_u = Cast <to: int = 2> (x_s)",
    ]


def _joined(layer: IntegerLayer, sums: str) -> list[str]:
    """From the sums of the digits, one behind the other on a first axis, to ``y``."""
    if layer.input != "int32":
        return [f"y = Identity ({sums})"]
    return [
        f"placed = Mul ({sums}, place)",
        "first_axis = Constant <value_ints: ints = [0]> ()",
        "y = ReduceSum <keepdims: int = 0> (placed, first_axis)",
    ]


def product_lines(
    product: str, x: str, x_zero: str, weights: Sequence[WeightBytes], into: str, attributes: str = ""
) -> list[str]:
    """Multiply by each byte of the weight, and add.

    Args:
        product: ``"MatMulInteger"`` or ``"ConvInteger"``.
        x: name of the input as unsigned bytes.
        x_zero: name of its zero point.
        weights: bytes of the weight.
        into: name of the sums.
        attributes: of the product's node.
    """
    lines, terms = [], []
    for weight in weights:
        name = f"{into}_{weight.name}"
        zero = f", {weight.zero}" if weight.zero else ""
        lines.append(f"{name} = {product}{attributes} ({x}, {weight.name}, {x_zero}{zero})")
        if weight.factor != 1:
            lines += [
                f"{name}_f = Constant <value: tensor = int32 {{{weight.factor}}}> ()",
                f"{name}_m = Mul ({name}, {name}_f)",
            ]
            name += "_m"
        terms.append(name)
    return [*lines, f"{into} = {'Identity' if len(terms) == 1 else 'Add'} ({', '.join(terms)})"]


# Layers ------------------------------------------------------------------------------------------------------------


def _matmul(layer: IntegerLayer) -> list[str]:
    unpack, weights = weight_bytes(layer.layout, signed=True)
    products = product_lines("MatMulInteger", "x_u", "x_zero", weights, "sums")
    return [*unpack, *_input_lines(layer), *products, *_joined(layer, "sums")]


def _shaped(weights: Sequence[WeightBytes]) -> tuple[list[str], list[WeightBytes]]:
    """From codes ``(K, N)`` to a convolution's weight."""
    lines, shaped = ["weight_shape = Constant <value_ints: ints = @weight_shape> ()"], []
    for weight in weights:
        lines += [
            f"{weight.name}_t = Transpose <perm: ints = [1, 0]> ({weight.name})",
            f"{weight.name}_w = Reshape ({weight.name}_t, weight_shape)",
        ]
        shaped.append(WeightBytes(f"{weight.name}_w", weight.zero, weight.factor))
    return lines, shaped


def _convolved(layer: IntegerLayer, weights: Sequence[WeightBytes], geometry: str, source: str = "x") -> list[str]:
    """Convolve; the digits of wide inputs join the batch."""
    if layer.input != "int32":
        products = product_lines("ConvInteger", "x_u", "x_zero", weights, "sums", geometry)
        return [*_input_lines(layer, source), *products, *_joined(layer, "sums")]
    return [
        *_input_lines(layer, source),
        f"inner_shape = Shape <start: int = 1> ({source})",
        "batched_shape = Concat <axis: int = 0> (any_size, inner_shape)",
        "x_b = Reshape (x_u, batched_shape)",
        *product_lines("ConvInteger", "x_b", "x_zero", weights, "sums_b", geometry),
        "digit_count = Shape (digit_places)",
        f"batch = Shape <start: int = 0, end: int = 1> ({source})",
        "output_shape = Shape <start: int = 1> (sums_b)",
        "apart = Concat <axis: int = 0> (digit_count, batch, output_shape)",
        "sums = Reshape <allowzero: int = 1> (sums_b, apart)",
        *_joined(layer, "sums"),
    ]


_GEOMETRY = " <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>"


def _conv(layer: IntegerLayer) -> list[str]:
    unpack, weights = weight_bytes(layer.layout, signed=False)
    shape, shaped = _shaped(weights)
    return [*unpack, *shape, *_convolved(layer, shaped, _GEOMETRY)]


def _conv_transpose(layer: IntegerLayer) -> list[str]:
    """Put zeros between the inputs and around them, and convolve with the kernel turned around."""
    unpack, weights = weight_bytes(layer.layout, signed=False)
    lines = [
        "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
        "nought = Constant <value_ints: ints = [0]> ()",
        "two = Constant <value_ints: ints = [2]> ()",
        "end = Constant <value_ints: ints = [-1]> ()",
        "before_all = Constant <value: tensor = int64[1] {-9223372036854775807}> ()",
        "channels = Slice (weight_shape, nought, two)",
        "flat_shape = Concat <axis: int = 0> (channels, end)",
    ]
    shaped = []
    for weight in weights:
        lines += [
            f"{weight.name}_t = Transpose <perm: ints = [1, 0]> ({weight.name})",
            f"{weight.name}_f = Reshape ({weight.name}_t, flat_shape)",
            f"{weight.name}_r = Slice ({weight.name}_f, end, before_all, two, end)",
            f"{weight.name}_w = Reshape ({weight.name}_r, weight_shape)",
        ]
        shaped.append(WeightBytes(f"{weight.name}_w", weight.zero, weight.factor))
    lines += [
        "stretch_axes = Constant <value_ints: ints = @stretch_axes> ()",
        # Shape inference of onnxruntime before 1.21 takes no list of numbers for pads, if it sees that it is one.
        "stretch_list = Constant <value_ints: ints = @stretch_pads> ()",
        "stretch_pads = Identity (stretch_list)",
        "stretch = Constant <value_ints: ints = @stretch> ()",
        "border_list = Constant <value_ints: ints = @border> ()",
        "border = Identity (border_list)",
        "x_apart = Unsqueeze (x, stretch_axes)",
        "x_spread = Pad (x_apart, stretch_pads)",
        "x_sizes = Shape (x)",
        "stretched_shape = Mul (x_sizes, stretch)",
        "x_stretched = Reshape <allowzero: int = 1> (x_spread, stretched_shape)",
        "x_framed = Pad (x_stretched, border)",
    ]
    geometry = " <dilations: ints = @dilations, group: int = @group>"
    return [*unpack, *lines, *_convolved(layer, shaped, geometry, "x_framed")]


def _sum_pool(layer: IntegerLayer) -> list[str]:
    """Convolve each channel with ones."""
    ones = [
        "weight_shape = Constant <value_ints: ints = @weight_shape> ()",
        "ones = ConstantOfShape <value: tensor = uint8[1] {1}> (weight_shape)",
        "zero_one = Constant <value: tensor = uint8 {0}> ()",
    ]
    geometry = " <strides: ints = @strides, pads: ints = @pads, group: int = @group>"
    return [*ones, *_convolved(layer, [WeightBytes("ones", "zero_one")], geometry)]


def _embedding(layer: IntegerLayer) -> list[str]:
    """Only the rows looked up are unpacked."""
    count = "count = Constant <value_ints: ints = @columns> ()"
    return [
        *IDS_LINES,
        "rows = Gather <axis: int = 0> (packed, ids)",
        *([count] if layer.layout == "int16" else []),
        *unpack_lines(layer.layout, "rows", count),
        "row_codes = Cast <to: int = 6> (codes)",
        "row_multiplier = Gather <axis: int = 0> (multiplier, ids)",
        "row_multiplier_u = Unsqueeze (row_multiplier, one_axis)",
        "flat = Mul (row_codes, row_multiplier_u)",
        "ids_shape = Shape (x)",
        "y_shape = Concat <axis: int = 0> (ids_shape, count)",
        "y = Reshape <allowzero: int = 1> (flat, y_shape)",
    ]
