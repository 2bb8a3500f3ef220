"""``sxq search``, ``sxq plan``, ``sxq plot search``."""

from __future__ import annotations

import json

import pytest
import torch

import snn_extreme_quant as sxq_package
from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

SOURCE = """
import torch
from torch import nn
from snn_extreme_quant.precision_search import Classification

torch.manual_seed(0)
inputs = torch.randn(120, 6)
labels = (inputs @ torch.randn(6, 3)).argmax(-1)

def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

examples = Classification(lambda model, rows: model(inputs[rows]), labels)

def loss(model, step):
    return torch.nn.functional.cross_entropy(model(inputs), labels)

def fails(model, step):
    raise RuntimeError("out of cheese")

def fails_later(model, step):
    return loss(model, step) if step == 0 else fails(model, step)

def constant(model, step):
    return 3.0

number = 3

def never(model):
    if any(hasattr(layer, "config") for layer in model):
        raise RuntimeError("out of cheese")
    return 90.0

def percent(model):
    return 90.0 - sum(100.0 for layer in model if getattr(layer, "config", None) and layer.config.bits < 4)
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path / "nets.py"


def test_a_plan_is_found_shown_and_drawn(sxq, source, tmp_path):
    plan, result = tmp_path / "plan.json", tmp_path / "result.json"
    given = (
        f"{source}:build",
        "--evaluate",
        f"{source}:percent",
        "--max-drop",
        "1",
        "--levels",
        "8,4,2",
        "--alpha",
        "50",
    )
    done = sxq("search", *given, "-o", plan, "--result", result, "--log", tmp_path / "log.jsonl", "--tie", "blocks")
    assert done.exit_code == 0, done.stderr
    assert "accuracy 90 (drop +0)" in done.stdout
    assert str(plan) in done.stdout
    read = sxq_package.PrecisionPlan.load(plan)
    assert dict(read.rules) == dict.fromkeys(("0", "2"), sxq_package.Uniform(4, scale="mse"))

    found = json.loads(sxq("search", *given, "--log", tmp_path / "log.jsonl", "--json").stdout)
    assert found["feasible"]
    assert found["candidates"][found["chosen"]]["levels"] == {"0": 4.0, "2": 4.0}
    assert found["cost"]["evaluations"] == 0.0

    shown = sxq("plan", "show", plan, "--model", f"{source}:build")
    assert "Uniform(bits=4, per='channel', scale='mse')" in shown.stdout
    assert "below float32" in shown.stdout
    assert "scale='mse'" in sxq("plan", "show", plan).stdout
    total = json.loads(sxq("plan", "show", plan, "--model", f"{source}:build", "--json").stdout)["total"]
    assert total == found["candidates"][found["chosen"]]["memory"]

    other = tmp_path / "other.json"
    other.write_text(sxq_package.PrecisionPlan({"0": sxq_package.Binary()}, default=read.rules[0][1]).to_json())
    assert sxq("plan", "diff", plan, plan).exit_code == 0
    differing = sxq("plan", "diff", plan, other, "--model", f"{source}:build", "--json")
    assert differing.exit_code == 1
    assert [row["name"] for row in json.loads(differing.stdout)["differences"]] == ["0"]

    picture = tmp_path / "search.png"
    assert sxq("plot", "search", result, "-o", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": {}},
        {"sensitivity": {"0": 3}},
        {"sensitivity": {"0": {"many": 1.0}}},
        {"path": [{"tier": "global", "group": "all", "level": 8, "kept": True, "candidate": 99}]},
        {"baseline": {"quality": 90.0, "memory": 0}},
        {"baseline": {"quality": "good", "memory": 5}},
        {"front": [99]},
        {"candidates": 3},
    ],
    ids=str,
)
def test_damaged_results_are_a_line(sxq, damaged, damage, tmp_path):
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | damage))
    done = sxq("plot", "search", damaged, "-o", tmp_path / "search.png")
    assert done.exit_code == 2
    assert str(damaged) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def damaged(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    sxq_package.search(net, lambda _: 90.0, max_drop=1.0, levels=[8, 2]).save(tmp_path / "result.json")
    return tmp_path / "result.json"


def test_limits_that_cannot_be_met_are_status_1(sxq, source):
    done = sxq("search", f"{source}:build", "--evaluate", f"{source}:examples", "--max-drop", "0", "--max-memory", "9B")
    assert done.exit_code == 1
    assert "No plan meets" in done.stdout
    assert "The lowest levels everywhere take" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-drop", "1"), "--evaluate MODULE:NAME"),
        (("--evaluate", "{}:percent"), "without a limit"),
        (("--evaluate", "{}:percent", "--max-drop", "1", "--levels", "8,x"), "--levels 8,x"),
        (("--evaluate", "{}:percent", "--max-drop", "1", "--levels", "99"), "Level 99"),
        (("--evaluate", "{}:percent", "--max-memory", "much"), "max_memory='much'"),
        (("--evaluate", "{}:nothing", "--max-drop", "1"), "has no 'nothing'"),
        (("--evaluate", "percent", "--max-drop", "1"), "'percent' names no evaluation"),
        (("--evaluate", "{}:percent", "--max-drop", "1", "--reuse", "x"), "reuse='x'"),
    ],
)
def test_wrong_input_is_a_line(sxq, source, options, said):
    done = sxq("search", f"{source}:build", *(option.format(source) for option in options))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there(sxq, tmp_path):
    done = sxq("search", tmp_path / "nope", "--max-drop", "1")
    assert done.exit_code == 2
    assert f"There is no folder {tmp_path / 'nope'}" in done.stderr


def test_skip_and_reuse_of_nothing(sxq, source, tmp_path):
    (tmp_path / "blocks.json").write_text(
        json.dumps({"blocks": [{"name": "all", "modules": [{"name": "all", "matrices": ["0", "2"]}]}]})
    )
    given = ("search", f"{source}:build", "--evaluate", f"{source}:percent", "--max-drop", "1", "--levels", "8")
    done = sxq(*given, "--hierarchy", tmp_path / "blocks.json", "--skip", "0", "--reuse", "0", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["candidates"][0]["levels"].keys() == {"2"}


def test_what_was_found_outlives_failures(sxq, source, tmp_path):
    """A loss that cannot be had is said before the search; one that fails later costs neither plan nor result."""
    plan, result, saved = tmp_path / "plan.json", tmp_path / "result.json", tmp_path / "net.safetensors"
    given = (
        "search", f"{source}:build", "--evaluate", f"{source}:percent", "--max-drop", "1", "--levels", "8", "-o", plan,
        "--result", result, "--finetune", "3", "--save", saved, "--loss",
    )  # fmt: skip
    for name, said in (("fails", "loss(model, 0) failed: RuntimeError"), ("constant", "one number with gradients")):
        done = sxq(*given, f"{source}:{name}")
        assert done.exit_code == 2
        assert said in done.stderr
        assert not result.exists()
    done = sxq(*given, f"{source}:fails_later")
    assert done.exit_code == 2
    assert "loss(model, 1) failed: RuntimeError: out of cheese" in done.stderr
    assert dict(sxq_package.PrecisionPlan.load(plan).rules) == dict.fromkeys(("0", "2"), sxq_package.Uniform(8))
    assert json.loads(result.read_text())["feasible"]
    assert not saved.exists()

    stopped = tmp_path / "stopped.json"
    done = sxq(
        "search", f"{source}:build", "--evaluate", f"{source}:never", "--max-drop", "1", "--levels", "8,4,2",
        "--result", stopped,
    )  # fmt: skip
    assert done.exit_code == 2
    assert "3 candidates in a row failed" in done.stderr
    assert any(c["status"] == "failed" for c in json.loads(stopped.read_text())["candidates"])


def test_a_language_model(sxq, tmp_path):
    text = "to be, or not to be: that is the question. " * 20
    tokens = TextTokens.of("characters", text)
    torch.manual_seed(0)
    SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=16)).save_pretrained(tmp_path / "run/best")
    tokens.save(tmp_path / "run/best")
    (tmp_path / "text.txt").write_text(text)
    given = ("search", tmp_path / "run", "--max-drop", "2", "--levels", "8,2", "--streams", "8", "--tiers", "global")
    assert sxq(*given).exit_code == 2
    done = sxq(*given, "--data", tmp_path / "text.txt", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    measured = json.loads(sxq("lm-eval", tmp_path / "run", tmp_path / "text.txt", "--streams", "8", "--json").stdout)
    assert found["baseline"]["quality"] == pytest.approx(measured["perplexity"])
    assert any("signs" in note for note in found["notes"])


def test_a_plan_is_trained(sxq, source, tmp_path):
    """Limits that the search alone does not meet."""
    plan, saved = tmp_path / "plan.json", tmp_path / "net.safetensors"
    given = (
        "search", f"{source}:build", "--evaluate", f"{source}:examples", "--max-memory", "40%", "--max-drop", "0",
        "--levels", "3,1.58", "--sensitivity", "0",
    )  # fmt: skip
    alone = sxq(*given)
    trained = (*given, "--finetune", "40", "--loss", f"{source}:loss", "--rate", "0.03", "--save", saved, "-o", plan)
    done = sxq(*trained, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    polished = found["polished"]
    assert polished["feasible"]
    assert polished["steps"] == 40
    assert polished["kept"]
    assert polished["candidate"]["quality"] > polished["before"]
    assert (alone.exit_code == 0) == found["feasible"]
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    sxq_package.quantize_(model, sxq_package.PrecisionPlan.load(plan))
    sxq_package.load_checkpoint(model, saved)
    assert all(layer.config.bits <= 3 for layer in (model[0], model[2]))
    said = sxq(*trained)
    assert "polished in 40 steps" in said.stdout
    assert str(saved) in said.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--finetune", "3"), "belong together"),
        (("--save", "net.safetensors"), "belong together"),
        (("--finetune", "3", "--save", "net.safetensors"), "--loss MODULE:NAME"),
        (("--finetune", "3", "--save", "net.safetensors", "--loss", "{}:number"), "name a function loss"),
    ],
)
def test_wrong_input_of_training_is_a_line(sxq, source, options, said):
    given = ("--evaluate", f"{source}:examples", "--max-drop", "1")
    done = sxq("search", f"{source}:build", *given, *(option.format(source) for option in options))
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_language_model_is_trained(sxq, tmp_path):
    text = "to be, or not to be: that is the question. " * 20
    tokens = TextTokens.of("characters", text)
    torch.manual_seed(0)
    SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=16)).save_pretrained(tmp_path / "run")
    tokens.save(tmp_path / "run")
    (tmp_path / "text.txt").write_text(text)
    given = (
        "search", tmp_path / "run", "--max-drop", "50", "--levels", "3", "--streams", "8", "--tiers", "global",
        "--data", tmp_path / "text.txt", "--finetune", "2", "--rate", "0.01", "--save", tmp_path / "out",
    )  # fmt: skip
    assert "--train-data FILE is needed" in sxq(*given).stderr
    done = sxq(*given, "--train-data", tmp_path / "text.txt", "--json")
    assert done.exit_code == 0, done.stderr
    quality = json.loads(done.stdout)["polished"]["candidate"]["quality"]
    measured = json.loads(sxq("lm-eval", tmp_path / "out", tmp_path / "text.txt", "--streams", "8", "--json").stdout)
    assert measured["perplexity"] == pytest.approx(quality)
