"""Gradients, learned scales and fixed scales of the quantisers."""

import copy

import pytest
import torch
from torch import nn

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.core import Options, WeightQuant
from snn_extreme_quant.quantizers.ternary import TernaryWeightQuant
from snn_extreme_quant.quantizers.uniform import UniformWeightQuant
from tests.quantizers.references import CONFIGS, GROUP, LEARNED, quantizer_for, weight_of

SHAPES = [(7, 33), (6, 4, 3, 3), (1, 1)]


def spread(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scales (N, G) in the weight's shape."""
    groups = scale if scale.shape[1] == 1 else scale.repeat_interleave(GROUP, 1)[:, : weight.shape[1]]
    return groups.reshape(*groups.shape, *(1,) * (weight.dim() - 2)).expand_as(weight)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradient_is_that_of_the_identity(config, shape) -> None:
    """dL/dW equals dL/d(dequantised W): nothing is multiplied by the scale and none of it goes through the scale."""
    weight = weight_of(shape).requires_grad_()
    x = weight_of(shape, 1)
    dequantised, scale, zero, bits = quantizer_for(config, weight)(weight)
    ((dequantised * x).sin().sum()).backward()
    leaf = dequantised.detach().clone().requires_grad_()
    (leaf * x).sin().sum().backward()
    torch.testing.assert_close(weight.grad, leaf.grad, rtol=1e-6, atol=0)
    assert scale.requires_grad == (config.scale == "learned")
    assert zero.item() == 0
    assert bits.item() == config.bits


@pytest.mark.parametrize("config", LEARNED, ids=str)
def test_gradient_of_a_learned_scale_is_lsq(config) -> None:
    """Esser et al. 2020, equation 3 and section 2.2, summed over the weights of each scale, in float64."""
    weight = (weight_of((6, 8, 3)).double() * 2).requires_grad_()
    x = weight_of((6, 8, 3), 1).double()
    quantizer = quantizer_for(config, weight)
    codes, scale = quantizer.integer(weight)
    (codes * spread(scale, weight) * x).sum().backward()

    s, w, c = spread(quantizer.scaling.detach(), weight), weight.detach(), codes.detach()
    inside = ((w / s).abs() < 1) & isinstance(config, Ternary)
    assert inside.any() == isinstance(config, Ternary)
    terms = x * torch.where(inside, (w / s).round() - w / s, c)
    count = {"tensor": [144.0], "channel": [24.0], "group": [9.0, 9.0, 6.0]}[config.per]
    if config.per == "tensor":
        sums = terms.sum().view(1, 1)
    else:
        parts = [terms] if config.per == "channel" else terms.split(GROUP, 1)
        sums = torch.stack([part.flatten(1).sum(1) for part in parts], 1)
    want = sums / torch.tensor(count, dtype=torch.float64).sqrt()
    torch.testing.assert_close(quantizer.scaling.grad, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", LEARNED, ids=str)
def test_a_learned_scale_starts_at_the_least_squares_one(config) -> None:
    weight = weight_of((6, 8))
    grain = {"per": config.per, "group_size": config.group_size}
    start = Binary(**grain) if isinstance(config, Binary) else Ternary(scale="mse", **grain)
    quantizer = quantizer_for(config, weight)
    assert torch.equal(quantizer.integer(weight)[1], quantizer_for(start, weight).integer(weight)[1])
    rows = 1 if config.per == "tensor" else 6
    assert quantizer.scaling.shape == (rows, 3 if config.per == "group" else 1)


def test_a_learned_scale_is_used_by_its_magnitude_and_never_vanishes() -> None:
    weight = torch.tensor([[0.5, -0.5, 0.1], [0.5, -0.5, 0.1]])
    quantizer = quantizer_for(Ternary(scale="learned"), weight)
    with torch.no_grad():
        quantizer.scaling.copy_(torch.tensor([[-0.4], [0.0]]))
    codes, scale = quantizer.integer(weight)
    torch.testing.assert_close(scale.detach(), torch.tensor([[0.4], [1e-5]]))
    assert codes.tolist() == [[1, -1, 0], [1, -1, 1]]
    (codes * scale).sum().backward()
    # The gradient passes the floor, and follows the sign of the parameter.
    assert (quantizer.scaling.grad != 0).all()
    scale_grad = torch.tensor([[1 - 1 + (0 - 0.25)], [1.0]]) / 3**0.5
    torch.testing.assert_close(quantizer.scaling.grad, scale_grad * torch.tensor([[-1.0], [1.0]]))


def test_training_a_learned_scale_lowers_the_error() -> None:
    weight = weight_of((4, 64)) * 3
    quantizer = quantizer_for(Ternary(scale="learned"), weight)
    with torch.no_grad():
        quantizer.scaling.mul_(3)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        error = (quantizer(weight)[0] - weight).square().sum()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    best = quantizer_for(Ternary(scale="mse"), weight)(weight)[0]
    assert errors[-1] < 0.8 * errors[0]
    assert errors[-1] < 1.05 * (best - weight).square().sum().item()


@pytest.mark.parametrize("config", [Ternary(), *LEARNED], ids=str)
def test_codes_serve_several_backward_passes(config) -> None:
    weight = weight_of((3, 8)).requires_grad_()
    quantizer = quantizer_for(config, weight)
    codes, scale = quantizer.integer(weight)
    for _ in range(2):
        (codes * spread(scale, weight)).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 2.0), rtol=1e-6, atol=0)
    if config.scale == "learned":
        twice = quantizer.scaling.grad.clone()
        quantizer.scaling.grad = None
        codes, scale = quantizer.integer(weight)
        (codes * spread(scale, weight)).sum().backward()
        torch.testing.assert_close(twice, 2 * quantizer.scaling.grad)


def test_gradient_through_codes_alone_is_divided_by_the_scale() -> None:
    """An integer-first layer multiplies by the scale afterwards, which gives the identity again."""
    weight = weight_of((3, 8)).requires_grad_()
    codes, scale = TernaryWeightQuant("channel").integer(weight)
    codes.sum().backward()
    torch.testing.assert_close(weight.grad, (1 / scale).expand_as(weight), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_graph_without_need(config) -> None:
    weight = weight_of((3, 8))
    quantizer = quantizer_for(config, weight).requires_grad_(False)
    assert not any(t.requires_grad for t in quantizer.integer(weight))
    weight.requires_grad_()
    with torch.no_grad():
        assert not any(t.requires_grad for t in quantizer.requires_grad_(True).integer(weight))


# Fixed scales.


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_fixed_scale_is_used_until_it_is_taken_back(config) -> None:
    weight = weight_of((6, 8))
    quantizer = quantizer_for(config, weight)
    codes, scale = quantizer.integer(weight)
    quantizer.fix_scale(scale)
    assert "fixed_scale" in quantizer.state_dict()
    fixed = quantizer.integer(2 * weight)
    assert torch.equal(fixed[1], scale)
    if not isinstance(config, Binary):
        want = (2 * weight / spread(scale, weight)).round().clamp(-quantizer.largest, quantizer.largest)
        assert torch.equal(fixed[0], want)
    quantizer.fix_scale(None)
    assert "fixed_scale" not in quantizer.state_dict()
    again = quantizer.integer(weight)
    assert torch.equal(again[0], codes)
    assert torch.equal(again[1], scale)


@pytest.mark.parametrize("config", [c for c in CONFIGS if not getattr(c, "center", False)], ids=str)
def test_codes_of_a_lattice_point_are_reproduced(config) -> None:
    """With the scale fixed, codes times scale quantise to themselves."""
    weight = weight_of((6, 8, 3)) * 5
    quantizer = quantizer_for(config, weight)
    with torch.no_grad():
        codes, scale = quantizer.integer(weight)
        quantizer.fix_scale(scale)
        assert torch.equal(quantizer.integer(codes * spread(scale, weight))[0], codes)


def test_fix_scale_takes_a_vector() -> None:
    quantizer = TernaryWeightQuant("channel")
    quantizer.fix_scale(torch.tensor([0.5, 2.0]))
    assert quantizer.integer(torch.ones(2, 3))[0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert quantizer.integer(torch.ones(2, 3))[1].tolist() == [[0.5], [2.0]]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.tensor([0.5, 0.0]), "not all positive and finite"),
        (torch.tensor([0.5, -1.0]), "not all positive and finite"),
        (torch.tensor([0.5, torch.nan]), "not all positive and finite"),
        (torch.tensor([0.5, torch.inf]), "not all positive and finite"),
        (torch.tensor(0.5), r"got shape \(\)\."),
        (torch.ones(2, 1, 1), r"got shape \(2, 1, 1\)"),
    ],
)
def test_fixed_scales_that_mean_nothing(scale, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TernaryWeightQuant("channel").fix_scale(scale)


def test_a_fixed_scale_is_a_tensor() -> None:
    with pytest.raises(ConfigError, match="takes a tensor or None; got float"):
        TernaryWeightQuant("channel").fix_scale(0.5)


def test_a_fixed_scale_for_another_weight_is_refused() -> None:
    quantizer = TernaryWeightQuant("channel")
    quantizer.fix_scale(torch.ones(3))
    with pytest.raises(ConfigError, match=r"scale has shape \(3, 1\), but a weight of shape \(2, 3\) needs \(2, 1\)"):
        quantizer.integer(torch.ones(2, 3))


@pytest.mark.parametrize("config", [Ternary(), Ternary(scale="learned"), Uniform(4, per="group", group_size=GROUP)])
def test_a_fresh_quantiser_loads_a_fixed_scale(config) -> None:
    weight = weight_of((6, 8))
    source, target = (quantizer_for(config, weight) for _ in range(2))
    source.fix_scale(source.integer(weight)[1] * 1.5)
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(target.integer(weight)[1], source.integer(weight)[1])
    other = copy.deepcopy(target)
    other.fix_scale(None)
    assert not torch.equal(other.integer(weight)[1], target.integer(weight)[1])


def test_a_learned_scale_needs_a_weight() -> None:
    with pytest.raises(ConfigError, match="needs the weight it starts from"):
        TernaryWeightQuant("channel", scale="learned")


def test_the_base_class_alone_is_no_scheme() -> None:
    with pytest.raises(NotImplementedError):
        WeightQuant(Options("tensor")).integer(torch.ones(1, 2))


def test_uniform_keeps_no_state() -> None:
    assert not UniformWeightQuant("channel").state_dict()
    assert not list(nn.Module.parameters(UniformWeightQuant("channel")))
