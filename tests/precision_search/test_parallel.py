"""Workers of Ray give what one process gives, also when one of them is killed. Slow; needs Ray."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.precision_search import Classification, SearchResult

from .networks import trained

OPTIONS = {"max_drop": 3.0, "max_memory": "20%", "levels": [8, 4, 2, 1]}


def figures(result: SearchResult) -> list[object]:
    return [candidate.to_dict() for candidate in result.candidates]


@pytest.mark.slow
def test_two_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    net, evaluator = trained(16, 200)
    serial = sxq.search(net, evaluator, log=tmp_path / "serial.jsonl", **OPTIONS)  # type: ignore[arg-type]
    parallel = sxq.search(net, evaluator, log=tmp_path / "parallel.jsonl", workers=2, **OPTIONS)  # type: ignore[arg-type]
    assert parallel.plan == serial.plan
    assert figures(parallel) == figures(serial)
    assert parallel.path == serial.path
    assert parallel.examples_evaluated == serial.examples_evaluated

    # One worker is killed on the way, once.
    killed = tmp_path / "killed"

    def logits(model: nn.Module, rows: np.ndarray) -> torch.Tensor:
        if not killed.exists() and getattr(model[0], "config", None) == sxq.Uniform(4, scale="mse"):
            killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluator.logits(model, rows)  # type: ignore[arg-type, return-value]

    mourning = sxq.search(net, Classification(logits, evaluator.labels), workers=2, **OPTIONS)  # type: ignore[arg-type]
    assert killed.exists()
    assert int(killed.read_text()) != os.getpid()
    assert mourning.plan == serial.plan
    assert figures(mourning) == figures(serial)
