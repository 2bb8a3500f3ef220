from __future__ import annotations

import copy
import itertools

import pytest
import torch

from snn_extreme_quant.errors import ConfigError, EquilibriumError
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from snn_extreme_quant.models.bert.running import time_steps
from tests.models.test_spiking_bert import SMALL, build, rates_of
from tests.tiny_bert import WORDS, save_teacher

STEP = {"schedule": "step", "threshold": 1.0, "layers": 2}


def connected(gain=3.0, feedback=((2, 0),), **options):
    """Build a model whose feedback makes a difference and whose steady state is stable."""
    model = build(**{**STEP, "feedback": feedback, **options})
    with torch.no_grad():
        for weight in model.feedback.weights:
            weight.weight.normal_(std=0.1 * gain / model.config.hidden**0.5)
    return model


@pytest.fixture
def ids():
    return torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))


def tiny(**options):
    """Build a network whose state has 24 entries, in float64, solved almost exactly."""
    sizes = {"hidden": 8, "heads": 2, "ffn": 12, "threshold": 1.5, "solver_tolerance": 1e-12, "solver_evaluations": 500}
    model = connected(**{**sizes, "feedback": ((2, 0), (2, 1), (1, 0)), **options}).double()
    model.mode = "equilibrium"
    return model, torch.tensor([[3, 9, 20]])


def loss_of(details):
    return details.logits.square().sum() + details.hidden[1].sin().sum() + details.scores[0].sum()


@pytest.mark.parametrize("solver", ["iteration", "anderson", "broyden"])
def test_the_gradient_is_that_of_the_dense_inverse(solver):
    model, ids = tiny(solver=solver)
    loss_of(model.details(ids)).backward()
    assert model.implicit.forward_report.evaluations > 3
    assert model.implicit.backward_report.evaluations > 3

    def network(state):
        activity = model.run(model.embeddings(ids, None), torch.zeros(()), model.feedback(state))
        model.mode = "equilibrium"
        return activity

    state = model.implicit.forward_report.value.detach().requires_grad_()
    activity = network(state)
    torch.testing.assert_close(activity.state, state, atol=1e-11, rtol=0)
    loss = model.classifier(activity.read).square().sum() + activity.hidden[1].sin().sum() + activity.scores[0].sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    direct = torch.autograd.grad(loss, (state, *parameters), retain_graph=True, allow_unused=True)
    size = state.numel()
    J = torch.autograd.functional.jacobian(lambda z: network(z).state, state.detach()).reshape(size, size)
    assert J.abs().max() > 1e-2
    v = torch.linalg.inv(torch.eye(size, dtype=torch.float64) - J).T @ direct[0].flatten()
    through = torch.autograd.grad(activity.state, parameters, v.view_as(state), allow_unused=True)
    for name, parameter, a, b in zip(names, parameters, direct[1:], through, strict=True):
        expected = sum((g for g in (a, b) if g is not None), torch.zeros_like(parameter))
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-7, msg=name)


def test_the_gradient_is_that_of_finite_differences():
    model, ids = tiny(solver="anderson")
    loss_of(model.details(ids)).backward()
    step = 1e-6
    names = ("embeddings.norm.bias", "encoder.0.output.bias", "encoder.1.attention.value.weight",
             "encoder.0.neurons.log_threshold", "feedback.weights.0.weight", "feedback.weights.1.weight")  # fmt: skip
    moved = 0
    for name in names:
        parameter = model.get_parameter(name)
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(0, flat.numel(), max(1, flat.numel() // 4)):
            values = []
            for sign in (1, -1):
                flat[index] += sign * step
                with torch.no_grad():
                    values.append(float(loss_of(model.details(ids))))
                flat[index] -= sign * step
            difference = (values[0] - values[1]) / (2 * step)
            assert difference == pytest.approx(float(gradient[index]), rel=1e-4, abs=1e-6), (name, index)
            moved += abs(difference) > 1e-3
    assert moved > 10


@pytest.mark.parametrize("mode", ["equilibrium", "simulated", "surrogate"])
def test_without_weight_feedback_changes_nothing(ids, mode):
    model, plain = connected(gain=0.0), build(**STEP)
    plain.load_state_dict(model.state_dict(), strict=False)
    gradients = []
    for network in (model, plain):
        network.mode = mode
        details = network.details(ids)
        loss_of(details).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert set(gradients[0]) - set(gradients[1]) == {"feedback.weights.0.weight"}
    assert gradients[0].pop("feedback.weights.0.weight").abs().max() > 0  # so it is trained from there
    for name, gradient in gradients[1].items():
        tolerance = 1e-5 * float(gradient.abs().max()) if mode == "surrogate" else 0.0  # sums over time, in parts
        torch.testing.assert_close(gradients[0][name], gradient, atol=tolerance, rtol=0, msg=name)


def test_feedback_arrives_a_step_later(ids):
    """The spikes of a run, fed as a given current, bring forth the very same spikes in a run of all steps at once."""
    model = connected(feedback=((2, 0), (2, 1)), T=9, weights="ternary", gain=10.0)
    model.mode = "surrogate"
    mask = torch.zeros(())
    with torch.no_grad():
        current = model.embeddings(ids, None)
        parts = list(time_steps(model, current, mask))
        state = torch.cat([part.state for part in parts], 1)
        assert state.shape[:2] == (1, 9)
        late = torch.cat([torch.zeros_like(state[:, :1]), state[:, :-1]], 1)
        whole = model.run(current.expand(9, *current.shape), mask, model.feedback(late))
        apart = model.run(current.expand(9, *current.shape), mask)
    assert torch.equal(whole.state, state)
    assert not torch.equal(apart.state, state)


def test_frameworks_give_the_very_spikes_with_feedback(ids):
    for signed, names in ((False, ("snntorch", "spikingjelly")), (True, ("spikingjelly",))):
        own = connected(T=7, weights="ternary", signed=signed, gain=5.0)
        own.mode = "surrogate"
        expected, _ = rates_of(own)
        own(ids)
        for name in names:
            other = connected(T=7, weights="ternary", signed=signed, neurons=name)
            other.load_state_dict(own.state_dict())
            other.mode = "surrogate"
            found, _ = rates_of(other)
            other(ids).sum().backward()
            assert len(found) == len(expected) == 7 * 13
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert other.feedback.weights[0].weight.grad.abs().max() > 0


def test_simulated_has_the_value_of_all_steps_and_an_implicit_gradient(ids):
    model = connected(T=8, weights="ternary")
    model.mode = "surrogate"
    expected = model.details(ids)
    model.mode = "simulated"
    found = model.details(ids)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    for a, b in zip(found.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    found.logits.square().sum().backward()
    assert model.implicit.forward_report is None
    assert model.implicit.backward_report.evaluations > 1
    assert model.feedback.weights[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("profile", ["reference", "integer"])
def test_the_simulation_does_not_depend_on_how_many_steps_go_together(ids, profile, monkeypatch):
    model = build(**STEP, T=9, weights="ternary", leak=0.9, profile=profile)
    expected = model.details(ids)
    for together in (1, 9):
        monkeypatch.setattr("snn_extreme_quant.models.bert.running._TOGETHER", together)
        found = model.details(ids)
        for a, b in zip(found.hidden, expected.hidden, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_long_simulations_approach_the_equilibrium(ids):
    errors = []
    for T in (4, 16, 64):
        model = connected(T=T, start=0.5, gain=2.0)
        with torch.no_grad():
            simulated = model.details(ids).hidden
            model.mode = "equilibrium"
            settled = model.details(ids).hidden
        errors.append([float((a - b).abs().mean()) for a, b in zip(simulated, settled, strict=True)])
    assert model.implicit.forward_report.evaluations > 4
    assert errors[2][0] < errors[0][0] / 4  # of the input neurons, which are fed
    for first, second in itertools.pairwise(errors):
        assert all(b < 0.75 * a for a, b in zip(first, second, strict=True))


def test_what_does_not_settle_is_an_error(ids):
    model = connected(gain=300.0)
    model.mode = "equilibrium"
    with pytest.raises(EquilibriumError, match=r"spectral radius .* feeds back smaller"):
        model(ids)
    model.mode = "simulated"  # takes any rates, but its gradient has no solution either
    with pytest.raises(EquilibriumError, match="backward"):
        model(ids).square().sum().backward()
    with torch.no_grad():
        assert torch.isfinite(model(ids)).all()
    model = connected(gain=300.0, solver_failure="warn")
    model.mode = "equilibrium"
    with pytest.warns(RuntimeWarning, match="least residual"):
        model(ids).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_dropout_and_autocast(ids):
    model = connected(dropout=0.3).train()
    model.mode = "equilibrium"
    torch.manual_seed(0)
    first = model(ids)
    first.square().sum().backward()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        details = model.details(ids)
    torch.testing.assert_close(details.logits.float(), first, atol=0.1, rtol=0.1)
    assert details.hidden[-1].dtype == torch.float32
    assert not torch.equal(model(ids), first)  # other masks


def test_files_copies_and_precisions(ids, tmp_path):
    model = connected(weights="ternary", T=4, gain=1.0)
    for packed in (False, True):
        model.save_pretrained(tmp_path / str(packed), packed)
        twin = SpikingBert.from_pretrained(tmp_path / str(packed))
        assert twin.config.feedback == ((2, 0),)
        assert torch.equal(twin(ids), model(ids))
    model(ids).sum().backward()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.feedback.weights[0].weight.neg_()
    assert not torch.equal(twin(ids), model(ids))
    assert set(model.feedback.weights[0].integer_weight()[0].unique().tolist()) == {-1.0, 0.0, 1.0}
    model.set_weights("float")
    assert type(model.feedback.weights[0]) is torch.nn.Linear


def test_a_student_starts_without_effect_of_its_feedback(tmp_path):
    teacher = save_teacher(tmp_path / "teacher")
    texts = [f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:10]]
    options = {"texts": texts, "schedule": "step", "T": 8}
    ids = torch.randint(5, 20, (2, 6), generator=torch.Generator().manual_seed(2))
    model = SpikingBert.from_teacher(teacher, feedback=[[2, 0]], **options).eval()
    assert torch.equal(model(ids), SpikingBert.from_teacher(teacher, **options).eval()(ids))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feedback": ((0, 2),)}, "from > to"),
        ({"feedback": ((3, 0),)}, "layers=2"),
        ({"feedback": ((2, 0), (2, 0))}, "once"),
        ({"feedback": 2}, r"\(6, 0\)"),
        ({"feedback": ((2, 0.0),)}, "pairs"),
        ({"feedback": ((2, 0),), "schedule": "synchronous"}, "wait for each other"),
        ({"feedback": ((2, 0),), "solver": "newton"}, "'broyden'"),
        ({"feedback": ((2, 0),), "solver_tolerance": 0.0}, "solver_tolerance"),
        ({"feedback": ((2, 0),), "solver_evaluations": 0}, "solver_evaluations"),
        ({"feedback": ((2, 0),), "solver_failure": "ignore"}, "'warn'"),
        ({"solver": "anderson"}, "only feedback"),
        ({"solver_tolerance": 1e-3}, "only feedback"),
    ],
)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        SpikingBertConfig(**{"schedule": "step", "layers": 2, **options})


def test_jumps_have_no_steady_state(ids):
    model = connected(profile="integer", gain=1.0)
    with pytest.raises(ConfigError, match="jump"):
        model.mode = "equilibrium"
    model(ids).square().sum().backward()
    assert model.feedback.weights[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["equilibrium", "simulated"])
@pytest.mark.filterwarnings(
    "ignore:No fixed point:RuntimeWarning"
)  # at simulated rates the radius may pass 1 on the way
def test_a_network_with_feedback_learns(mode):
    """Whether two words of a sentence are the same."""
    torch.manual_seed(0)
    options = {"schedule": "step", "T": 8, "feedback": ((2, 0), (2, 1)), "solver": "anderson", "weights": "ternary"}
    model = SpikingBert(SpikingBertConfig(**SMALL, **options, solver_failure="warn", solver_evaluations=20))
    model.mode = mode
    ids = torch.randint(40, (16, 5), generator=torch.Generator().manual_seed(0))
    ids[::2, 3] = ids[::2, 1]
    labels = (ids[:, 3] == ids[:, 1]).long()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    before = {name: p.detach().clone() for name, p in model.feedback.named_parameters()}
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(ids), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.feedback.named_parameters())
