"""Rate encoding."""

from __future__ import annotations

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import SampleError


def test_rates_are_the_values() -> None:
    values = torch.tensor([0.0, 0.25, 0.5, 1.0])
    spikes = sxq.rate_encode(values, 20_000, torch.Generator().manual_seed(0))
    assert spikes.shape == (20_000, 4)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(spikes.mean(0), values, atol=0.02)
    assert spikes[:, 0].sum() == 0
    assert spikes[:, 3].sum() == 20_000


def test_same_generator_same_spikes() -> None:
    values = torch.rand(5, 3)
    first, second = (sxq.rate_encode(values, 7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("values", "steps"), [(torch.tensor([1.5]), 3), (torch.tensor([-0.1]), 3), (torch.rand(2), -1)]
)
def test_bad_values(values: torch.Tensor, steps: int) -> None:
    with pytest.raises(SampleError):
        sxq.rate_encode(values, steps)


def test_nan_is_refused() -> None:
    with pytest.raises(SampleError):
        sxq.rate_encode(torch.tensor([float("nan")]), 2)


@pytest.mark.parametrize(("values", "steps"), [([0.5], 2), (torch.tensor([1]), 2), (torch.rand(2), 2.5)])
def test_arguments_of_other_types(values: object, steps: object) -> None:
    with pytest.raises(SampleError):
        sxq.rate_encode(values, steps)  # type: ignore[arg-type]
