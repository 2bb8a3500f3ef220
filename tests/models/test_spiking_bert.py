from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, PluginError, SampleError, UnmatchedNameError
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION, norm_factors, softmax_stairs
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert, SpikingBertConfig
from snn_extreme_quant.models.bert.shifts import (
    ShiftNorm,
    ShiftSoftmax,
    query_grid,
    shift_norm_sums,
    shift_probabilities,
)

SMALL = {"vocab": 40, "positions": 16, "layers": 2, "hidden": 32, "heads": 4, "ffn": 48, "dropout": 0.0}


def build(**options):
    """Build a model whose currents are large enough for every layer to fire."""
    torch.manual_seed(0)
    model = SpikingBert(SpikingBertConfig(**{**SMALL, "threshold": 0.3, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("encoder", "pooler", "classifier")) and parameter.dim() == 2:
                parameter.mul_(10.0)
    return model


@pytest.fixture
def ids():
    return torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask():
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return mask


def rates_of(model):
    found = []
    handles = [n.register_forward_hook(lambda _, __, out: found.append(out)) for _, n in model.named_neurons()]
    return found, handles


@pytest.mark.parametrize("weights", ["float", "ternary", "binary"])
@pytest.mark.parametrize("head", ["cls", "pooled"])
@pytest.mark.parametrize("profile", ["reference", "integer"])
def test_counts_and_spikes_give_the_same_logits(ids, mask, weights, head, profile):
    model = build(weights=weights, head=head, profile=profile)
    with torch.no_grad():
        counted = model(ids, mask)
        with sxq.schedule(model, "spikes"):
            spiked = model(ids, mask)
    assert counted.abs().max() > 1e-3
    if weights == "float":  # sums of real numbers
        torch.testing.assert_close(spiked, counted, atol=1e-3, rtol=0)
    else:
        assert torch.equal(spiked, counted)
    assert torch.equal(model(ids, mask), counted)  # the forward pass of training has the same value


def test_all_neurons_fire_in_an_untrained_model(ids):
    model = build()
    found, _ = rates_of(model)
    model(ids)
    assert len(found) == 1 + 6 * 2
    assert all(0 < rates.abs().mean() < 1 for rates in found)


@pytest.mark.parametrize(("signed", "others"), [(False, ("spikingjelly", "snntorch")), (True, ("spikingjelly",))])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_frameworks_give_the_very_spikes_of_the_spec(ids, mask, signed, others, start):
    own = build(schedule="step", T=9, signed=signed, weights="ternary", head="pooled", start=start)
    own.mode = "surrogate"
    expected, _ = rates_of(own)
    own(ids, mask)
    assert sum(float(spikes.detach().abs().sum()) for spikes in expected) > 1000
    for name in others:
        other = build(schedule="step", T=9, signed=signed, weights="ternary", head="pooled", start=start, neurons=name)
        other.load_state_dict(own.state_dict())
        assert other.state_dict().keys() == own.state_dict().keys()  # a cell keeps constants alone
        other.mode = "surrogate"
        found, _ = rates_of(other)
        other(ids, mask).sum().backward()
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert other.encoder[0].intermediate.weight.grad.abs().max() > 0  # through the framework's own surrogate


def test_simulated_has_the_value_of_all_steps_and_the_gradient_of_the_steady_state(ids, mask):
    model = build(schedule="step", T=8, weights="ternary")
    model.mode = "surrogate"
    through_time = model.details(ids, mask)
    model.mode = "simulated"
    simulated = model.details(ids, mask)
    torch.testing.assert_close(simulated.logits, through_time.logits, atol=1e-5, rtol=0)
    for a, b in zip(simulated.hidden, through_time.hidden, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)  # a mean of products, and the product of a mean
    simulated.logits.square().sum().backward()
    assert model.encoder[0].attention.query.weight.grad.abs().max() > 0


def test_the_simulation_runs_without_dropout(ids):
    model = build(schedule="step", T=4, dropout=0.5)
    expected = model.details(ids).hidden[-1]
    model.train()
    assert torch.equal(model.details(ids).hidden[-1], expected)
    assert model.encoder[0].dropout.training


def test_long_simulations_approach_the_equilibrium(ids):
    errors = []
    for T in (4, 64):
        model = build(schedule="step", T=T, start=0.5)
        with torch.no_grad():
            simulated = model.details(ids).hidden[0]
            model.mode = "equilibrium"
            errors.append(float((model.details(ids).hidden[0] - simulated).abs().max()))
    assert errors[1] < errors[0] / 8


def test_gradients_at_equilibrium_are_those_of_finite_differences(ids):
    model = build(layers=1, signed=True, threshold=3.0).double()
    model.mode = "equilibrium"
    weight = model.encoder[0].output.bias
    model(ids)[:, 0].sum().backward()
    step = 1e-6
    for index in range(3):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * step
                values.append(float(model(ids)[:, 0].sum()))
                weight[index] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(weight.grad[index]), rel=1e-4, abs=1e-8)


def test_pads_change_nothing(ids):
    model = build(weights="ternary")
    longer = torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones(3, 7, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long)], 1)
    torch.testing.assert_close(model(longer, mask), model(ids), atol=1e-5, rtol=0)


def test_precision_changes_and_latent_weights_stay(ids):
    model = build()
    latent = model.encoder[1].output.weight
    logits = model(ids)
    model.set_weights("ternary")
    assert set(model.encoder[1].output.integer_weight()[0].unique().tolist()) == {-1.0, 0.0, 1.0}
    model.set_weights(sxq.PrecisionPlan({"encoder.0.*": sxq.Binary()}, default=sxq.Float()))
    assert set(model.encoder[0].output.integer_weight()[0].unique().tolist()) == {-1.0, 1.0}
    assert type(model.encoder[1].output) is torch.nn.Linear
    model.set_weights("float")
    assert model.encoder[1].output.weight is latent
    assert torch.equal(model(ids), logits)
    model.set_weights("ternary")
    before = model(ids)
    with pytest.raises(UnmatchedNameError, match="nowhere"):
        model.set_weights(sxq.PrecisionPlan({"nowhere": sxq.Binary()}))
    assert model.config.weights == "ternary"
    assert torch.equal(model(ids), before)


def test_time_steps_are_a_run_time_knob(ids):
    model = build(T=8)
    twin = build(T=64)
    model.set_time_steps(64)
    assert torch.equal(model(ids), twin(ids))
    with pytest.raises(ConfigError, match="T=12"):
        model.set_time_steps(12)


def test_copies_are_independent(ids):
    model = build(schedule="step", T=4, signed=False, neurons="snntorch")
    twin = copy.deepcopy(model)
    before = model(ids)
    with torch.no_grad():
        twin.embeddings.neurons.log_threshold.add_(1.0)
    assert torch.equal(model(ids), before)
    assert not torch.equal(twin(ids), before)


def test_types_and_lengths(ids):
    model = build()
    assert not torch.equal(model(ids, None, torch.ones_like(ids)), model(ids))
    with pytest.raises(SampleError, match="up to 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(SampleError, match="float32"):
        model(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 5}, "divisor"),
        ({"T": 12}, "T=12"),
        ({"schedule": "steps"}, "'step'"),
        ({"signed": 1}, "True or False"),
        ({"layers": 0}, "1 or more"),
        ({"threshold": 0}, "positive"),
        ({"dropout": 1.0}, "dropout"),
        ({"weights": "tenary"}, "ternary"),
        ({"offset": True}, "signed=False"),
        ({"offset": True, "signed": False, "amplitude": "unit"}, "offset"),
        ({"leak": 0.9}, "schedule='step'"),
        ({"schedule": "step", "neurons": "snntorch", "leak": 0.9, "signed": False}, "leak"),
        ({"schedule": "step", "neurons": "snntorch"}, "signed"),
        ({"schedule": "step", "neurons": "norse"}, "norse"),
        ({"schedule": "step", "neurons": 3}, "neurons=3.: use None or a name"),
        ({"norm_eps": float("inf")}, "norm_eps=inf.: use a number that is finite"),
        ({"threshold": 10**400}, "finite"),
        ({"schedule": "step", "leak": float("nan")}, "leak=nan"),
        ({"schedule": "step", "start": 0.3}, "start=0.3.: use a multiple of 1/4096"),
        ({"schedule": "step", "start": 1.0}, "start=1.0.: use a multiple of 1/4096"),
        ({"T": 4.0}, "T=4.0.: use a whole number"),
        ({"weights": 3}, "weights=3: use 'float'"),
        ({"weights": {"default": {"kind": "float"}, "rules": [{"config": {"kind": "binary"}}]}}, "rule 0 of the plan"),
        ({"weights": {"default": {"kind": "float"}, "rules": [3]}}, "rule 0 of the plan is 3"),
        ({"weights": {"default": {"kind": "float"}, "rules": 3}}, "rules are 3"),
        ({"weights": {"default": {"kind": "float"}, "rule": []}}, "'rule'"),
    ],
)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        build(**options)


def test_what_is_no_configuration_is_refused():
    for wrong in ([1], {1: 2}, None):
        with pytest.raises(ConfigError, match="dictionary of its fields"):
            SpikingBertConfig.from_dict(wrong)
    for model, config in ((SpikingBert, {"layers": 2}), (SpikingBert, SpikeGPTConfig()), (SpikeGPT, None)):
        with pytest.raises(ConfigError, match=f"{model.__name__} is made with a {model.__name__}Config"):
            model(config)


def test_a_framework_that_is_switched_off_is_an_error(monkeypatch):
    monkeypatch.setenv("SXQ_PLUGINS", "none")
    with pytest.raises(PluginError, match="spikingjelly"):
        build(schedule="step", neurons="spikingjelly")


def test_inputs_that_do_not_fit_are_refused(ids):
    model = build()
    mask = torch.ones_like(ids)
    for wrong, words in (
        ((ids[:, :0],), "one at least"),
        ((ids.bool(),), "bool"),
        ((ids, mask[:1]), "attention_mask"),
        ((ids, mask[0]), "attention_mask"),
        ((ids, mask[:, :-1]), "attention_mask"),
        ((ids, mask, mask[:1]), "types"),
        ((ids.tolist(),), r"got list: torch.tensor\(ids\)"),
        (({"input_ids": ids},), r"batch\['input_ids'\]"),
        ((ids[0],), r"\(B, S\)"),
        ((ids.to(torch.int16),), "int64 or int32"),
        ((ids, mask.tolist()), "attention_mask is a torch.Tensor"),
        ((ids, mask, mask.tolist()), "types is a torch.Tensor"),
        ((ids, mask, mask.float()), "types are whole numbers"),
        ((torch.full_like(ids, 40),), "token 40 is not one of 0 to 39"),
        ((ids - 40,), "token -"),
        ((ids, mask, mask + 1), "type 2 is not one of 0 to 1"),
        ((ids, mask + 1), "attention_mask holds 2; it is 1 at tokens and 0 at pads"),
        ((ids, mask * 0.5), "holds 0.5"),
        ((ids, (mask - 1.0) * 1e4 - 1), "holds -1"),
        ((ids, mask * torch.nan), "holds nan"),
        ((ids, (torch.arange(ids.shape[1]) > 0).expand(ids.shape)), "text 0 begins with a pad"),
    ):
        with pytest.raises(SampleError, match=words):
            model(*wrong)


def test_masks_of_any_type_are_taken(ids):
    model = build()
    mask = (torch.arange(ids.shape[1]) < 3).expand(ids.shape)
    expected = model(ids, mask.long())
    for same in (mask, mask.float(), mask.int(), mask.bfloat16()):
        assert torch.equal(model(ids.int(), same), expected)
    nothing = torch.cat([mask[:1] & False, mask[1:]])  # fills up a batch; whatever it gives, the others stay
    assert torch.equal(model(ids, nothing)[1:], expected[1:])


def test_modes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match='schedule="step"'):
        build().mode = "surrogate"
    with pytest.raises(ConfigError, match="no mode"):
        build().mode = "fast"


def test_shift_softmax_gives_powers_of_two_that_sum_to_about_one():
    torch.manual_seed(0)
    scores = torch.randn(200, 9) * 4
    scores[:, -2:] -= 10000.0
    found = ShiftSoftmax()(scores * math.log2(math.e))
    used = found[found > 0]
    assert torch.equal(used.log2(), used.log2().round())
    assert (found[:, -2:] == 0).all()
    assert (found.sum(-1) <= 1.415).all()
    assert (found.sum(-1) >= 0.707).all()
    assert found.sum(-1).mean() == pytest.approx(1.0, abs=0.05)
    # each exponent is rounded to half a bit, and so is their sum, and that of its rounded terms
    ratio = (found / scores.softmax(-1))[:, :-2][scores[:, :-2].softmax(-1) > 1e-3]
    assert ratio.min() >= 2**-1.5
    assert ratio.max() <= 2**1.5


def test_shift_softmax_in_whole_numbers():
    """The definition, in Python's integers, on each side of a stair and beyond the last bit."""
    rows = [[0, 0], [0, 0, 0], [0] * 5, [0] * 6, [0, -1, -2, -15, -16, -40], [3, -10000, 2], [-10000, -10000]]
    for row in rows:
        largest = max(row)
        powers = [2 ** (15 + max(r - largest, -15)) if r - largest > -5000 else 0 for r in row]
        k = sum(sum(powers) >= stair for stair in softmax_stairs())
        assert 2 ** (2 * k + 29) <= sum(powers) ** 2 <= 2 ** (2 * k + 31)
        expected = [(power >> k) / 2**15 for power in powers]
        assert shift_probabilities(torch.tensor([row], dtype=torch.float32)).tolist() == [expected], row
    with pytest.raises(ConfigError, match="leave no bits"):
        query_grid(8192, 128)


def test_shift_norm_is_a_layer_norm_up_to_its_four_mantissas():
    torch.manual_seed(0)
    x = torch.randn(50, 64) * torch.logspace(-2, 0.8, 50)[:, None] + 5.0
    y = ShiftNorm(64)(x)
    size = y.square().mean(-1).sqrt()
    assert (size > 0.85).all()
    assert (size < 1.15).all()
    units, factor = shift_norm_sums(x)
    assert torch.equal(units, units.round())
    mantissa = torch.frexp(factor).mantissa * 8
    assert torch.equal(mantissa, mantissa.round())
    assert ShiftNorm(4)(torch.ones(1, 4)).tolist() == [[0.0] * 4]
    with pytest.raises(ConfigError, match="4096"):
        ShiftNorm(4097)


@pytest.mark.parametrize("channels", [1, 3, 96, 384, 4096])
def test_shift_norm_in_whole_numbers(channels: int):
    """The definition, in Python's integers and fractions, from rows without variance to those at the limit."""
    generator = torch.Generator().manual_seed(channels)
    rows = [torch.randn(channels, generator=generator) * scale + 0.1 for scale in (0, 1e-3, 0.03, 1.0, 300.0)]
    rows.append(torch.where(torch.arange(channels) % 2 == 0, 900.0, -900.0))
    factors, above, below = norm_factors()
    for row in rows:
        given = [max(-(2**19 - 1), min(2**19 - 1, math.floor(float(v) * 2**10 + 0.5))) for v in row]
        mean = (2 * sum(given) + channels) // (2 * channels)
        centred = [v - mean for v in given]
        squares = sum(c * c for c in centred)
        index = sum(squares <= channels * a // b for a, b in zip(above, below, strict=True))
        factor = Fraction(factors[index])
        # nearest to the reciprocal of the standard deviation, of all that there are
        if squares and 0 < index < len(factors) - 1:
            wanted = Fraction(channels * 4**NORM_FRACTION, squares)
            assert ((factor + Fraction(factors[index - 1])) / 2) ** 2 <= wanted
            assert wanted <= ((factor + Fraction(factors[index + 1])) / 2) ** 2
        expected = [math.floor(c * factor + Fraction(1, 2)) for c in centred]
        assert shift_norm_sums(row[None])[0][0].tolist() == expected


def test_scores_of_the_integer_profile_are_exact_in_any_order(ids):
    """Queries are on a grid on which a head's products fit 24 bits: float64 gives the same."""
    model = build(profile="integer", T=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter.mul_(40)
    scores = model.details(ids).scores
    seen: list[torch.Tensor] = []
    handle = model.encoder[0].attention.query_grid.register_forward_hook(lambda _m, _i, out: seen.append(out))
    rates: list[torch.Tensor] = []
    other = model.encoder[0].attention.key_neurons.register_forward_hook(lambda _m, _i, out: rates.append(out))
    assert torch.equal(model.details(ids).scores[0], scores[0])
    handle.remove()
    other.remove()
    split = model.encoder[0].attention._split
    product = split(seen[0].double()) @ split(rates[0].double()).transpose(-1, -2)
    assert product.abs().max() > 1
    assert torch.equal(product.float().double(), product)
    assert torch.equal((product.float() / model.encoder[0].attention.unit), scores[0])
