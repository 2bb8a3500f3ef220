"""Models of tokens on the command line: folders, named arrays, files of several inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn_extreme_quant.deploy import session
from tests.deploy.token_models import IDS, MASK, built

Run = Callable[..., Any]


@pytest.fixture
def folder(here: Path) -> Path:
    built(weights="ternary", profile="integer").save_pretrained("bert")
    np.savez("ids.npz", input_ids=IDS.numpy(), attention_mask=MASK.numpy())
    np.save("ids.npy", IDS.numpy())
    np.save("mask.npy", MASK.numpy())
    return here


def test_from_a_folder_to_logits(sxq: Run, folder: Path) -> None:
    asked = ("--sample", "ids.npz", "--form", "counts", "--integer", "-o", "bert.onnx", "--json")
    exported = sxq("export", "bert", *asked)
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["scales"][0]["headroom"] > 0
    verified = sxq("verify", "bert", "bert.onnx", "--data", "ids.npz", "--data", "ids.npy", "--json")
    assert verified.exit_code == 0, verified.output
    facts = json.loads(verified.stdout)
    assert facts["ok"]
    assert (facts["samples"], facts["answers"]) == (6, {"samples": 6, "same": 6})
    assert facts["integer"]["torch_different"] == 0 < facts["integer"]["torch_compared"]

    named = {"input_ids": IDS.numpy(), "attention_mask": MASK.numpy()}
    expected = session("bert.onnx", native=False).run(None, named)[0]
    for number, arrays in enumerate((["ids.npz"], ["input_ids=ids.npy", "attention_mask=mask.npy"])):
        ran = sxq("run", "bert.onnx", *arrays, "--native", "no", "--spikes", "--output", f"{number}.npz", "--json")
        assert ran.exit_code == 0, ran.output
        assert json.loads(ran.stdout)["counted_steps"] == 4
        assert np.array_equal(np.load(f"{number}.npz")["output"], expected)
    wrong = {
        "ids.npy": "takes 2 inputs (input_ids, attention_mask)",
        "input_ids=ids.npy": "'attention_mask' is missing",
        "token_ids=ids.npy": "has no input 'token_ids'",
        "input_ids=no.npy": "cannot be read",
    }
    for array, said in wrong.items():
        result = sxq("run", "bert.onnx", array, "--json")
        assert result.exit_code == 2
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_folder_without_a_model(sxq: Run, here: Path) -> None:
    (here / "empty").mkdir()
    result = sxq("export", "empty", "--sample", "1,4:int64", "-o", "n.onnx")
    assert result.exit_code == 2
    assert "holds no SpikingBert" in result.stderr
