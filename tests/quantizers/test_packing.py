"""Codes to bytes and back: all layouts, any shape; damage is noticed; the layouts are frozen."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.packing import LAYOUT_VERSION, LAYOUTS, has_spare_codes, layout_for, pack, unpack

CODES = {
    "binary8": (-1, 1),
    "ternary4": (-1, 0, 1),
    "ternary5": (-1, 0, 1),
    **{f"int{bits}": range(1 - 2 ** (bits - 1), 2 ** (bits - 1)) for bits in range(3, 17)},
}
BYTE_LAYOUTS = ["binary8", "ternary4", "ternary5", "int4", "int8"]
SECTIONS = {name: layout.sections for name, layout in LAYOUTS.items() if layout.sections}


@st.composite
def matrices(draw):
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(0, 23))
    values = draw(st.lists(st.sampled_from(CODES[layout]), min_size=rows * columns, max_size=rows * columns))
    return layout, np.array(values, np.int16).reshape(rows, columns)


@given(matrices())
def test_round_trip(case) -> None:
    layout, codes = case
    packed = pack(codes, layout)
    assert packed.dtype == np.uint8
    assert packed.shape == (codes.shape[0], LAYOUTS[layout].packed_columns(codes.shape[1]))
    again = unpack(packed, codes.shape[1], layout)
    assert again.dtype == (np.int8 if max(CODES[layout]) < 128 else np.int16)
    assert np.array_equal(again, codes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1), (2, 1), (4, 8), (4, 9), (1, 64)], ids=str)
def test_shapes_at_the_edge(layout, shape) -> None:
    codes = np.ones(shape, np.int8)
    assert np.array_equal(unpack(pack(codes, layout), shape[1], layout), codes)


@pytest.mark.parametrize("layout", BYTE_LAYOUTS)
def test_every_byte_that_can_occur_round_trips_and_no_other_is_accepted(layout) -> None:
    kind = LAYOUTS[layout]
    rows = np.array(list(itertools.product(CODES[layout], repeat=kind.per_byte)), np.int8)
    packed = pack(rows, layout)
    assert len(np.unique(packed)) == len(rows)
    assert np.array_equal(unpack(packed, kind.per_byte, layout), rows)
    for byte in set(range(256)) - set(packed.flatten().tolist()):
        with pytest.raises(ConfigError, match=f"not of layout '{layout}': the data is damaged"):
            unpack(np.array([[byte]], np.uint8), kind.per_byte, layout)


def test_every_pair_of_bytes_that_can_occur_round_trips_and_no_other_is_accepted() -> None:
    codes = np.arange(-32767, 32768).reshape(1, -1)
    packed = pack(codes, "int16")
    assert np.array_equal(unpack(packed, 65535, "int16"), codes)
    with pytest.raises(ConfigError, match="not of layout 'int16': the data is damaged"):
        unpack(np.array([[255, 255]], np.uint8), 1, "int16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_largest_code(layout) -> None:
    assert LAYOUTS[layout].largest == max(CODES[layout]) == -min(CODES[layout])


def test_columns_that_are_views_unpack() -> None:
    """Part of a larger array, as an embedding reads rows."""
    codes = np.arange(-6, 6).reshape(4, 3)
    for layout in ("int4", "int5", "int8", "int12", "int16"):
        assert np.array_equal(unpack(pack(codes, layout)[1::2], 3, layout), codes[1::2])


@pytest.mark.parametrize(
    ("layout", "codes", "frozen"),
    [
        ("binary8", [1, -1, -1, 1, 1, 1, -1, 1, 1], [0b10111001, 0b1]),
        ("ternary4", [-1, 0, 1, 1, 0], [0 + 1 * 4 + 2 * 16 + 2 * 64, 1]),
        ("ternary5", [-1, 0, 1, 1, 0, 1, -1], [0 + 1 * 3 + 2 * 9 + 2 * 27 + 1 * 81, 2]),
        ("int4", [-7, 7, 0], [0 + 14 * 16, 7]),
        ("int8", [-127, 0, 127], [0, 127, 254]),
        ("int16", [-32767, 0, 1, 32767], [0, 0, 0xFF, 0x7F, 0x00, 0x80, 0xFE, 0xFF]),
        ("int3", [-3, 0, 1, 3, -1], [0b11010001, 0b11, 0b10001]),
        ("int5", [-15, 15, 1], [0xF1, 0x01, 0b001]),
        ("int6", [-31, 31, 2], [0xF1, 0x02, 0b000110]),
        ("int7", [-63, 63, 16], [0xF1, 0x00, 0b011100, 0b001]),
        ("int9", [-255, 255, 0], [0x01, 0xFF, 0x00, 0b001]),
        ("int10", [-511, 511, -1], [0x01, 0xFF, 0xFF, 0b110110]),
        ("int11", [-1023, 1023, 256], [0x01, 0xFF, 0x00, 0b011100, 0b001]),
        ("int12", [-2047, 2047, -256], [0x01, 0xFF, 0x00, 0x78, 0x0F]),
        ("int13", [-4095, 4095, 0], [0x01, 0xFF, 0x00, 0xF0, 0x00, 0b001]),
        ("int14", [-8191, 8191, 0], [0x01, 0xFF, 0x00, 0xF0, 0x00, 0b000110]),
        ("int15", [-16383, 16383, 0], [0x01, 0xFF, 0x00, 0xF0, 0x00, 0b001100, 0b001]),
    ],
)
def test_layouts_are_frozen(layout, codes, frozen) -> None:
    """Files hold these bytes: a change here needs a new layout name."""
    assert pack([codes], layout).tolist() == [frozen]
    assert unpack(np.array([frozen], np.uint8), len(codes), layout).tolist() == [codes]
    assert LAYOUT_VERSION == 2
    assert sorted(LAYOUTS) == sorted(CODES)


@pytest.mark.parametrize("layout", SECTIONS)
def test_sections(layout) -> None:
    """As wide as the codes, and the lowest first; a byte counts how many codes begin it."""
    sections, bits = SECTIONS[layout], int(layout.removeprefix("int"))
    assert sum(sections) == bits
    assert sorted(sections, reverse=True) == list(sections)
    assert LAYOUTS[layout].packed_columns(64) == 8 * bits
    assert LAYOUTS[layout].section_columns(3) == tuple({8: 3, 4: 2, 2: 1, 1: 1}[size] for size in sections)
    assert LAYOUTS[layout].most_columns(8 * bits) == 64
    assert [n for n in range(1, 17) if LAYOUTS[layout].fits(n)] == list(range(8 // sections[-1], 17, 8 // sections[-1]))


@pytest.mark.parametrize("columns", [1, 5, 8, 40])
@pytest.mark.parametrize("layout", SECTIONS)
def test_the_one_value_of_sections_that_is_no_code(layout, columns) -> None:
    """The sign alone; what fills a section's last byte may be anything."""
    kind, least = LAYOUTS[layout], -max(CODES[layout])
    codes = np.full((3, columns), least)
    codes[0] = 0
    packed = pack(codes, layout)
    assert not has_spare_codes(packed, columns, kind)
    ends = np.cumsum(kind.section_columns(columns)) - 1
    for end, bits in zip(ends, kind.sections, strict=True):
        filled = columns * bits % 8
        packed[:, end] |= (256 - 2**filled) % 256 if filled else 0
    assert not has_spare_codes(packed, columns, kind)
    assert np.array_equal(unpack(packed, columns, layout), codes)
    packed[1, 0] &= 0xFE  # the least code is the sign and a 1
    assert has_spare_codes(packed, columns, kind)
    with pytest.raises(ConfigError, match=f"not of layout '{layout}': the data is damaged"):
        unpack(packed, columns, layout)


@pytest.mark.parametrize("bits", [0, 17, 32, 2.0, None, True])
def test_bits_without_a_layout(bits) -> None:
    with pytest.raises(ConfigError, match=r"No packing layout holds codes of .* bit; they have 1 to 16"):
        layout_for(bits)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_any_number_type_that_holds_codes_is_packed(dtype) -> None:
    assert pack(np.array([[-1, 1, 1]], dtype), "binary8").tolist() == [[6]]


@pytest.mark.parametrize(
    ("codes", "layout"),
    [
        ([[0]], "binary8"),
        ([[2]], "ternary4"),
        ([[-2]], "ternary5"),
        ([[3]], "binary8"),
        ([[0.5]], "ternary4"),
        ([[1e20]], "ternary4"),
        ([[8]], "int4"),
        ([[-8]], "int4"),
        ([[-4]], "int3"),
        ([[512]], "int10"),
        ([[-128]], "int8"),
        ([[-32768]], "int16"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, layout) -> None:
    with pytest.raises(ConfigError, match=f"do not fit the layout '{layout}'"):
        pack(codes, layout)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_codes_are_refused(value) -> None:
    with pytest.raises(ConfigError, match="do not fit the layout"):
        pack(np.array([[value, 1.0]]), "ternary4")


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)], ids=str)
def test_only_matrices_are_packed(shape) -> None:
    with pytest.raises(ConfigError, match=r"takes a matrix of codes \(K, N\); got shape"):
        pack(np.ones(shape, np.int8), "ternary4")


@pytest.mark.parametrize(
    ("packed", "columns"),
    [
        (np.zeros((2, 3), np.uint8), 8),
        (np.zeros((2, 3), np.uint8), 13),
        (np.zeros((2, 3), np.int8), 12),
        (np.zeros(3, np.uint8), 12),
        (np.zeros((2, 1), np.uint8), 0),
        (np.zeros((2, 0), np.uint8), -1),
        (np.zeros((2, 0), np.uint8), -3),
    ],
)
def test_shapes_that_do_not_fit_are_refused(packed, columns) -> None:
    with pytest.raises(ConfigError, match=r"unpack\(\)"):
        unpack(packed, columns, "ternary4")


def test_unknown_layout() -> None:
    for call in (lambda: pack([[1]], "ternry4"), lambda: unpack(np.zeros((1, 1), np.uint8), 1, "ternry4")):
        with pytest.raises(ConfigError, match=r"No packing layout is called 'ternry4'\. Did you mean 'ternary4'"):
            call()
