from __future__ import annotations

import copy

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, PluginError, SampleError, UnmatchedNameError
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from snn_extreme_quant.models.shifts import ShiftNorm, shift_softmax

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
        other.load_state_dict(own.state_dict(), strict=False)
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
    ],
)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        build(**options)


def test_a_framework_that_is_switched_off_is_an_error(monkeypatch):
    monkeypatch.setenv("SXQ_PLUGINS", "none")
    with pytest.raises(PluginError, match="spikingjelly"):
        build(schedule="step", neurons="spikingjelly")


def test_modes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match='schedule="step"'):
        build().mode = "surrogate"
    with pytest.raises(ConfigError, match="no mode"):
        build().mode = "fast"


def test_shift_softmax_gives_powers_of_two_that_sum_to_about_one():
    torch.manual_seed(0)
    scores = torch.randn(200, 9) * 4
    scores[:, -2:] -= 10000.0
    found = shift_softmax(scores)
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


def test_shift_norm_is_a_layer_norm_up_to_its_four_mantissas():
    torch.manual_seed(0)
    x = torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None] + 5.0
    y = ShiftNorm(64)(x)
    size = y.square().mean(-1).sqrt()
    assert (size > 0.85).all()
    assert (size < 1.15).all()
    factor = (y / (x - x.mean(-1, keepdim=True))).nanmedian(-1).values
    mantissa = torch.frexp(factor).mantissa * 8
    torch.testing.assert_close(mantissa, mantissa.round(), atol=1e-3, rtol=0)
    assert ShiftNorm(4)(torch.ones(1, 4)).tolist() == [[0.0] * 4]
