from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from snn_extreme_quant.cli import app
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from snn_extreme_quant.report.rates import convergence

pytest.importorskip("matplotlib")
IDS = torch.randint(40, (3, 6), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(6) < torch.tensor([[6], [4], [5]])).long()


def build(**options):
    torch.manual_seed(0)
    sizes = {"vocab": 40, "positions": 12, "layers": 2, "hidden": 16, "heads": 2, "ffn": 24, "threshold": 0.5}
    return SpikingBert(SpikingBertConfig(**sizes, **options)).eval()


def drawn(*arguments):
    return CliRunner().invoke(app, ["plot", *map(str, arguments)])


def test_rates_of_the_synchronous_schedule():
    model = build(T=8)
    found = convergence(model, IDS, MASK, 32)
    assert (found.steps, found.most, model.config.T) == ((1, 2, 4, 8, 16), 32, 8)
    assert list(found.distance) == [
        "input", "key", "value", "attention", "attention output", "intermediate", "output",
    ]  # fmt: skip
    rates = {}
    for T in (4, 32):
        model.set_time_steps(T)
        rates[T] = model.embeddings.fire(model.embeddings(IDS, None))
    expected = (rates[4] - rates[32]).abs()[MASK.bool()].mean()
    assert found.distance["input"][2] == pytest.approx(float(expected.detach()))
    assert found.distance["input"][4] < found.distance["input"][0]


def test_rates_of_the_step_schedule():
    model = build(schedule="step", T=6, leak=0.9)
    found = convergence(model, IDS, MASK)
    assert (found.steps, found.most, model.mode) == ((1, 2, 3, 4, 5), 6, "simulated")
    hidden = []
    for T in (3, 6):
        model.set_time_steps(T)
        hidden.append(model.details(IDS, MASK).hidden[-1][:, 0] / model.encoder[-1].neurons.threshold)
    assert found.output[2] == pytest.approx(float((hidden[0] - hidden[1]).abs().mean().detach()), rel=1e-4)


def test_steps_that_the_schedule_does_not_take():
    with pytest.raises(ConfigError, match="48 steps"):
        convergence(build(), IDS, MASK, 48)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_figures_are_written(tmp_path, ending):
    for name, arguments in {
        "asr": ["--most", "4", "--other", "sst2-ternary"],
        "accuracy": [],
        "firing": ["--time-steps", "4"],
    }.items():
        path = tmp_path / f"{name}.{ending}"
        result = drawn(name, "-o", path, *arguments)
        assert result.exit_code == 0, result.output
        assert path.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        text = (tmp_path / "firing.svg").read_text()
        assert "date" not in text.lower().split("<defs>")[0]


def test_figures_of_a_run(tmp_path):
    figures = {str(T): {"accuracy": 0.8 + T / 1000, "firing_rate": 0.1} for T in (4, 8)}
    (tmp_path / "result.json").write_text(json.dumps({"by_time_steps": figures}))
    result = drawn("accuracy", "-o", tmp_path / "x.svg", "--model", tmp_path, "--model", "sst2-ternary")
    assert result.exit_code == 0, result.output
    (tmp_path / "result.json").write_text("{}")
    for folder, says in ((tmp_path, "no figures"), (tmp_path / "nowhere", "neither run.json")):
        result = drawn("accuracy", "-o", tmp_path / "x.svg", "--model", folder)
        assert result.exit_code == 2
        assert says in result.stderr


def test_other_endings_are_refused(tmp_path):
    result = drawn("firing", "-o", tmp_path / "x.pdf")
    assert result.exit_code == 2
    assert ".png or .svg" in result.stderr
