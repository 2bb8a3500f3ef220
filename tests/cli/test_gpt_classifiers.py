"""A SpikeGPT's classifier on the command line: from the folder of its run to a file that labels texts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

WORDS = ["good film", "bad film", "a film of words and more words", "so so", "good good good"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as sxq train leaves it."""
    place = tmp_path_factory.mktemp("run")
    tokens = TextTokens.of("characters", " ".join(WORDS))
    torch.manual_seed(0)
    gpt = SpikeGPT(SpikeGPTConfig(vocab=tokens.vocab, layers=1, hidden=24, head="mean", weights="ternary")).eval()
    with torch.no_grad():
        for matrix in (gpt.blocks[0].att.value, gpt.blocks[0].att.output, gpt.blocks[0].ffn.value):
            matrix.weight.mul_(3.0)  # as after training, neurons fire
    gpt.save_pretrained(place / "last")
    tokens.save(place / "last")
    task = {"name": "sst2", "text": "words", "label": "kind", "labels": [], "metrics": ["accuracy"]}
    recipe = {"task": task, "max_tokens": 12, "data": str(place), "train": {"seed": 0, "batch": 1}, "gpt": {}}
    (place / "result.json").write_text(json.dumps({"recipe": {**recipe, "stages": []}}))
    return place


@pytest.fixture(scope="module")
def labels(run):
    """What the model in torch says."""
    gpt, tokens = SpikeGPT.from_pretrained(run / "last"), TextTokens.load(run / "last")
    with torch.no_grad():
        ids = [torch.from_numpy(tokens.encode(text)[:12].astype(np.int64)) for text in WORDS]
        return [("negative", "positive")[int(gpt(each[None]).argmax())] for each in ids]


@pytest.fixture
def file(sxq, run, tmp_path):
    path = tmp_path / "gpt.onnx"
    result = sxq("export", run, "-o", path, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["exact"]
    return path


def test_texts_are_labelled(sxq, file, labels, tmp_path):
    result = sxq("classify", "--model", file, "--native", "no", "--json", *WORDS)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [answer["label"] for answer in found["answers"]] == labels
    assert (found["mean_time_steps"], found["energy"], found["truncated"]) == (1.0, None, 2)
    assert found["firing_rate"] > 0.0
    assert "2 of 5 texts are longer than 12 tokens" in result.stderr
    (tmp_path / "texts.csv").write_text(
        "sentence,label\n" + "".join(f"{w},{n}\n" for w, n in zip(WORDS, labels, strict=True))
    )
    result = sxq("classify", "--model", file, "--file", tmp_path / "texts.csv", "--native", "no")
    assert result.exit_code == 0, result.stderr
    assert "100.00 % of 5" in result.stdout
    # In a folder it is found as model.onnx.
    file.rename(tmp_path / "model.onnx")
    shown = sxq("classify", "--model", tmp_path, WORDS[0], "--native", "no")
    assert shown.stdout.startswith(labels[0])


def test_the_file_is_verified(sxq, run, file, tmp_path):
    """On random texts, arrays, and a table in the run's column, cut off as in the run."""
    (tmp_path / "texts.tsv").write_text("words\tkind\n" + "".join(f"{text}\t0\n" for text in WORDS))
    ids = np.array([[1, 2, 3], [4, 0, 0]])
    np.savez(tmp_path / "ids.npz", input_ids=ids, attention_mask=np.array([[1, 1, 1], [1, 0, 0]]))
    tokens = [9, 8, 12, 5, 12]
    cases = (
        ((), 11, 108 + 68 + 1),
        (("--data", tmp_path / "texts.tsv"), 5, sum(tokens)),
        (("--data", tmp_path / "texts.tsv", "--data", tmp_path / "ids.npz"), 7, sum(tokens) + 4),
    )
    for options, samples, read in cases:
        result = sxq("verify", run, file, *options, "--json")
        assert result.exit_code == 0, result.stderr
        said = json.loads(result.stdout)
        assert said["answers"] == {"samples": samples, "same": samples}
        assert (said["samples"], said["spikes_different"], said["output_difference"]) == (samples, 0, 0.0)
        assert said["spikes_compared"] == 2 * 24 * read
    other = SpikeGPT.from_pretrained(run / "last")
    with torch.no_grad():
        other.ln_out.bias[3] += 0.25
    other.save_pretrained(tmp_path / "other")
    result = sxq("verify", tmp_path / "other", file)
    assert result.exit_code == 1
    assert "'logits' differs" in result.stdout


def test_inspect_tells_of_it(sxq, file):
    result = sxq("inspect", file)
    assert result.exit_code == 0, result.stderr
    assert (
        "classifier of texts: head mean, 2 classes negative, positive; tokens characters, the first 12" in result.stdout
    )
    assert json.loads(sxq("inspect", file, "--json").stdout)["facts"]["classifier"]["labels"] == [
        "negative",
        "positive",
    ]


def test_a_model_without_a_run_has_numbers_for_labels(sxq, run, tmp_path):
    SpikeGPT.from_pretrained(run / "last").save_pretrained(tmp_path / "gpt")
    TextTokens.load(run / "last").save(tmp_path / "gpt")
    assert sxq("export", tmp_path / "gpt", "-o", tmp_path / "gpt.onnx").exit_code == 0
    found = json.loads(sxq("classify", "--model", tmp_path / "gpt.onnx", WORDS[2], "--native", "no", "--json").stdout)
    assert found["answers"][0]["label"] in ("0", "1")
    assert found["tokens"] == len(WORDS[2])  # nothing is cut off


def test_mistakes_are_one_line(sxq, run, file, tmp_path):
    (tmp_path / "texts.tsv").write_text("words\tkind\ngood\t0\n")
    (tmp_path / "no.tsv").write_text("text\tkind\ngood\t0\n")
    SpikeGPT.from_pretrained(run / "last").save_pretrained(tmp_path / "silent")
    gpt = SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8))
    gpt.save_pretrained(tmp_path / "text")
    for arguments, words in (
        (["export", run, "-o", file, "--form", "streaming"], "form='streaming'"),
        (["export", run, "-o", file, "--logits", "all"], "leave logits out"),
        (["verify", run, file, "--prompt", "good"], "--prompt is of a language model"),
        (["verify", run, file, "--data", tmp_path / "no.tsv"], "no column 'words'"),
        (["verify", tmp_path / "silent", file, "--data", tmp_path / "texts.tsv"], "no tokens.json"),
        (["verify", tmp_path / "text", file, "--data", tmp_path / "texts.tsv"], "takes --prompt"),
        (["verify", "no_models:build", file, "--data", tmp_path / "texts.tsv"], "table of texts"),
        (["generate", file], "sxq classify"),
        (["lm-eval", file, tmp_path / "texts.tsv"], "sxq classify"),
        (["generate", run], "sxq export"),
        (["classify", "--model", file, "good", "--time-steps", "4"], "leave T out"),
        (["classify", "--model", file, "good", "--early-exit", "0.5"], "early exit"),
        (["classify", "--model", file, "good", "--pair", "bad"], "single texts"),
    ):
        result = sxq(*arguments)
        assert result.exit_code == 2, (arguments, result.stderr)
        assert words in result.stderr
        assert not result.stdout
