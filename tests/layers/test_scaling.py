"""Sums in a narrow type times scales: what torch gives, and its gradients."""

from __future__ import annotations

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.layers import scaling
from snn_extreme_quant.layers.scaling import fits, scaled


@pytest.mark.parametrize("piece", [1, 50, 10_000])
def test_it_is_the_product(piece, monkeypatch):
    monkeypatch.setattr(scaling, "_PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(3, 7, 20, generator=generator).bfloat16().requires_grad_()
    scale = torch.rand(20, generator=generator).requires_grad_()
    weights = torch.randn(3, 7, 20, generator=generator)
    ours, theirs = scaled(sums, scale), sums * scale
    assert torch.equal(ours, theirs)
    found = [torch.autograd.grad((y * weights).sum(), (sums, scale)) for y in (ours, theirs)]
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_what_it_is_for():
    sums, scale = torch.ones(2, 4).bfloat16(), torch.ones(4)
    assert fits(sums, scale)
    assert not fits(sums.float(), scale)
    assert not fits(sums.double(), scale)
    assert not fits(sums, scale.view(4, 1))
    assert not fits(sums[:0], scale)
    assert not fits(torch.ones(4, 2).bfloat16().T, scale)


def test_a_layer_under_autocast_takes_it(monkeypatch):
    calls = []
    monkeypatch.setattr("snn_extreme_quant.layers.integer_first.scaled", lambda *a: calls.append(1) or scaled(*a))
    layer, x = sxq.layers.Linear(6, 4, bias=False), torch.randn(5, 6)
    codes, scale = layer.integer_weight()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert calls == [1]
    assert torch.equal(found, (x.bfloat16() @ codes.T.bfloat16()) * scale)
    layer(x)
    assert calls == [1]
