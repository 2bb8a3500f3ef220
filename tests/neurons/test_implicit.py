from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from snn_extreme_quant.errors import ConfigError, EquilibriumError, MissingDependencyError
from snn_extreme_quant.neurons.equilibrium import steady_state
from snn_extreme_quant.neurons.fixed_point_solvers import Solver, solve_fixed_point, spectral_radius
from snn_extreme_quant.neurons.implicit import ImplicitLayer

METHODS = ("iteration", "anderson", "broyden")
SIZE = 12


class Recurrent(nn.Module):
    """Rates a = clip((W a + U x) / threshold, -1, 1), half of them away from the clip; read by a loss."""

    def __init__(self, radius: float = 0.8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        weight *= radius / torch.linalg.eigvals(weight).abs().max()
        self.weight = nn.Parameter(weight)
        self.input = nn.Parameter(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
        self.threshold = nn.Parameter(torch.linspace(0.9, 1.6, SIZE, dtype=torch.float64))
        self.x = torch.randn(3, SIZE, generator=generator, dtype=torch.float64) * 0.3

    def currents(self, a):
        return a @ self.weight.T + self.x @ self.input.T

    def forward(self, a):
        return steady_state(self.currents(a), self.threshold, signed=True)


@pytest.fixture
def start():
    return torch.zeros(3, SIZE, dtype=torch.float64)


def test_a_report_is_a_line_without_the_state(start):
    layer = ImplicitLayer(Solver(tolerance=1e-3))
    layer(lambda a: (0.5 * a + 1.0,), start)
    report = layer.forward_report
    told = f"Solution(evaluations=11, residual={report.residual:.3g}, value=(3, {SIZE}) of torch.float64)"
    assert repr(report) == str(report) == told


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_the_dense_inverse(start, method):
    net = Recurrent()
    layer = ImplicitLayer(Solver(method, tolerance=1e-11, evaluations=300))
    (rates,) = layer(lambda a: (net(a),), start)
    torch.testing.assert_close(rates, net(rates), atol=1e-10, rtol=0)
    inside = (rates.abs() < 1).double()
    assert 0.3 < inside.mean() < 1  # some are clipped, some are not
    readout = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (rates * readout).sum().backward()

    a, g, threshold = rates.detach(), readout, net.threshold.detach()
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for sample in range(3):
        slope = inside[sample] / threshold  # da/d current
        J = slope[:, None] * net.weight.detach()
        v = torch.linalg.inv(torch.eye(SIZE, dtype=torch.float64) - J).T @ g[sample]
        expected["weight"] += (v * slope)[:, None] * a[sample][None, :]
        expected["input"] += (v * slope)[:, None] * net.x[sample][None, :]
        expected["threshold"] -= v * inside[sample] * net.currents(a)[sample].detach() / threshold**2
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-8, rtol=0)
    assert layer.forward_report.residual <= 1e-11
    assert layer.backward_report.evaluations > 1


def test_the_gradient_is_that_of_finite_differences(start):
    net, layer = Recurrent(), ImplicitLayer(Solver("anderson", tolerance=1e-13, evaluations=300))

    def loss():
        rates, currents = layer(lambda a: (net(a), net.currents(a)), start)
        return rates.square().sum() + torch.sin(currents).sum()

    loss().backward()
    step = 1e-6
    for parameter in net.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(0, flat.numel(), 17):
            values = []
            for sign in (1, -1):
                flat[index] += sign * step
                with torch.no_grad():
                    values.append(float(loss()))
                flat[index] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient[index]), rel=1e-5, abs=1e-7)


def test_anderson_needs_fewer_evaluations_and_all_methods_agree(start):
    net = Recurrent(0.87)  # times up to 1 / 0.9
    found = {m: solve_fixed_point(net, start, Solver(m, tolerance=1e-9, evaluations=2000)) for m in METHODS}
    for solution in found.values():
        torch.testing.assert_close(solution.value, found["iteration"].value, atol=1e-6, rtol=0)
    assert found["anderson"].evaluations < found["iteration"].evaluations / 2
    assert found["broyden"].evaluations < found["iteration"].evaluations / 2


def test_damping_settles_what_swings():
    swinging = lambda a: -1.5 * a + 1.0  # noqa: E731
    with pytest.raises(EquilibriumError, match="100 evaluations"):
        solve_fixed_point(swinging, torch.zeros(2))
    assert solve_fixed_point(swinging, torch.zeros(2), Solver(damping=0.5)).value.tolist() == pytest.approx(
        [0.4, 0.4], abs=1e-5
    )


def test_what_does_not_settle_is_an_error_that_tells_the_radius(start):
    net = Recurrent(3.0)
    with pytest.raises(EquilibriumError, match=r"after 40 evaluations by 'iteration'.*spectral radius") as caught:
        ImplicitLayer(Solver(evaluations=40))(lambda a: (net(a),), start)
    assert caught.value.solution.residual > 1e-5
    linear = lambda a: (1.5 * a + 0.1,)  # noqa: E731
    with pytest.raises(EquilibriumError, match=r"about 1\.5: .* feeds back smaller"):
        ImplicitLayer()(linear, torch.zeros(2))
    with pytest.raises(EquilibriumError, match="residual is inf"):
        ImplicitLayer()(lambda a: (a * torch.nan,), torch.zeros(2))


@pytest.mark.parametrize(("dtype", "remedy"), [(torch.float32, ", or compute in float64"), (torch.float64, "")])
def test_a_residual_of_rounding_alone_asks_for_no_more_evaluations(dtype, remedy):
    unit = 4 * torch.finfo(dtype).eps
    jumping = lambda a: (0.5 * a + 0.5 + torch.where(a >= 1.0, -unit, unit),)  # noqa: E731
    with pytest.raises(EquilibriumError, match=rf"rounding of {dtype} .* Use a larger tolerance{remedy}\.$"):
        ImplicitLayer(Solver(tolerance=1e-20))(jumping, torch.zeros(3, dtype=dtype))
    with pytest.raises(EquilibriumError, match="allow more evaluations"):
        ImplicitLayer(Solver(tolerance=1e-20, evaluations=10))(jumping, torch.zeros(3, dtype=dtype))


def test_a_gradient_that_is_not_found_is_an_error():
    weight = torch.tensor(1.5, requires_grad=True)
    layer = ImplicitLayer()
    (found,) = layer(lambda a: (weight * a,), torch.zeros(2), known=torch.zeros(2))
    with pytest.raises(EquilibriumError, match=r"backward pass\. .* about 1\.5"):
        found.sum().backward()


def test_a_warning_takes_the_place_of_the_least_residual(start):
    net = Recurrent(3.0)
    layer = ImplicitLayer(Solver(evaluations=40, failure="warn"))
    with pytest.warns(RuntimeWarning, match=r"least residual is .* spectral radius"):
        (found,) = layer(lambda a: (net(a),), start)
    report = layer.forward_report
    assert report.residual == pytest.approx(float((net(report.value) - report.value).detach().abs().max()))
    assert torch.equal(found, net(report.value))
    with pytest.warns(RuntimeWarning, match=r"backward pass"):
        found.sum().backward()
    assert torch.isfinite(net.weight.grad).all()
    with pytest.raises(EquilibriumError, match="inf"):
        layer(lambda a: (a * torch.nan,), start)


def test_a_known_place_is_not_searched_for(start):
    net, layer = Recurrent(), ImplicitLayer()
    calls = []
    known = torch.full_like(start, 0.1)
    layer(lambda a: (calls.append(a), net(a))[1:], start, known)
    assert len(calls) == 1
    assert torch.equal(calls[0], known)
    assert layer.forward_report is None


def test_one_graph_is_kept_whatever_the_iterations(start):
    net, layer = Recurrent(0.9), ImplicitLayer(Solver(tolerance=1e-9, evaluations=1000))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(lambda a: (net(a),), start)
        many, _ = len(saved), saved.clear()
        net(start.requires_grad_())
    assert layer.forward_report.evaluations > 20
    assert many == len(saved)


def test_random_numbers_are_the_same_in_all_evaluations():
    dropout = nn.Dropout(0.5)
    weight = torch.eye(50, requires_grad=True)
    torch.manual_seed(3)
    (found,) = ImplicitLayer()(lambda a: (0.4 * dropout(a @ weight) + 0.1,), torch.zeros(50))
    after = torch.rand(1)
    torch.manual_seed(3)
    kept = dropout(torch.ones(50))
    assert kept.unique().tolist() == [0.0, 2.0]
    torch.testing.assert_close(found.detach(), 0.1 / (1 - 0.4 * kept), atol=1e-4, rtol=0)
    assert torch.equal(after, torch.rand(1))  # as after one evaluation


def test_autocast_is_left_out(start):
    net = Recurrent().float()
    net.x = net.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = ImplicitLayer(Solver(tolerance=1e-6))(lambda a: (net(a),), start.float())
    assert found.dtype == torch.float32


def test_without_gradients_and_with_results_that_have_none(start):
    net, layer = Recurrent(), ImplicitLayer()
    with torch.no_grad():
        rates, other = layer(lambda a: (net(a), start), start)
    assert not rates.requires_grad
    rates, other = layer(lambda a: (net(a), start), start)
    rates.sum().backward()
    assert net.weight.grad.abs().max() > 0
    assert torch.equal(other, start)
    layer(lambda a: (net(a), net.x @ net.input), start)[1].sum().backward()  # read, but not from the state
    assert layer.backward_report is None


def test_copies_and_second_passes(start):
    net, layer = Recurrent(), ImplicitLayer()
    (rates,) = layer(lambda a: (net(a),), start)
    rates.sum().backward(retain_graph=True)
    first = net.weight.grad.clone()
    rates.sum().backward()
    torch.testing.assert_close(net.weight.grad, 2 * first)


@pytest.mark.parametrize("radius", [0.3, 1.7])
def test_spectral_radius(radius):
    net = Recurrent(radius)
    found = spectral_radius(lambda a: a @ net.weight.T, torch.zeros(1, SIZE, dtype=torch.float64), steps=400)
    assert found == pytest.approx(radius, rel=0.02)
    assert spectral_radius(torch.ones_like, torch.zeros(3)) == 0.0
    assert spectral_radius(lambda a: 0.0 * a, torch.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "newton"}, "'anderson'"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"evaluations": 0}, "evaluations"),
        ({"damping": 1.5}, "damping"),
        ({"failure": "ignore"}, "'warn'"),
    ],
)
def test_solvers_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Solver(**options)


def test_shapes_and_missing_scipy(monkeypatch):
    with pytest.raises(ConfigError, match=r"shape \(2,\)"):
        solve_fixed_point(lambda a: a.sum(), torch.zeros(2))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependencyError, match="iteration"):
        solve_fixed_point(lambda a: 0.5 * a, torch.ones(2), Solver("broyden"))
