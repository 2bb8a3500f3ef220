"""Parameters and gradients of NaN, which a spiking model's loss does not show."""

from __future__ import annotations

import math

import pytest
import torch

from snn_extreme_quant.errors import CheckpointError, TrainingError
from snn_extreme_quant.models import SpikeGPT
from tests.training.test_language import write

pytest.importorskip("accelerate")
from snn_extreme_quant.training import language, load_recipe, train

NAN = float("nan")


@pytest.fixture
def poisoned(monkeypatch):
    """Return a function that changes the model of a run at the n-th step."""

    def at(step, change):
        forward, calls = language._Losses.forward, []

        def changed(self, *arguments):
            calls.append(self.gpt)
            if len(calls) == step:
                change(self.gpt)
            return forward(self, *arguments)

        monkeypatch.setattr(language._Losses, "forward", changed)
        return calls

    return at


def spoil(name, value=NAN):
    return lambda model: model.get_parameter(name).data.view(-1)[0].fill_(value)


@pytest.mark.parametrize("name", ["blocks.0.ln1.weight", "blocks.1.att.key.weight", "blocks.0.att.time_decay"])
def test_a_parameter_of_nan_stops_the_run_by_its_name(tmp_path, poisoned, name):
    recipe, seen = write(tmp_path), []
    poisoned(6, spoil(name))
    with pytest.raises(TrainingError, match=f"stage 'float', step 5.*{name}.* is kept"):
        train(load_recipe(recipe), tmp_path / "run", report=lambda p: seen.append(p.losses["loss"]))
    assert all(map(math.isfinite, seen))  # the loss does not tell
    state = torch.load(tmp_path / "run/checkpoint.pt")["state"]
    assert state["step"] == 4
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_gradient_of_nan_stops_the_run_before_it_changes_the_model(tmp_path, poisoned):
    name = "blocks.1.ffn.value.weight"
    calls = poisoned(2, lambda model: model.get_parameter(name).register_hook(lambda gradient: gradient * NAN))
    with pytest.raises(TrainingError, match=f"step 1: the gradient of '{name}' is NaN"):
        train(load_recipe(write(tmp_path)), tmp_path / "run")
    assert all(bool(value.isfinite().all()) for value in calls[-1].parameters())


def test_nothing_is_written_of_a_model_that_is_not_finite(tmp_path, poisoned):
    calls = poisoned(-1, None)

    def report(progress):
        if progress.step == 4:  # just before the first checkpoint
            spoil("ln_out.weight", math.inf)(calls[-1])

    with pytest.raises(TrainingError, match=r"step 4: 'ln_out\.weight' holds NaN or infinite"):
        train(load_recipe(write(tmp_path)), tmp_path / "run", report=report)
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_run_does_not_start_from_nan(tmp_path):
    recipe = write(tmp_path)
    train(load_recipe(recipe, ["stage.0.steps=1", "stage.1.steps=1"]), tmp_path / "run")
    last = tmp_path / "run/last"
    model = SpikeGPT.from_pretrained(last)
    spoil("blocks.0.ffn.key.weight")(model)
    model.save_pretrained(last)
    for table in ("start", "teacher"):
        with pytest.raises(CheckpointError, match=r"blocks\.0\.ffn\.key\.weight"):
            train(load_recipe(recipe, [f"{table}.path={last}"]), tmp_path / "next")
    with pytest.raises(CheckpointError):
        SpikeGPT.from_pretrained(last)


def test_a_run_does_not_go_on_from_nan(tmp_path):
    class StopError(Exception):
        pass

    def stop(progress):
        if progress.step == 6:
            raise StopError

    recipe = write(tmp_path)
    with pytest.raises(StopError):
        train(load_recipe(recipe), tmp_path / "run", report=stop)
    path = tmp_path / "run/checkpoint.pt"
    data = torch.load(path)
    data["state"]["model"]["gpt.blocks.0.att.output.weight"][3, 4] = NAN
    torch.save(data, path)
    with pytest.raises(TrainingError, match=r"stage 'float', step 4: 'blocks\.0\.att\.output\.weight'"):
        train(load_recipe(recipe), tmp_path / "run", resume=True)
