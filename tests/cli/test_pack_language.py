from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.deploy import GptFile, LanguagePacking, export_gpt, pack_language
from snn_extreme_quant.deploy.language.measuring import file_figures
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, zoo
from snn_extreme_quant.models.gpt.generation import generate
from snn_extreme_quant.training.text_figures import text_figures

TEXT = "to be, or not to be: that is the question. " * 40


def save_run(folder, **config):
    """What `sxq train` leaves of a language model."""
    tokens = TextTokens.of("characters", TEXT)
    torch.manual_seed(0)
    gpt = SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=24, **{"weights": "ternary", **config})).eval()
    gpt.save_pretrained(folder / "last")
    tokens.save(folder / "last")
    (folder / "data").mkdir()
    (folder / "data/private.txt").write_text(TEXT)
    recipe = {
        "task": {
            "name": "text", "text": "sentence", "label": "label", "pair": None, "labels": [], "regression": False,
            "metrics": ["bits_per_character"], "dev": "dev",
        },
        "data": str(folder / "data"), "teacher": "", "gpt": {"layers": 1, "hidden": 24},
        "text": {"train": "private.txt", "dev": "", "holdout": 0.5, "context": 16, "streams": 4},
        "tokens": {"kind": "characters", "vocab": 99, "path": ""}, "max_tokens": 64, "layers": None, "student": {},
        "start": None, "train": {"seed": 7, "batch": 16}, "stages": [{"name": "a", "steps": 30, "epochs": 0.0}],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps({"recipe": recipe}))
    line = {"stage": "a", "step": 30, "seconds": 5.0, "dev": {"bits_per_character": 3.0}}
    (folder / "log.jsonl").write_text(json.dumps(line))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def packed(run, tmp_path):
    """A folder, of which little was verified."""
    pack_language(run / "last", tmp_path / "out", LanguagePacking("out", verified=2))
    return tmp_path / "out"


def test_a_run_becomes_a_folder(sxq, run, tmp_path):
    out = tmp_path / "small"
    out.mkdir()
    (out / "about.toml").write_text('data = "made up"\nlicences = ["none"]\n')
    result = sxq("pack", run, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["name"], made["kind"], made["tokens"]["kind"]) == ("small", "language", "characters")
    assert made["training"]["steps"] == 30
    assert made["training"]["recipe"]["gpt"] == {"layers": 1, "hidden": 24}
    assert made["verified"]["different_spikes"] == made["verified"]["different_values"] == 0
    assert made["verified"]["spikes"] == 1000 * 2 * 24  # the prompt is the first of the tokens that are read
    assert made["dev"]["characters"] == len(TEXT) // 2
    card = (out / "README.md").read_text()
    assert "0 of 48,000 spikes differ" in card
    assert "made up" in card
    assert str(run) not in card + (out / "run.json").read_text()
    # Weights lie in one file alone.
    assert (out / "model.onnx").stat().st_size + (out / "model.safetensors").stat().st_size < 100_000
    assert "private" not in card

    options = ("--prompt", "to be", "-n", "20", "--seed", "3", "--json")
    found = json.loads(sxq("generate", out, *options, "--native", "no").stdout)
    assert found["runtime"].startswith("onnxruntime")
    gpt, tokens = SpikeGPT.from_pretrained(out).eval(), TextTokens.load(out)
    assert found["text"] == tokens.decode(list(generate(gpt, tokens.encode("to be").tolist(), 20, 0.8, 0.95, 3)))


def test_figures_are_of_the_dev_text_and_of_the_file(run, tmp_path):
    text = TEXT[: len(TEXT) // 3]
    made = pack_language(run / "last", tmp_path / "out", LanguagePacking("out", text=text, verified=2))
    gpt, tokens = SpikeGPT.from_pretrained(tmp_path / "out"), TextTokens.load(tmp_path / "out")
    wanted = text_figures(gpt, tokens, text, 16)
    assert made["dev"]["bits_per_character"] == pytest.approx(wanted["bits_per_character"], rel=1e-6)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--embeddings", "4"), "no --embeddings"),
        (("--labels", "a,b"), "no --labels"),
        (("--time-steps", "4"), "no --time-steps"),
        (("--data", "missing.txt"), "missing.txt"),
    ],
)
def test_what_a_language_model_has_not(sxq, run, tmp_path, option, says):
    result = sxq("pack", run, "-o", tmp_path / "out", *option)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_refused(sxq, tmp_path):
    SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8, head="mean")).save_pretrained(tmp_path / "gpt")
    TextTokens.of("characters", "abcdefgh").save(tmp_path / "gpt")
    result = sxq("pack", tmp_path / "gpt", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "is a classifier" in result.stderr


def test_classify_says_what_a_language_model_is_for(sxq, packed):
    result = sxq("classify", "a text", "--model", packed)
    assert result.exit_code == 2
    assert "sxq generate" in result.stderr


def test_a_damaged_folder_is_noticed(sxq, packed):
    weights = packed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    result = sxq("generate", packed, "--native", "no")
    assert result.exit_code == 2
    assert "SHA-256" in result.stderr


@pytest.mark.parametrize("form", ["sequence", "streaming"])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_files_figures_are_the_models(run, tmp_path, form, streams):
    gpt, tokens = SpikeGPT.from_pretrained(run / "last").eval(), TextTokens.load(run / "last")
    path = tmp_path / "gpt.onnx"
    export_gpt(gpt, path, form=form, tokens=tokens)
    text = TEXT[:301]
    wanted, found = text_figures(gpt, tokens, text, streams), file_figures(GptFile(path, native=False), text, streams)
    assert found["tokens"] == wanted["tokens"] == streams * (301 // streams - 1)
    for name in ("bits_per_character", "perplexity"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-6)


def test_lm_eval_of_a_file(sxq, run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    assert sxq("export", run / "last", "-o", tmp_path / "gpt.onnx").exit_code == 0
    figures = [
        json.loads(sxq("lm-eval", model, tmp_path / "text.txt", "--streams", "4", "--json").stdout)
        for model in (run / "last", tmp_path / "gpt.onnx")
    ]
    assert figures[0]["bits_per_character"] == pytest.approx(figures[1]["bits_per_character"], rel=1e-6)
    assert figures[0]["tokens"] == figures[1]["tokens"]


@pytest.mark.parametrize("name", zoo.names("language"))
def test_shipped_models_write(sxq, name):
    result = sxq("generate", name, "--prompt", "ROMEO:", "-n", "12", "--json", "--native", "no")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["text"]) == 12
    assert sum(file.stat().st_size for file in zoo.path(name).iterdir()) <= 2e6
    assert isinstance(zoo.load(name), SpikeGPT)


def test_generate_without_a_model_takes_the_shipped_one(sxq):
    assert "tinyshakespeare-ternary" in zoo.names("language")
    texts = [
        sxq("generate", *model, "-n", "9", "--native", "no").stdout for model in ((), ("tinyshakespeare-ternary",))
    ]
    assert texts[0] == texts[1] != ""


def test_generating_from_a_shipped_file_needs_no_torch(run_without_torch):
    found = run_without_torch("generate", "tinyshakespeare-ternary", "--prompt", "KING", "-n", "5", "--native", "no")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("KING")


def test_an_unknown_model_names_the_shipped_ones(sxq):
    result = sxq("generate", "tinyshakespeare-tenary")
    assert result.exit_code == 2
    assert "tinyshakespeare-ternary" in result.stderr


@pytest.fixture
def run_without_torch():
    import subprocess

    code = "import sys; sys.modules['torch'] = None; from snn_extreme_quant.cli import main; main()"

    def call(*arguments):
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    return call


def test_the_first_token_of_a_part_is_not_predicted():
    tokens = TextTokens.of("characters", "ab")
    parts, characters = tokens.parts("ababababa", 2)
    assert parts.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    assert characters == 9 * 6 / 9
    assert parts.dtype == np.int32
