"""Sums that depend on no order, exponentials that depend on no place in an array, and the average of wkv."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.models.gpt.exact import exponential, norm, on_grid, product, reach, sigmoid
from snn_extreme_quant.models.gpt.wkv import weighted_average
from snn_extreme_quant.replace import quantize_

PRECISIONS = [
    None,
    sxq.Ternary(),
    sxq.Binary(),
    sxq.Uniform(8),
    sxq.Ternary(per="group", group_size=48),
    sxq.Uniform(4, per="group", group_size=48),
]


def linear(config, inputs, outputs):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(inputs, outputs, bias=False))
    if config is not None:
        quantize_(net, config)
    return net.eval()[0]


@pytest.mark.parametrize("config", PRECISIONS, ids=str)
@pytest.mark.parametrize("kind", ["norm", "square"])
def test_products_do_not_depend_on_order(config, kind):
    layer = linear(config, 500, 33)
    x = torch.randn(64, 500, generator=torch.Generator().manual_seed(1)) * (20 if kind == "square" else 3)
    every = product(layer, x, kind)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(2))
    alone = torch.stack([product(layer, row[None], kind)[0] for row in x])
    assert torch.equal(every, alone)
    if config is None:
        shuffled = linear(config, 500, 33)
        with torch.no_grad():
            shuffled.weight.copy_(layer.weight[:, order])
        assert torch.equal(product(shuffled, x[:, order], kind), every)
    bits, most = reach(layer, 500, kind)
    near = F.linear(
        x.clamp(-most, most).double(), layer.to_float().weight.double() if config else layer.weight.double()
    )
    torch.testing.assert_close(every.double(), near, atol=2.0**-bits * 30, rtol=1e-5)


def test_groups_of_wide_codes_are_summed_exactly():
    config = sxq.Uniform(4, per="group", group_size=48)
    layer = linear(config, 100, 9)
    x = torch.randn(7, 100, generator=torch.Generator().manual_seed(1)) * 3
    codes, scale = layer.integer_weight()
    units = on_grid(x, *reach(layer, 100, "norm")).double()
    wanted = torch.zeros(7, 9)
    for group in range(3):
        columns = slice(48 * group, 48 * group + 48)
        wanted = wanted + (units[:, columns] @ codes[:, columns].double().T).float() * scale[:, group]
    assert torch.equal(product(layer, x, "norm"), wanted)


@pytest.mark.parametrize("config", [sxq.Ternary(), sxq.Binary()], ids=str)
@pytest.mark.parametrize("inputs", [3, 500, 768, 3072])
def test_the_largest_sum_of_packed_codes_is_a_whole_number_in_float32(config, inputs):
    layer = linear(config, inputs, 2)
    for kind in ("norm", "square"):
        bits, most = reach(layer, inputs, kind)
        assert inputs * most * 2.0**bits <= 2.0**24 < 4 * inputs * most * 2.0**bits


def test_the_grid():
    x = torch.tensor([0.1, 0.25, -0.375, 5.0, -5.0, 1e-20], requires_grad=True)
    y = on_grid(x, 2, 4.0)
    assert y.tolist() == [0.0, 0.25, -0.5, 4.0, -4.0, 0.0]  # ties to even
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]


def test_float_weights_that_change_are_rounded_anew():
    layer = linear(None, 20, 4)
    x = torch.randn(3, 20)
    before = product(layer, x, "norm")
    with torch.no_grad():
        layer.weight.mul_(2.0)
    assert torch.equal(product(layer, x, "norm"), 2.0 * before)
    layer.weight.data.mul_(2.0)
    assert torch.equal(product(layer, x, "norm"), 4.0 * before)


def test_gradients_of_products_in_both_modes():
    layer = linear(None, 20, 4)
    x = torch.randn(3, 20)
    found = []
    for training in (True, False):
        layer.train(training)
        given = x.clone().requires_grad_()
        layer.zero_grad()
        product(layer, given, "norm").square().sum().backward()
        found.append((given.grad, layer.weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [2, 37, 256])
def test_norm(size):
    torch.manual_seed(0)
    layer = nn.LayerNorm(size)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = on_grid(torch.randn(5, 3, size) * 9 + 20, 10, 1024.0).requires_grad_()
    weights = torch.randn(5, 3, size)
    results = []
    for run in (lambda: norm(layer, x), lambda: layer(x)):
        y = run()
        results.append((y, *torch.autograd.grad((y * weights).sum(), (x, layer.weight, layer.bias))))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, atol=2e-4, rtol=2e-4)
    order = torch.randperm(size)
    mixed = nn.LayerNorm(size)
    mixed.load_state_dict({name: value[order] for name, value in layer.state_dict().items()})
    assert torch.equal(norm(mixed, x[..., order]), norm(layer, x)[..., order])


def test_exponentials():
    x = torch.linspace(-87.0, 88.0, 200_004)
    exact = x.double().exp()
    assert ((exponential(x).double() - exact) / exact).abs().max() < 2.0**-22
    assert exponential(torch.tensor([-1e9, 1e9])).tolist() == exponential(torch.tensor([-87.0, 88.0])).tolist()
    torch.testing.assert_close(sigmoid(x), x.sigmoid())
    every = exponential(x)
    for start, stop in ((1, 200), (7, 20), (3, 4), (101, 150_000)):  # another place in an array, another end
        assert torch.equal(exponential(x[start:stop].clone()), every[start:stop])
    assert torch.equal(exponential(x.view(-1, 3)[:, 1]), every.view(-1, 3)[:, 1])


def terms(tokens=40, size=9, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    key, value = (torch.randn(tokens, 2, size, generator=generator) * s for s in (scale, 1.0))
    decay, first = (torch.randn(size, generator=generator) for _ in range(2))
    return decay, first, key, value


def published(decay, first, key, value):
    """The recurrence with a running maximum, in float64."""
    w, u = -decay.double().exp(), first.double()
    a = b = torch.zeros_like(key[0]).double()
    p = torch.full_like(a, -1e30)
    found = []
    for k, v in zip(key.double(), value.double(), strict=True):
        q = torch.maximum(p, u + k)
        e, f = (p - q).exp(), (u + k - q).exp()
        found.append((e * a + f * v) / (e * b + f))
        q = torch.maximum(p + w, k)
        e, f = (p + w - q).exp(), (k - q).exp()
        a, b, p = e * a + f * v, e * b + f, q
    return torch.stack(found)


@pytest.mark.parametrize("scale", [0.5, 5.0, 20.0])
def test_wkv_is_the_published_one(scale):
    decay, first, key, value = terms(200, scale=scale)
    key = key.clamp(-60, 60)
    zero = torch.zeros(2, 9)
    found = weighted_average(decay, first, key, value, zero, zero)[0]
    torch.testing.assert_close(found.double(), published(decay, first, key, value), rtol=1e-5, atol=1e-5)


def test_wkv_of_a_long_text_that_forgets_nothing():
    _, first, key, value = terms(4000)
    zero, decay = torch.zeros(2, 9), torch.tensor([-9.0, -11.0, -14.0]).repeat(3)
    found = weighted_average(decay, first, key, value, zero, zero)[0]
    torch.testing.assert_close(found.double(), published(decay, first, key, value), rtol=0.0, atol=1e-5)


def test_wkv_stays_finite():
    decay, first, key, value = terms(300)
    zero = torch.zeros(2, 9)
    for k, d, u in ((1e4, 0.0, 0.0), (-1e4, 9.0, 50.0), (1e4, -200.0, 50.0), (-1e4, 200.0, -50.0)):
        args = [(decay * 0 + d).requires_grad_(), (first * 0 + u).requires_grad_(), (key * k).requires_grad_(), value]
        found, a, b = weighted_average(*args, zero, zero)
        assert found.abs().max() <= value.abs().max() * 1.001  # an average
        found.square().sum().backward()
        for tensor in (a, b, *(arg.grad for arg in args[:3])):
            assert torch.isfinite(tensor).all()


def test_gradients_of_wkv():
    decay, first, key, value = (x.clone().requires_grad_() for x in terms(15))
    zero = torch.zeros(2, 9)
    ours = weighted_average(decay, first, key, value, zero, zero)[0]
    theirs = published(decay, first, key, value)
    weights = torch.randn(15, 2, 9)
    inputs = (decay, first, key, value)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_pass_from_piece_to_piece():
    decay, first, key, value = (x.clone().requires_grad_() for x in terms(20))
    zero = torch.zeros(2, 9)
    whole = weighted_average(decay, first, key, value, zero, zero)
    begin = weighted_average(decay, first, key[:8], value[:8], zero, zero)
    rest = weighted_average(decay, first, key[8:], value[8:], *begin[1:])
    assert torch.equal(torch.cat((begin[0], rest[0])), whole[0])
    weights, inputs = torch.randn(12, 2, 9), (decay, first, key, value)
    loss = [
        (part * weights).sum() + total.square().sum() for part, total in ((whole[0][8:], whole[1]), (rest[0], rest[1]))
    ]
    for one, other in zip(*(torch.autograd.grad(part, inputs) for part in loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
