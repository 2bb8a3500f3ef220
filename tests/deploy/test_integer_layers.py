"""Integer sums: their names, extremes and refusals. That all runtimes agree is tested in tests/operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snn_extreme_quant.deploy.integer import operators as integer_operators
from snn_extreme_quant.deploy.integer.functions import IntegerLayer, places_of
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.lowering.functions import is_integer_layer, is_layer
from snn_extreme_quant.errors import ConfigError, ModelFileError, UnsupportedModelError
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.quantizers.packing import pack
from tests.deploy.integer_bodies import assert_bodies, fed, model_of
from tests.deploy.integer_cases import INPUTS, layer_cases, linear_case, random_codes

CASES = list(layer_cases())


def test_every_operator_has_cases() -> None:
    kinds = [("MatMul", *INPUTS), ("Conv", *INPUTS), ("ConvTranspose", *INPUTS), ("Embedding", "uint8")]
    names = {IntegerLayer(kind, layout, x).name for layout in KINDS for kind, *inputs in kinds for x in inputs}
    names |= {IntegerLayer("SumPool", "", x).name for x in INPUTS}
    assert names == {str(case) for case in CASES}
    for name in names:
        assert IntegerLayer.from_name(name).name == name
        assert is_layer(name)


@pytest.mark.parametrize(
    "name",
    ["TernaryLinearInteger", "TernaryMatMul", "SumPool", "TernarySumPoolInteger", "MatMulInteger", "ConvInteger",
     "TernaryEmbeddingIntegerWide", "OddMatMulInteger", ""],
)  # fmt: skip
def test_names_that_there_are_not(name: str) -> None:
    assert not is_integer_layer(name) or name in (
        "TernarySumPoolInteger",
        "TernaryEmbeddingIntegerWide",
        "MatMulInteger",
        "ConvInteger",
    )
    with pytest.raises(ConfigError):
        IntegerLayer.from_name(name)


def test_by_hand() -> None:
    """What all agree on is what the specification says."""
    codes = np.array([[1, 0], [-1, 1], [0, -1]])
    x = np.array([[255, 3, 7]], np.uint8)
    packed = torch.from_numpy(pack(codes, "ternary4"))
    sums = integer_operators.packed_linear_sum(torch.from_numpy(x), packed, 2, "ternary4", "layer")
    assert sums.tolist() == [[252, -4]]
    assert sums.dtype == torch.int32


@pytest.mark.parametrize("layout", KINDS)
def test_extremes(layout: str) -> None:
    """The largest bytes with the largest codes, pair after pair: what 16 bit would saturate."""
    codes = np.abs(random_codes(np.random.default_rng(0), layout, 1, 1)[0, 0])
    case = linear_case(layout, "uint8", (2, 64), 5)
    most = np.full((64, 5), codes)
    case.inputs["packed"][:] = pack(most, layout)
    case.inputs["x"][:] = 255
    case.expected[0][:] = 64 * 255 * codes
    assert_bodies(case)


def test_places() -> None:
    assert places_of(0) == [1]
    assert places_of(128) == [1, 128]
    assert len(places_of(2**31 - 1)) == 5


def test_sums_beyond_32_bits_are_refused() -> None:
    packed = torch.from_numpy(pack(np.full((2, 1), 32767), "int16"))
    x = torch.full((1, 2), 2**17, dtype=torch.int32)
    with pytest.raises(UnsupportedModelError, match=r"'fc'.*32 bits"):
        integer_operators.packed_linear_sum(x, packed, 1, "int16", "fc")
    with pytest.raises(UnsupportedModelError, match="'fc' sums uint8, int8 or int32"):
        integer_operators.packed_linear_sum(x.float(), packed, 1, "int16", "fc")
    case = linear_case("int16", "int32", (1, 2), 1)
    case.inputs["packed"][:], case.inputs["x"][:] = packed.numpy(), x.numpy()
    with pytest.raises(ModelFileError, match="leaves 32 bits"):
        golden_run(model_of(case), fed(case))


def test_shapes_without_values() -> None:
    """A trace sees shapes and types alone; they are those of the values."""
    ops = torch.ops.snn_xq
    for kind in (torch.uint8, torch.int8, torch.int32):
        x = torch.ones(2, 4, 6, 5, dtype=kind)
        packed = torch.from_numpy(pack(np.ones((36, 8), int), "ternary4"))
        calls = [
            (ops.packed_conv_sum, x, packed, [8, 4, 3, 3], [1, 2], [1, 0, 0, 1], [1, 1], 1, "ternary4", "c"),
            (
                ops.packed_conv_transpose_sum,
                x,
                packed,
                [8, 4, 3, 3],
                [2, 1],
                [1, 0],
                [1, 0],
                [1, 1],
                1,
                "ternary4",
                "c",
            ),
            (ops.sum_pool_int, x, [2, 3], [2, 1], [0, 1], 4),
            (ops.packed_linear_sum, x[..., :4], packed[:4], 8, "ternary4", "c"),
        ]
        for operator, *arguments in calls:
            torch.library.opcheck(operator.default, tuple(arguments), test_utils=("test_schema", "test_faketensor"))
