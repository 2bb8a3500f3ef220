"""Chains of operations in pieces: the bits of the operations one after the other, and their gradients."""

from __future__ import annotations

import pytest
import torch

from snn_extreme_quant.models.gpt import chains
from snn_extreme_quant.models.gpt.chains import Grid, added, gated, mixed, squared
from snn_extreme_quant.models.gpt.exact import on_grid, sigmoid

GRIDS = [None, Grid(3, 2.0), Grid(3, 2.0, torch.bfloat16)]


@pytest.fixture(autouse=True, params=[1, 30, 10_000], ids="piece {}".format)
def pieces(request, monkeypatch):
    monkeypatch.setattr(chains, "PIECE", request.param)


def numbers(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()


def put(x, grid):
    return x if grid is None else on_grid(x, grid.bits, grid.most).to(grid.dtype)


def assert_same(ours, theirs, inputs, rtol=1e-5):
    """Compare results bit for bit, and gradients."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    weights = [numbers(*one.shape, seed=9).detach().to(one.dtype) for one in ours]
    found = [
        torch.autograd.grad(sum((w * y).float().sum() for w, y in zip(weights, side, strict=True)), inputs)
        for side in (ours, theirs)
    ]
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("tokens", "batch"), [(1, 3), (7, 1), (5, 4)])
def test_mixed(grid, tokens, batch):
    y, first = numbers(tokens, batch, 6), numbers(batch, 6, seed=1)
    shares = [numbers(1, 1, 6, seed=2), numbers(1, 1, 6, seed=3)]
    before = torch.cat((first.unsqueeze(0), y[:-1]))
    plain = [put(y * share + before * (1.0 - share), grid) for share in shares]
    assert_same(mixed(y, first, shares, [grid, grid]), plain, [y, first, *shares])


def test_each_share_has_its_own_grid():
    y, first, share = numbers(4, 2, 3), numbers(2, 3, seed=1), numbers(3, seed=2)
    found = mixed(y, first, [share] * 3, GRIDS)
    assert [part.dtype for part in found] == [torch.float32, torch.float32, torch.bfloat16]
    assert torch.equal(found[1], put(found[0], GRIDS[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_squared(grid, dtype):
    x = numbers(5, 2, 6, dtype=dtype)
    assert_same([squared(x, grid)], [put(x.float().relu().square(), grid)], [x])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gated(grid, dtype):
    x, value = numbers(5, 2, 6, dtype=dtype), numbers(5, 2, 6, seed=1, dtype=dtype)
    plain = put(sigmoid(x.float()) * value.float(), grid)
    assert_same([gated(x, value, grid)], [plain], [x, value], rtol=1e-5 if dtype == torch.float32 else 1e-2)


def test_added():
    x, other = on_grid(numbers(5, 6), 2, 4.0), on_grid(numbers(5, 6, seed=1), 2, 4.0)
    assert_same([added(x, other, 4.0)], [on_grid(x + other, 2, 4.0)], [x, other])
