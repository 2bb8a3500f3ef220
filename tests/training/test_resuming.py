"""Runs that were interrupted give, to the bit, what they would have given."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from snn_extreme_quant.errors import CheckpointError
from snn_extreme_quant.training.recipe_files import load_recipe
from snn_extreme_quant.training.run_folder import read_run
from tests.training.recipes import weights_of

pytest.importorskip("accelerate")
from snn_extreme_quant.training.loop import train


@pytest.mark.parametrize("stop", [("float", 5), ("float", 6), ("ternary", 5)])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(recipe, finished, tmp_path, stop):
    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == stop:
            raise StopError

    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path, report=interrupt)
    if stop == ("float", 6):  # stopped before the stage's own checkpoint: the one of step 4 is the last
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 4
    torch.manual_seed(99)
    result = train(load_recipe(recipe), tmp_path, resume=True)
    whole, resumed = weights_of(finished[0]), weights_of(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert result.metrics == finished[1].metrics
    assert result.best == finished[1].best


@pytest.mark.parametrize("stop", [("float", 3), ("float", 6), ("ternary", 3), ("ternary", 6)])
def test_a_resumed_run_logs_each_measurement_once(recipe, tmp_path, stop):
    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == stop:
            raise StopError

    loaded = load_recipe(recipe, ["train.eval_every=2"])
    with pytest.raises(StopError):
        train(loaded, tmp_path, report=interrupt)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"stage": "flo')  # a line that was being written
    train(loaded, tmp_path, resume=stop != ("float", 3))  # before the first checkpoint a run begins anew
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in log] == [(s, n) for s in ("float", "ternary") for n in (2, 4, 6)]
    facts = read_run(tmp_path, "last").facts
    assert facts["steps"] == 12
    for stage in ("float", "ternary"):  # goes on counting where the checkpoint was made
        seconds = [line["seconds"] for line in log if line["stage"] == stage]
        assert seconds == sorted(seconds)
    assert facts["seconds"] == pytest.approx(log[2]["seconds"] + log[5]["seconds"], abs=0.06)
    assert "the last, after 6 steps" in facts["selection"]


def test_a_finished_run_resumes_to_its_own_result(recipe, finished):
    folder, result, _ = finished
    before = weights_of(folder)
    again = train(load_recipe(recipe), folder, resume=True)
    assert again.metrics == result.metrics
    assert all(torch.equal(value, before[name]) for name, value in weights_of(folder).items())


@pytest.mark.parametrize("accumulate", [1, 4])
def test_half_precision_and_parts_resume_to_the_bit_too(recipe, tmp_path, accumulate):
    changes = ["train.precision=bf16", f"train.accumulate={accumulate}", "train.save_every=2", "stage.1.epochs=0"]
    changes += ["stage.1.steps=3", "stage.0.steps=5"]
    losses = []

    class StopError(Exception):
        pass

    def interrupt(progress):
        if (progress.stage, progress.step) == ("float", 5):
            raise StopError

    whole = train(load_recipe(recipe, changes), tmp_path / "whole", report=lambda p: losses.append(p.losses["loss"]))
    assert np.isfinite(losses).all()
    with pytest.raises(StopError):
        train(load_recipe(recipe, changes), tmp_path / "cut", report=interrupt)
    assert train(load_recipe(recipe, changes), tmp_path / "cut", resume=True).metrics == whole.metrics
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert one["encoder.0.output.weight"].dtype == torch.float32
    exact = train(load_recipe(recipe, [*changes, "train.precision=no"]), tmp_path / "exact")
    assert exact.best != {}
    assert not torch.equal(weights_of(tmp_path / "exact")["encoder.0.output.weight"], one["encoder.0.output.weight"])


def test_runs_do_not_mix(recipe, finished, tmp_path):
    folder, _, _ = finished
    with pytest.raises(CheckpointError, match="resume"):
        train(load_recipe(recipe), folder)
    with pytest.raises(CheckpointError, match=r"recipe.train.seed was 3, is 4"):
        train(load_recipe(recipe, ["train.seed=4"]), folder, resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(load_recipe(recipe), tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        train(load_recipe(recipe), tmp_path, resume=True)
