"""A train stands where a tensor stood: shapes change step by step, products add up over steps, all else reads rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import SpikeTrain


def spikes(*shape: int, seed: int = 0, signed: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1 if signed else 0, 2, shape, generator=generator).float()


MOVES: list[Callable[[Any], Any]] = [
    lambda x: x.flatten(),
    lambda x: x.flatten(1),
    lambda x: torch.flatten(x, 1, 2),
    lambda x: x.flatten(start_dim=-2),
    nn.Flatten(),
    lambda x: x.reshape(2, 12),
    lambda x: x.reshape((6, -1)),
    lambda x: torch.reshape(x, (4, 6)),
    lambda x: x.view(2, -1),
    lambda x: x.unflatten(-1, (2, 2)),
    nn.Unflatten(2, (2, 2)),
    lambda x: x.permute(2, 0, 1),
    lambda x: x.permute((0, -1, 1)),
    lambda x: torch.permute(x, (1, 0, 2)),
    lambda x: x.transpose(0, 1),
    lambda x: torch.transpose(x, -1, -2),
    lambda x: x.swapaxes(1, 2),
    lambda x: x.movedim(0, -1),
    lambda x: x.movedim((0, 1), (1, 2)),
    lambda x: x.unsqueeze(0),
    lambda x: x.unsqueeze(-1),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: x.unsqueeze(1).squeeze(),
    lambda x: x.squeeze(),
    lambda x: x.narrow(1, 1, 2),
    lambda x: x.select(-1, 2),
    lambda x: x[0],
    lambda x: x[:, 1:],
    lambda x: x[..., -1],
    lambda x: x.chunk(2, -1),
    lambda x: torch.chunk(x, 2, dim=-1),
    lambda x: x.split(1),
    lambda x: x.split([1, 2], 1),
    lambda x: x.unbind(1),
    lambda x: torch.cat([x, x], 1),
    lambda x: torch.cat((x, x), dim=-1),
    lambda x: torch.stack([x, x]),
    lambda x: x.contiguous().clone().detach(),
]


@pytest.mark.parametrize("move", MOVES, ids=range(len(MOVES)))
@pytest.mark.parametrize("steps", [1, 4])
def test_shapes_change_step_by_step(move: Callable[[Any], Any], steps: int) -> None:
    x = spikes(steps, 2, 3, 4)
    found = move(SpikeTrain(x))
    expected = [move(step) for step in x]
    if isinstance(found, SpikeTrain):
        assert torch.equal(found.spikes, torch.stack(expected))
        return
    assert len(found) == len(expected[0])
    for index, part in enumerate(found):
        assert torch.equal(part.spikes, torch.stack([e[index] for e in expected]))


def codes(*shape: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(1)).float()


PRODUCTS: list[tuple[tuple[int, ...], Callable[[Any], Tensor]]] = [
    ((3, 6), lambda x: F.linear(x, codes(5, 6))),
    ((2, 3, 6), lambda x: F.linear(x, codes(5, 6), torch.ones(5) / 4)),
    ((3, 6), lambda x: F.linear(input=x, weight=codes(5, 6), bias=torch.ones(5))),
    ((2, 3, 9), lambda x: F.conv1d(x, codes(4, 3, 3), torch.arange(4.0), stride=2, padding=1)),
    ((2, 3, 9, 9), lambda x: F.conv2d(x, codes(4, 3, 3, 3), torch.arange(4.0), padding=1)),
    ((3, 9, 9), lambda x: F.conv2d(x, codes(4, 3, 3, 3), bias=torch.arange(4.0))),
    ((2, 4, 9, 9), lambda x: F.conv2d(x, codes(4, 2, 3, 3), groups=2)),
    ((1, 2, 4, 4, 4), lambda x: F.conv3d(x, codes(3, 2, 2, 2, 2))),
    ((2, 3, 5, 5), lambda x: F.conv_transpose2d(x, codes(3, 4, 3, 3), torch.arange(4.0), stride=2)),
    ((2, 3, 5), lambda x: F.conv_transpose1d(x, codes(3, 4, 3))),
]


@pytest.mark.parametrize(("shape", "product"), PRODUCTS, ids=range(len(PRODUCTS)))
@pytest.mark.parametrize("signed", [False, True])
def test_products_add_up_over_steps(shape: tuple[int, ...], product: Callable[[Any], Tensor], signed: bool) -> None:
    train = SpikeTrain(spikes(8, *shape, signed=signed))
    assert torch.equal(product(train), product(train.rates))


ELSE: list[Callable[[Any], Any]] = [
    lambda x: x + 1.0,
    lambda x: 2.0 - x,
    lambda x: x * x,
    lambda x: x / 3,
    lambda x: -x,
    lambda x: x.relu(),
    lambda x: F.avg_pool1d(x, 2),
    lambda x: F.max_pool1d(x, 2),
    lambda x: x @ x.transpose(-1, -2),
    lambda x: torch.matmul(x, codes(4, 2)),
    lambda x: codes(3, 3) @ x,
    lambda x: x.sum(1),
    lambda x: x.mean(),
    lambda x: torch.softmax(x, -1),
    lambda x: x > 0.5,
    lambda x: torch.cat([x, x + 1]),
    lambda x: F.layer_norm(x, (4,)),
    lambda x: x + codes(2, 3, 4),
    lambda x: codes(2, 3, 4) - x,
]


@pytest.mark.parametrize("operation", ELSE, ids=range(len(ELSE)))
def test_all_else_reads_rates(operation: Callable[[Any], Any]) -> None:
    train = SpikeTrain(spikes(8, 2, 3, 4))
    found = operation(train)
    assert isinstance(found, Tensor)
    assert torch.equal(found, operation(train.rates))


def test_what_a_train_says_of_itself() -> None:
    x = spikes(4, 2, 3)
    train = SpikeTrain(x)
    assert (train.steps, train.shape, train.size(), train.size(1), train.dim(), train.ndim, len(train)) == (
        4, (2, 3), (2, 3), 3, 2, 2, 2,
    )  # fmt: skip
    assert torch.equal(train.counts, x.sum(0))
    assert train.dtype is torch.float32
    assert repr(train) == "SpikeTrain(T=4, shape=(2, 3))"
    with pytest.raises(AttributeError, match="no attribute 'spike'"):
        _ = train.spike


def test_dropout_outside_training_leaves_a_train() -> None:
    train = SpikeTrain(spikes(4, 2, 3))
    assert nn.Dropout(0.5).eval()(train) is train
    assert isinstance(nn.Dropout(0.5)(train), Tensor)


def test_trains_of_different_lengths_are_joined_by_their_rates() -> None:
    joined = torch.cat([SpikeTrain(spikes(4, 2, 3)), SpikeTrain(spikes(2, 2, 3))])
    assert isinstance(joined, Tensor)
    assert joined.shape == (4, 3)


class Network(nn.Module):
    """Convolution, pooling, a residual sum, a product of two layers' spikes, and a batch norm."""

    def __init__(self, steps: int, signed: bool, threshold: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.pool = nn.BatchNorm2d(4), nn.AvgPool2d(2)
        self.q, self.k, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 3)
        for index in range(5):
            setattr(self, f"n{index}", sxq.SynchronousIF(steps, threshold, signed))

    def forward(self, x: Any) -> Tensor:
        x = self.n0(self.first(x))
        x = self.n1(self.norm(self.second(x)) + x)
        x = self.pool(x).flatten(2).transpose(1, 2)
        q, k = self.n2(self.q(x)), self.n3(self.k(x))
        return self.out(self.n4((q @ k.transpose(-1, -2)) @ x))


CONFIGS = [
    sxq.Ternary(),
    sxq.Binary(),
    sxq.Uniform(4),
    sxq.Ternary(per="tensor"),
    sxq.Ternary(per="group", group_size=2),
]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([1, 2, 4, 16, 64, 128]), st.booleans(), st.floats(0.01, 1.0), st.sampled_from(CONFIGS),
    st.integers(0, 2**31),
)  # fmt: skip
def test_random_networks_count_the_same_on_both_schedules(
    steps: int, signed: bool, threshold: float, config: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    net = Network(steps, signed, threshold)
    sxq.quantize_(net, config)
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.2, 2.0)
    net.eval()
    train = SpikeTrain(spikes(steps, 3, 2, 4, 4, seed=seed))
    with torch.no_grad():
        counted = net(train.rates)
        with sxq.schedule(net, "spikes"):
            assert torch.equal(net(train), counted)


def test_gradients_are_the_same_on_both_schedules() -> None:
    torch.manual_seed(0)
    net = Network(8, True, 0.3)
    sxq.quantize_(net, sxq.Ternary())
    train = SpikeTrain(spikes(8, 3, 2, 4, 4))
    gradients = []
    for name, x in (("counts", train.rates), ("spikes", train)):
        net.zero_grad()
        with sxq.schedule(net, name):  # type: ignore[arg-type]
            net(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert any(bool(g.any()) for g in gradients[0])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max() + 1e-9))
