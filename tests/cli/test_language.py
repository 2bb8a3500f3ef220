from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
import torch

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.deploy.language import running
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.gpt import generation
from snn_extreme_quant.models.gpt.generation import generate

TEXT = "to be, or not to be: that is the question. " * 40


@pytest.fixture
def model(tmp_path):
    tokens = TextTokens.of("characters", TEXT)
    torch.manual_seed(0)
    gpt = SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=24, weights="ternary")).eval()
    gpt.save_pretrained(tmp_path / "run/best", packed=True)
    tokens.save(tmp_path / "run/best")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "run"


def test_text_goes_on(sxq, model):
    result = sxq("generate", model, "--prompt", "to be", "-n", "30", "--seed", "3", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["prompt_tokens"], found["tokens"]) == (5, 30)
    assert 0.0 < found["firing_rate"] < 1.0
    assert found["tokens_per_second"] > 0
    tokens, gpt = TextTokens.load(model / "best"), SpikeGPT.from_pretrained(model / "best")
    expected = list(generate(gpt, tokens.encode("to be").tolist(), 30, 0.8, 0.95, 3))
    assert found["text"] == tokens.decode(expected)
    shown = sxq("generate", model / "best", "--prompt", "to be", "-n", "30", "--seed", "3")
    assert shown.stdout == f"to be{found['text']}\n"
    assert "a second" in shown.stderr
    other = json.loads(sxq("generate", model, "--prompt", "to be", "-n", "30", "--seed", "4", "--json").stdout)
    assert other["text"] != found["text"]


def test_a_file_writes_the_folders_text(sxq, model, tmp_path):
    """From the folder to a file, which then needs nothing else."""
    file = tmp_path / "gpt.onnx"
    result = sxq("export", model, "-o", file, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["exact"]
    options = ("--prompt", "to be", "-n", "20", "--seed", "3", "--json")
    wanted = json.loads(sxq("generate", model, *options).stdout)
    result = sxq("generate", file, "--native", "no", *options)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["text"] == wanted["text"]
    assert found["runtime"].startswith("onnxruntime")
    result = sxq("verify", model, file, "--tokens", "6", "--prompt", "to be", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["text"]["same"]
    assert (said["text"]["tokens"], said["spikes_different"]) == (6, 0)
    other = SpikeGPT.from_pretrained(model / "best")
    with torch.no_grad():
        other.ln_out.bias.add_(0.5)
    other.save_pretrained(tmp_path / "other")
    result = sxq("verify", tmp_path / "other", file, "--tokens", "3")
    assert result.exit_code == 1
    assert "first token" in result.stdout


def test_what_commands_refuse_of_language_models(sxq, model, tmp_path):
    file = tmp_path / "gpt.onnx"
    SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8)).save_pretrained(tmp_path / "silent")
    for arguments, words in (
        (["export", model, "-o", file, "--sample", "1,2"], "--sample is not of"),
        (["export", "no_models:build", "-o", file], "--sample"),
        (["export", model, "-o", file, "--form", "streaming", "--logits", "all"], "logits='all'"),
        (["verify", tmp_path / "silent", file, "--prompt", "a"], "no tokens.json"),
        (["verify", "no_models:build", file], "--data"),
        (["generate", file], "gpt.onnx"),
    ):
        result = sxq(*arguments)
        assert result.exit_code == 2, result.stderr
        assert words in result.stderr
    assert sxq("export", tmp_path / "silent", "-o", file).exit_code == 0
    result = sxq("generate", file)
    assert result.exit_code == 2
    assert "does not say what a token is" in result.stderr


def test_the_likeliest_tokens_need_no_seed(sxq, model):
    texts = {
        json.loads(sxq("generate", model, "--temperature", "0", "--seed", seed, "-n", "20", "--json").stdout)["text"]
        for seed in "12"
    }
    assert len(texts) == 1


def test_a_text_is_measured(sxq, model):
    result = sxq("lm-eval", model, model.parent / "text.txt", "--streams", "2", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tokens"] == len(TEXT) - 2
    assert found["perplexity"] == pytest.approx(2.0 ** found["bits_per_character"], rel=0.01)
    part = json.loads(sxq("lm-eval", model, model.parent / "text.txt", "--last", "0.5", "--json").stdout)
    assert 0.4 < part["tokens"] / len(TEXT) < 0.5
    shown = sxq("lm-eval", model, model.parent / "text.txt")
    assert "perplexity" in shown.stdout


def test_characters_that_the_model_does_not_know_are_named(sxq, model):
    result = sxq("generate", model, "--prompt", "to bé or é2", "-n", "3")
    assert result.exit_code == 0, result.stderr
    assert "the model's text had no 'é2'" in result.stderr
    assert result.stdout.startswith("to bé or é2")
    assert "had no" not in sxq("generate", model, "--prompt", "to be", "-n", "3").stderr


def test_a_prompt_may_be_longer_than_what_goes_through_the_model_at_once(sxq, model, tmp_path, monkeypatch):
    file, options = tmp_path / "gpt.onnx", ("--prompt", TEXT[:70], "-n", "12", "--json")
    assert sxq("export", model, "-o", file).exit_code == 0
    texts = [json.loads(sxq("generate", place, *options).stdout)["text"] for place in (model, file)]
    monkeypatch.setattr(generation, "_PIECE", 16)
    monkeypatch.setattr(running, "_PIECE", 32)
    texts += [json.loads(sxq("generate", place, *options).stdout)["text"] for place in (model, file)]
    assert len(set(texts)) == 1


def test_mistakes_are_one_line(sxq, model, tmp_path):
    gpt = SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8, head="mean"))
    gpt.save_pretrained(tmp_path / "classifier")
    TextTokens.of("characters", "abcdefgh").save(tmp_path / "classifier")
    text = model.parent / "text.txt"
    other = onnx.helper.make_graph([], "other", [], [])
    (tmp_path / "other.onnx").write_bytes(onnx.helper.make_model(other, producer_name="other").SerializeToString())
    for arguments, words in (
        (["generate", tmp_path / "nowhere"], "nowhere is not there"),
        (["generate", tmp_path], "holds neither a model"),
        (["generate", text], "is not an ONNX model"),
        (["generate", tmp_path / "other.onnx"], "was not written by sxq"),
        (["generate", model, "--prompt", "to be \udcff"], "at place 6"),
        (["generate", tmp_path / "classifier"], "classifier"),
        (["generate", model, "--prompt", ""], "--prompt"),
        (["generate", model, "--temperature", "-1"], "temperature"),
        (["generate", model, "--top-p", "0"], "top_p"),
        (["lm-eval", model, tmp_path / "no.txt"], "no.txt"),
        (["lm-eval", model, text, "--last", "0"], "--last"),
        (["lm-eval", model, text, "--streams", "5000"], "streams"),
    ):
        result = sxq(*arguments)
        assert result.exit_code == 2, result.stderr
        assert words in result.stderr
        assert not result.stdout


def test_the_folder_of_an_integer_model_may_be_called_integer(sxq, model, tmp_path):
    file = tmp_path / "gpt.onnx"
    result = sxq("export", model, "-o", file, "--integer")
    assert result.exit_code == 2
    assert "profile='reference'" in result.stderr
    gpt = SpikeGPT.from_pretrained(model / "best")
    SpikeGPT(replace(gpt.config, profile="integer")).save_pretrained(tmp_path / "integer", packed=True)
    assert sxq("export", tmp_path / "integer", "-o", tmp_path / "plain.onnx").exit_code == 0
    result = sxq("export", tmp_path / "integer", "-o", file, "--integer")
    assert result.exit_code == 0, result.stderr
    assert file.read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    result = sxq("export", tmp_path / "integer", "-o", file, "--integer", "--decay-bits", "8")
    assert result.exit_code == 2
    assert "--decay-bits is not of a SpikeGPT's folder" in result.stderr


def test_a_model_that_labels_texts_is_called_so(sxq):
    for command in (["generate", "sst2-ternary"], ["lm-eval", "sst2-ternary", "text.txt"]):
        result = sxq(*command)
        assert result.exit_code == 2
        assert "sst2-ternary is a SpikingBERT, which labels texts" in result.stderr


def test_showing_a_text_costs_each_token_the_same(sxq, model, monkeypatch):
    decoded, decode = [], TextTokens.decode
    monkeypatch.setattr(TextTokens, "decode", lambda self, ids: decoded.append(len(ids)) or decode(self, ids))
    shown = sxq("generate", model, "--prompt", "to be", "-n", "300", "--seed", "3")
    assert shown.exit_code == 0, shown.stderr
    assert len(shown.stdout) == 5 + 300 + 1
    assert max(decoded) <= 64
