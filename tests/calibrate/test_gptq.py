"""GPTQ of one matrix."""

from __future__ import annotations

import pytest
import torch

from snn_extreme_quant.calibrate import gptq_codes
from snn_extreme_quant.errors import (
    ConfigError,
)

from .networks import mixed


def test_independent_inputs_are_rounded() -> None:
    weight, scale = torch.randn(4, 9, dtype=torch.float64), torch.ones(4, 9, dtype=torch.float64)
    gram = torch.diag(torch.arange(9.0, dtype=torch.float64))  # the first input was always 0
    codes = gptq_codes(weight, scale, gram, lambda w, s: (w / s).round())
    assert torch.equal(codes, weight.round())


def test_it_is_the_greedy_choice_with_the_best_remainder() -> None:
    """After each column, the columns to the right solve the least-squares problem that is left (the definition)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(1, 6, dtype=torch.float64, generator=generator)
    gram = x.T @ x
    codes = gptq_codes(weight, torch.full_like(weight, 0.4), gram, lambda w, s: (w / s).round(), damping=0.0)
    current = weight[0].clone()
    for j in range(6):
        chosen = (current[j] / 0.4).round()
        assert codes[0, j] == chosen
        wrong = x[:, j] * (current[j] - chosen * 0.4)
        current[j + 1 :] += torch.linalg.lstsq(x[:, j + 1 :], wrong).solution if j < 5 else 0.0


def test_blocks_do_not_change_the_result(monkeypatch) -> None:
    x = mixed(300, 150, rank=60).double()
    weight = torch.randn(5, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    arguments = (weight, torch.full_like(weight, 0.3), x.T @ x, lambda w, s: (w / s).round())
    blocked = gptq_codes(*arguments)
    monkeypatch.setattr("snn_extreme_quant.calibrate.gptq._BLOCK", 1000)
    assert torch.equal(blocked, gptq_codes(*arguments))


def test_a_singular_matrix_without_damping() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"damping=0\.0 leaves the inputs' matrix singular"):
        gptq_codes(torch.ones(1, 2).double(), torch.ones(1, 2).double(), x.T @ x, torch.round, damping=0.0)
