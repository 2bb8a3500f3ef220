from __future__ import annotations

import json

import pytest
import torch

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.generation import generate

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
    tokens, gpt = TextTokens.load(model / "best"), SpikeGPT.from_pretrained(model / "best").eval()
    expected = list(generate(gpt, tokens.encode("to be").tolist(), 30, 0.8, 0.95, 3))
    assert found["text"] == tokens.decode(expected)
    shown = sxq("generate", model / "best", "--prompt", "to be", "-n", "30", "--seed", "3")
    assert shown.stdout == f"to be{found['text']}\n"
    assert "a second" in shown.stderr
    other = json.loads(sxq("generate", model, "--prompt", "to be", "-n", "30", "--seed", "4", "--json").stdout)
    assert other["text"] != found["text"]


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


def test_mistakes_are_one_line(sxq, model, tmp_path):
    gpt = SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8, head="mean"))
    gpt.save_pretrained(tmp_path / "classifier")
    TextTokens.of("characters", "abcdefgh").save(tmp_path / "classifier")
    text = model.parent / "text.txt"
    for arguments, words in (
        (["generate", tmp_path / "nowhere"], "nowhere"),
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
