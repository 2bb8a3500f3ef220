"""Codes and scales of every scheme against a few lines of torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.binary import BinaryWeightQuant
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack, unpack
from snn_extreme_quant.quantizers.ternary import TernaryWeightQuant
from snn_extreme_quant.quantizers.uniform import UniformWeightQuant
from tests.quantizers.references import CONFIGS, EPS, GROUP, blocks_of, quantizer_for, reference, weight_of

SHAPES = [(7, 33), (5, 3, 4), (6, 4, 3, 3), (2, 4, 2, 2, 2), (1, 1)]
EXACT = [config for config in CONFIGS if not (isinstance(config, Uniform) and config.scale == "mse")]
SEARCHED = [config for config in CONFIGS if config not in EXACT]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", EXACT, ids=str)
def test_codes_and_scale_equal_the_paper(config, shape) -> None:
    for seed in range(3):
        weight = weight_of(shape, seed)
        codes, scale = quantizer_for(config, weight).integer(weight)
        assert codes.dtype == scale.dtype == torch.float32
        assert codes.shape == weight.shape
        wanted = [[reference(config, block) for block in row] for row in blocks_of(config, weight)]
        want_scale = torch.tensor([[s for _, s in row] for row in wanted])
        assert torch.equal(scale, want_scale.expand(shape[0], -1))
        for row, want in zip(blocks_of(config, codes), wanted, strict=True):
            for block, (want_codes, _) in zip(row, want, strict=True):
                assert torch.equal(block, want_codes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", SEARCHED, ids=str)
def test_the_search_beats_every_scale_of_a_grid(config, shape) -> None:
    """No worse than the maximum's scale and 60 fractions of it, in any block; the codes are the nearest."""
    largest = 2 ** (config.bits - 1) - 1
    weight = weight_of(shape)
    codes, scale = quantizer_for(config, weight).integer(weight)
    for i, (row, code_row) in enumerate(zip(blocks_of(config, weight), blocks_of(config, codes), strict=True)):
        for j, (w, c) in enumerate(zip(row, code_row, strict=True)):
            found = scale[i, j]
            assert torch.equal(c, (w / found).round().clamp(-largest, largest))
            fractions = torch.arange(5, 101, 5).view(-1, *(1,) * w.dim()) / 100 * w.abs().max() / largest
            errors = ((w / fractions).round().clamp(-largest, largest) * fractions - w).square().flatten(1).sum(1)
            assert (c * found - w).square().sum() <= errors.min() * (1 + 1e-5) + 1e-12


def test_mse_ternary_is_the_optimum() -> None:
    """Against all 3^7 codes, each with its best scale."""
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 7).double()
    for seed in range(5):
        weight = weight_of((1, 7), seed)
        best = (codes @ weight[0].double()).square() / codes.square().sum(1).clamp_min(1)
        c, s = TernaryWeightQuant("channel", scale="mse").integer(weight)
        error = (c.double() * s.double() - weight.double()).square().sum()
        assert error.item() == pytest.approx((weight.double().square().sum() - best.max()).item(), rel=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_codes_are_whole_in_range_and_pack(config) -> None:
    weight = weight_of((5, 11))
    quantizer = quantizer_for(config, weight)
    codes, scale = quantizer.integer(weight)
    assert quantizer.bits == config.bits
    assert quantizer.largest == LAYOUTS[quantizer.layout].largest or isinstance(config, Uniform)
    assert codes.abs().max() <= quantizer.largest
    assert (scale > 0).all()
    assert not (codes.signbit() & (codes == 0)).any()
    packed = pack(codes.detach().numpy(), quantizer.layout)
    assert (unpack(packed, 11, quantizer.layout) == codes.detach().numpy()).all()


@pytest.mark.parametrize(
    ("config", "largest", "layout"),
    [
        (Binary(), 1, "binary8"),
        (Ternary(), 1, "ternary4"),
        (Uniform(2), 1, "ternary4"),
        (Uniform(3), 3, "int3"),
        (Uniform(4), 7, "int4"),
        (Uniform(5), 15, "int5"),
        (Uniform(8), 127, "int8"),
        (Uniform(9), 255, "int9"),
        (Uniform(15), 16383, "int15"),
        (Uniform(16), 32767, "int16"),
    ],
    ids=str,
)
def test_largest_code_and_layout(config, largest, layout) -> None:
    weight = torch.tensor([[1.0, -1.0, 0.25]])
    quantizer = quantizer_for(config, weight)
    assert (quantizer.largest, quantizer.layout) == (largest, layout)
    assert quantizer.integer(weight)[0][0, :2].tolist() == [largest, -largest]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CONFIGS),
    st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple),
    st.integers(0, 100),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_shapes(config, shape, seed, dtype) -> None:
    weight = weight_of(shape, seed).to(dtype)
    codes, scale = quantizer_for(config, weight).integer(weight)
    groups = -(-shape[1] // GROUP) if config.per == "group" else 1
    assert (codes.shape, codes.dtype) == (weight.shape, dtype)
    assert (scale.shape, scale.dtype) == ((shape[0], groups), dtype)
    assert torch.equal(codes, codes.round())
    assert torch.isfinite(scale).all()
    if config.per == "tensor":
        assert (scale == scale[0]).all()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_an_all_zero_channel_stays_finite(config) -> None:
    weight = torch.zeros(2, 4)
    weight[1] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    codes, scale = quantizer_for(config, weight).integer(weight)
    assert torch.isfinite(codes).all()
    assert (scale > 0).all()
    dead = 0.0 if not isinstance(config, Binary) else -1.0 if config.center else 1.0
    assert codes[0].tolist() == [dead] * 4
    if config.per != "tensor":
        assert (scale[0] == EPS).all()


def test_half_a_scale_rounds_to_zero() -> None:
    """Rounding is to even: 0.5 gives 0, and the next float above gives 1."""
    quantizer = TernaryWeightQuant("channel")
    weight = torch.tensor([[0.5, -0.5, 1.5, -1.5, 1.0, 1.0]])
    assert quantizer.integer(weight)[1].item() == 1.0
    assert quantizer.codes(weight, torch.ones(1, 1)).tolist() == [[0, 0, 1, -1, 1, 1]]
    above = torch.nextafter(torch.tensor([[0.5]]), torch.tensor(1.0))
    assert quantizer.codes(above, torch.ones(1, 1)).item() == 1.0


@pytest.mark.parametrize("quantizer", [TernaryWeightQuant("tensor"), UniformWeightQuant("tensor", 3)], ids=str)
def test_codes_are_never_negative_zero(quantizer) -> None:
    codes, _ = quantizer.integer(torch.tensor([[-0.01, 1.0, -0.0]]))
    assert codes[0, [0, 2]].tolist() == [0.0, 0.0]
    assert not codes.signbit().any()


def test_the_sign_is_the_sign_bit() -> None:
    """A small negative that a cast flushed to -0 keeps its sign; centred, a weight at the mean counts as negative."""
    assert BinaryWeightQuant("tensor").integer(torch.tensor([[0.0, -0.0, -1.0]]))[0].tolist() == [[1, -1, -1]]
    tiny = torch.tensor([[-1e-12, 1e-12]])
    assert tiny.half().abs().max() == 0
    assert BinaryWeightQuant("tensor").integer(tiny.half())[0].tolist() == [[-1, 1]]
    centred = BinaryWeightQuant("tensor", center=True)
    assert centred.integer(torch.tensor([[1.0, 2.0, 3.0]]))[0].tolist() == [[-1, -1, 1]]


def test_centring_leaves_the_scale_alone() -> None:
    weight = weight_of((4, 9)) + 1.0
    plain, centred = (BinaryWeightQuant("channel", center=c).integer(weight) for c in (False, True))
    assert torch.equal(plain[1], centred[1])
    assert not torch.equal(plain[0], centred[0])


def test_lower_error_the_better_the_scale() -> None:
    """Of the ternary scales the exact optimum is best; more bits and smaller groups are better."""

    def error(config) -> float:
        codes, scale = quantizer_for(config, weight).integer(weight)
        spread = scale.repeat_interleave(-(-64 // scale.shape[1]), 1)
        return (codes * spread - weight).square().sum().item()

    weight = weight_of((16, 64))
    for per in ({"per": "tensor"}, {"per": "channel"}, {"per": "group", "group_size": 16}):
        mse = error(Ternary(scale="mse", **per))
        assert mse <= error(Ternary(scale="twn", **per)) <= error(Ternary(**per))
        assert mse <= error(Uniform(2, scale="mse", **per)) * (1 + 1e-5)
        assert error(Uniform(4, **per)) < error(Uniform(3, scale="mse", **per)) < mse
    assert error(Binary(per="group", group_size=16)) < error(Binary()) < error(Binary(per="tensor"))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_result_does_not_depend_on_threads(config) -> None:
    weight = weight_of((16, 1031), 3)
    quantizer = quantizer_for(config, weight)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(quantizer.integer(weight))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_scale_is_the_correctly_rounded_mean() -> None:
    """A float32 sum of a long row would be off; the float64 one rounds once."""
    weight = weight_of((1, 200_003), 4)
    exact = sum(abs(v) for v in weight.flatten().tolist()) / weight.numel()
    assert TernaryWeightQuant("channel").integer(weight)[1].item() == torch.tensor(exact, dtype=torch.float32).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [c for c in CONFIGS if c.bits < 16], ids=str)
def test_other_dtypes_keep_theirs(config, dtype) -> None:
    weight = weight_of((4, 8)).to(dtype)
    quantizer = quantizer_for(config, weight)
    codes, scale = quantizer.integer(weight)
    assert codes.dtype == scale.dtype == dtype
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= quantizer.largest
    # No further from the float32 result than the type's precision explains.
    exact_codes, exact_scale = quantizer_for(config, weight.float()).integer(weight.float())
    torch.testing.assert_close(scale.float(), exact_scale, rtol=2**-7, atol=0)
    assert (codes.float() - exact_codes).abs().max() <= 1


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 9), (torch.float16, 12)])
def test_codes_that_a_type_cannot_hold_are_refused(dtype, most) -> None:
    weight = torch.tensor([[1.0, -1.0]], dtype=dtype)
    codes, _ = UniformWeightQuant("channel", most).integer(torch.linspace(-1, 1, 2**most, dtype=dtype).view(1, -1))
    assert torch.equal(codes, codes.float().round().to(dtype))
    assert 2 ** (most - 1) - 2 <= codes.max() <= 2 ** (most - 1) - 1
    with pytest.raises(ConfigError, match=f"does not represent all codes of {most + 1} bit.*at most {most} bits"):
        UniformWeightQuant("channel", most + 1).integer(weight)


@pytest.mark.parametrize("bits", [1, 17, 4.0, True])
def test_bit_widths_that_mean_nothing(bits) -> None:
    with pytest.raises(ConfigError, match="use 2 to 16"):
        UniformWeightQuant("tensor", bits)
