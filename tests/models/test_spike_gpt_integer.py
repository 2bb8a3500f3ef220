"""SpikeGPT in whole numbers: the same bits in every form, no overflow at any input, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, SampleError
from snn_extreme_quant.exported.token_tables import MOST_CURRENT, MOST_DECAY, MOST_VALUE
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikeGPTState
from snn_extreme_quant.models.gpt import integer_tokens as whole
from snn_extreme_quant.models.gpt.integer_parts import (
    CURRENT,
    GATE,
    KEY,
    NORM,
    IntegerTokenLIF,
    Units,
    input_units,
    whole_average,
    whole_gated,
    whole_norm,
    whole_product,
    whole_squared,
)
from snn_extreme_quant.models.gpt.wkv import weighted_average
from tests.models.spike_gpts import PLAN, assert_same, build, run, texts

GROUPS = sxq.PrecisionPlan({"blocks.*": sxq.Uniform(4, per="group", group_size=8), "head": sxq.Uniform(12)})
MODELS = {
    "ternary": {"weights": "ternary"},
    "binary, tied": {"weights": "binary", "tied": True},
    "float": {},
    "plan": {"weights": PLAN},
    "groups, 12 bits": {"weights": GROUPS, "layers": 1},
    "8 bits, tau 3": {"weights": sxq.Uniform(8), "tau": 3.0, "ffn": 50, "layers": 2},
    "wide": {"weights": "ternary", "layers": 1, "hidden": 140, "ffn": 1100},
}


def integer(seed=0, **options):
    return build(seed, profile="integer", **options)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_every_form_gives_the_same_bits(options):
    model, ids = integer(**options), texts(60)
    whole_text = run(model, ids, 60)
    assert torch.equal(model(ids), whole_text[0])
    assert whole_text[0].std() > 0.05
    rates = [float(spikes.mean()) for spikes in whole_text[1].values()]
    assert sum(0.0 < rate < 0.9 for rate in rates) >= 0.8 * len(rates)
    for pieces in (1, 7):
        assert_same(run(model, ids, pieces), whole_text)
    alone = run(model, ids[1:], 60)
    assert torch.equal(alone[0], whole_text[0][1:])


@pytest.mark.parametrize("weights", ["ternary", "binary"])
def test_training_mode_gives_the_same_bits_with_packed_weights(weights):
    model, ids = integer(weights=weights), texts(40)
    expected = run(model, ids, 40)
    model.train()
    assert_same(run(model, ids, 40), expected)
    assert_same(run(model, ids, 1), expected)


def test_autocast_changes_no_bit_of_a_product():
    model, ids = integer(weights="ternary"), texts(20)
    expected = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(ids), expected)


def test_it_is_near_the_reference_profile():
    """The weights are the same; spikes differ where a norm's factor is rounded."""
    reference = build(weights="ternary", layers=2, hidden=64)
    model = integer(weights="ternary", layers=2, hidden=64)
    model.load_state_dict(reference.state_dict())
    ids = texts(80)
    logits, spikes, _ = run(model, ids, 80)
    wanted, expected, _ = run(reference, ids, 80)
    for name, found in spikes.items():
        assert (found != expected[name]).float().mean() < 0.1, name
    assert (logits - wanted).abs().mean() < 0.3 * wanted.std()


def test_states_are_integers_and_go_to_a_file_and_back(tmp_path):
    model, ids = integer(weights="ternary"), texts(30)
    state = model.run(ids[:, :10])[1]
    assert {name: value.dtype for name, value in state.tensors.items()} == {
        **dict.fromkeys(("att_before", "ffn_before", "att_potential", "ffn_potential"), torch.int32),
        **dict.fromkeys(("numerator", "denominator"), torch.int64),
    }
    state.save(tmp_path / "state.safetensors")
    loaded = SpikeGPTState.load(tmp_path / "state.safetensors")
    assert torch.equal(model.run(ids[:, 10:], loaded)[0], model(ids)[:, 10:])
    with pytest.raises(SampleError, match=r"'att_before' .*need .* of torch\.float32"):
        build(weights="ternary").run(ids, state)


@pytest.mark.parametrize("head", ["mean", "last"])
def test_classifiers(head):
    model, ids = integer(weights="ternary", head=head, classes=3), texts(20, 3)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    found = model(ids, mask)
    assert found.shape == (3, 3)
    assert torch.equal(found[1:2], model(ids[1:2, :12]))


def test_save_and_load(tmp_path):
    model, ids = integer(weights="ternary"), texts(12)
    for packed in (False, True):
        model.save_pretrained(tmp_path / str(packed), packed=packed)
        loaded = SpikeGPT.from_pretrained(tmp_path / str(packed)).eval()
        assert loaded.config.profile == "integer"
        assert torch.equal(loaded(ids), model(ids))


def test_gradients_reach_every_parameter_and_are_near_the_references():
    reference, model, ids = build(layers=1), integer(layers=1), texts(24)
    found = []
    for each in (reference, model):
        each.train()
        torch.nn.functional.cross_entropy(each(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        found.append({name: parameter.grad for name, parameter in each.named_parameters()})
    for name, gradient in found[1].items():
        assert gradient.abs().max() > 0, name
    for name in ("head.weight", "blocks.0.att.time_decay", "blocks.0.ffn.key.weight"):
        ours, theirs = (grads[name].flatten() for grads in reversed(found))
        assert torch.cosine_similarity(ours, theirs, 0) > 0.6, name


def test_limits_stop_gradients():
    x = torch.tensor([[0.5, 200.0]], requires_grad=True)
    layer = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2) * 100.0)
    whole_product(layer, x, Units(11, 2**15 - 1), CURRENT).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[100.0, 0.0]]  # 20,000 is beyond currents


# Whole numbers never leave their types.


def extremes(*shape, most, seed=0):
    """Numbers that are at a limit, small or 0."""
    drawn = torch.randint(5, shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([-most, most, 0, 1, -1])[drawn]


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_averages_stay_below_their_bounds(seed):
    """Slowest decay, largest keys and values, for more tokens than it takes to come near the bounds."""
    d = 3
    decay, bonus = torch.full((d,), MOST_DECAY), torch.tensor([-10_000, 0, 10_000])
    key, value = torch.full((400, 1, d), 3839), torch.full((400, 1, d), (-1) ** seed * MOST_VALUE)
    if seed > 1:
        key, value = extremes(400, 1, d, most=3839, seed=seed), extremes(400, 1, d, most=MOST_VALUE, seed=seed)
    near = 2**13 * whole.key_power(torch.tensor(3839))
    a, b = (near * MOST_VALUE * (-1) ** seed).expand(1, d), near.expand(1, d)  # what no text goes beyond
    found, after_a, after_b = whole.average(decay, bonus, key, value, a, b)
    exact_a, exact_b = [int(n) for n in a[0]], [int(n) for n in b[0]]
    for t in range(400):
        for c in range(d):
            e = int(whole.key_power(key[t, 0, c]))
            now = int(whole.key_power(key[t, 0, c] + bonus[c]))
            v = int(value[t, 0, c])
            above, total = exact_a[c] + now * v, exact_b[c] + now
            wanted = (abs(above) + total // 2) // total * (1 if above >= 0 else -1)
            assert int(found[t, 0, c]) == wanted
            assert abs(wanted) <= MOST_VALUE + 1
            exact_a[c] = exact_a[c] * MOST_DECAY // 2**16 + e * v
            exact_b[c] = exact_b[c] * MOST_DECAY // 2**16 + e
            assert abs(exact_a[c]) < 2**61
            assert 0 <= exact_b[c] < 2**47
    assert after_a[0].tolist() == exact_a
    assert after_b[0].tolist() == exact_b


def test_a_channel_may_forget_at_once():
    decay, bonus = whole.wkv_factors(torch.tensor([10.0, -20.0]), torch.tensor([0.0, 25.0]))
    assert decay.tolist() == [0, MOST_DECAY]
    assert bonus.tolist() == [0, round(20 * 1.4426950408889634 * 256)]
    key, value = torch.zeros(3, 1, 1, dtype=torch.long), torch.tensor([100, 300, -500]).view(3, 1, 1)
    zero = torch.zeros(1, 1, dtype=torch.long)
    found, a, b = whole.average(decay[:1], bonus[:1], key, value, zero, zero)
    assert found.flatten().tolist() == [100, 200, -100]
    assert (int(a), int(b)) == (-500 * 2**18, 2**18)


def test_powers_and_gates_are_near_those_of_real_numbers():
    exponent = torch.arange(-3839, 3840)
    power = whole.key_power(exponent).double() * 2.0**-18
    exact = torch.exp2(exponent.double() / 256)
    assert ((power - exact).abs() <= exact * 2.0**-14 + 2.0**-18).all()
    z = torch.arange(-6000, 6001)
    opened = whole.gate(z).double() * 2.0**-15
    assert ((opened - torch.sigmoid(z.double() / 256 * np.log(2))).abs() < 2.0**-14).all()
    assert (whole.gate(z).diff() >= 0).all()
    assert whole.gate(torch.tensor([-(10**6), 0, 10**6])).tolist() == [0, 2**14, 2**15 - 1]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("inputs", [2, 37, 1100, 16384])
def test_sums_of_products_fit_32_bits_and_are_exact(bits, inputs):
    config = {1: sxq.Binary(), 2: sxq.Ternary()}.get(bits) or sxq.Uniform(bits)
    torch.manual_seed(bits)
    layer = torch.nn.Linear(inputs, 3, bias=False)
    torch.nn.init.constant_(layer.weight, 5.0)  # every code is the largest
    network = torch.nn.Sequential(layer)
    sxq.quantize_(network, config)
    layer = network[0]
    grid = input_units(layer, "norm")
    codes, _ = layer.integer_weight()
    largest = int(layer.quantizer.largest)
    assert grid.most * largest * inputs < 2**31
    assert grid.most >= min(2**15, 2**31 / (2 * largest * inputs)) - 1
    for x in (torch.full((2, inputs), float(grid.most)), extremes(2, inputs, most=grid.most).float()):
        found = whole.sums_of(x, codes.detach(), grid.most.bit_length(), largest)
        assert torch.equal(found.long(), x.long() @ codes.detach().long().T)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e3, 1e9, 1e30])
def test_scales_of_any_size_fit_their_bounds(scale):
    scaling = whole.product_scaling(torch.tensor([scale, scale / 3, 0.0]), 8.0 * 1.4427, 2**22 - 1)
    assert 0 <= scaling.shift <= 40
    for gain, offset in zip(scaling.gain.tolist(), scaling.offset.tolist(), strict=True):
        assert (2**31 - 1) * gain + offset < 2**61
    found = whole.scaled(torch.tensor([[1000] * 3, [-1000] * 3, [0] * 3]), scaling).tolist()
    wanted = [min(2**22 - 1, round(1000 * each * 8 * 1.4427)) for each in (scale, scale / 3, 0.0)]
    for row, sign in zip(found, (1, -1, 0), strict=True):
        for ours, theirs in zip(row, wanted, strict=True):
            assert abs(ours - sign * theirs) <= 1


def test_extreme_parts_stay_within_their_limits():
    norm = torch.nn.LayerNorm(37)
    with torch.no_grad():
        norm.weight.copy_(extremes(37, most=10**6).float())
        norm.bias.copy_(extremes(37, most=10**6, seed=1).float())
    stream = extremes(4, 37, most=2**20).float() * 2.0**-10
    for units in (NORM, Units(11, 2**15 - 1)):
        found = units.of(whole_norm(norm, stream, units))
        assert int(found.abs().max()) == units.most
    now, before = extremes(500, most=NORM.most), extremes(500, most=NORM.most, seed=1)
    for share in (-(2**16), 2**16):
        exact = [
            (n * share + p * (2**14 - share) + 2**14) >> 15 for n, p in zip(now.tolist(), before.tolist(), strict=True)
        ]
        assert max(map(abs, exact)) < 2**30
        wanted = [max(-(2**15 - 1), min(2**15 - 1, n)) for n in exact]
        assert whole.mixing(now, before, torch.tensor(share), 1).tolist() == wanted
    z, value = GATE.real(extremes(500, most=GATE.most)), CURRENT.real(extremes(500, most=CURRENT.most, seed=2))
    gated = whole_gated(z, value, CURRENT, CURRENT)
    opened = (z > 15).float() + (z.abs() < 1) * 0.5
    torch.testing.assert_close(gated, value * opened, atol=0.2, rtol=0.001)
    assert int(CURRENT.of(whole_squared(torch.tensor([-32.0, 31.99]), CURRENT)).max()) == CURRENT.most
    lif = IntegerTokenLIF(128.0)
    current = CURRENT.real(torch.full((3000, 2), -MOST_CURRENT))
    spikes, potential = lif(current, torch.zeros(2, dtype=torch.int32))
    assert not spikes.any()
    assert -(2**30) < int(potential[0]) < -(2**28)
    assert lif(-current, potential)[0].any()


def test_averages_are_near_those_of_real_numbers():
    drawn = torch.Generator().manual_seed(3)
    key = KEY.real(torch.randint(-1200, 1200, (200, 2, 8), generator=drawn))
    value = torch.randint(-3000, 3000, (200, 2, 8), generator=drawn) * 2.0**-10
    decay, first = torch.linspace(-6, 1, 8), torch.linspace(-2, 2, 8)
    zero = torch.zeros(2, 8)
    found = whole_average(decay, first, key, value, zero.long(), zero.long())[0]
    wanted = weighted_average(decay, first, key * 0.6931471805599453, value, zero, zero)[0]
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("options", [
    {"spiking": False}, {"inputs": "spikes"}, {"neurons": "snntorch"}, {"binary_embedding": False}, {"tau": 129.0},
])  # fmt: skip
def test_what_has_no_form_in_whole_numbers_is_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"{name}=.*profile='integer'|profile='integer'.*{name}"):
        SpikeGPTConfig(**options, profile="integer")
    with pytest.raises(ConfigError, match="profile"):
        SpikeGPTConfig(profile="whole")


def test_other_profiles_start_from_each_other():
    config = SpikeGPTConfig(vocab=9, layers=1, hidden=8)
    other = replace(config, profile="integer")
    assert SpikeGPTConfig.from_dict(other.to_dict()) == other
    assert "profile" not in SpikeGPT(config).state_dict()
    assert SpikeGPT(config).state_dict().keys() == SpikeGPT(other).state_dict().keys()
