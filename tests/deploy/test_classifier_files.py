"""The file of a SpikeGPT that classifies is the model: spikes and logits, on stock onnxruntime and with kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.deploy import Classifier, GptClassifier, GptFile, export_gpt, native_status, run_file
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.language.graph import write_gpt
from snn_extreme_quant.deploy.language.verify import caught_spikes
from snn_extreme_quant.errors import ConfigError, DataError, ExportError, ModelFileError, SampleError
from snn_extreme_quant.exported.files import METADATA_KEY, read_model, seal
from snn_extreme_quant.models import SpikeGPT
from tests.deploy.test_integer_language_files import MIXED
from tests.deploy.test_language_files import GROUPS, MODELS, PLAN, SIZES, build
from tests.deploy.test_without_torch import without_torch

NATIVE = [False, *([True] if native_status().available else [])]
#: By name, precision, neurons and inputs; each has one of the heads by turns.
REFERENCE: dict[str, dict[str, Any]] = {
    **{name: options for name, options in MODELS.items() if "tied" not in options},
    "binary, tau 3": {"weights": "binary", "tau": 3.0},
    "table of numbers": {"weights": PLAN, "binary_embedding": False},
    "spikes, groups": {"weights": GROUPS, "inputs": "spikes", "layers": 1},
}
INTEGER: dict[str, dict[str, Any]] = {
    "ternary": {"weights": "ternary"},
    "mixed": {"weights": MIXED, "hidden": 70, "ffn": 100, "layers": 1},
}
LETTERS = TextTokens.of("characters", "abcdefghijklmnopqrstuvw")


def texts(*lengths: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random ids, pads behind them too, and their mask."""
    ids = torch.randint(SIZES["vocab"], (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


BATCHES = [texts(13, 1, 6, 2, 9), texts(4, 4), texts(1)]


def check(model: SpikeGPT, path: Path) -> None:
    for native in NATIVE:
        found = sxq.verify(model, path, BATCHES, native=native)
        assert found.ok, str(found)
        assert found.output_difference == 0.0
        assert found.answers is not None
        assert (found.samples, found.answers.samples, found.answers.same) == (8, 8, 8)
        assert (found.spikes_compared > 0) == model.config.spiking
        assert "native" in found.runtime or not native
        if model.config.spiking:
            tokens = sum(int(mask.sum()) for _, mask in BATCHES)
            assert all(layer.compared >= tokens * model.config.hidden for layer in found.layers)
            assert found.layers[-1].compared == tokens * model.config.hidden
            assert found.firing_rate > 0.01


@pytest.mark.parametrize("name", REFERENCE)
def test_the_file_is_the_model(tmp_path: Path, name: str) -> None:
    model = build(head=("mean", "last")[list(REFERENCE).index(name) % 2], classes=3, **REFERENCE[name])
    report = export_gpt(model, tmp_path / "gpt.onnx")
    assert report.exact == model.config.spiking
    assert report.input_shape == ("B", "L")
    check(model, tmp_path / "gpt.onnx")
    assert model.training  # as it was


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mean", "last"])
@pytest.mark.parametrize("name", REFERENCE)
def test_every_combination(tmp_path: Path, name: str, head: str) -> None:
    model = build(head=head, classes=5, **REFERENCE[name])
    export_gpt(model, tmp_path / "gpt.onnx", ternary_packing="1.6bit")
    check(model, tmp_path / "gpt.onnx")


@pytest.mark.parametrize("head", ["mean", "last"])
@pytest.mark.parametrize("name", INTEGER)
def test_integers_alone(tmp_path: Path, name: str, head: str) -> None:
    """No float but the logits, and Python's own whole numbers give the same."""
    model = build(profile="integer", head=head, classes=3, **INTEGER[name])
    report = sxq.export_onnx(model, None, tmp_path / "gpt.onnx", integer=True)
    assert report.exact
    check(model, tmp_path / "gpt.onnx")
    proto, facts = read_model(tmp_path / "gpt.onnx")
    assert facts["integer"] is True
    kinds = [value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(proto).graph.value_info]
    assert kinds.count(onnx.TensorProto.FLOAT) <= 2  # a logit in its units, and behind that
    ids, mask = texts(7, 2, 4)
    golden = golden_run(proto, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        assert np.array_equal(golden.outputs["logits"], model.eval()(ids, mask).numpy())
    shown = run_file(tmp_path / "gpt.onnx", {"input_ids": ids, "attention_mask": mask}, spikes=True, native=False)
    assert len(golden.spikes) == len(shown.spikes) == 2 * model.config.layers
    for layer, spikes in golden.spikes.items():
        assert np.array_equal(spikes, shown.spikes[layer])


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpikeGPT, Path]:
    path = tmp_path_factory.mktemp("gpt") / "gpt.onnx"
    model = build(weights="ternary", head="mean", classes=3).eval()
    export_gpt(model, path, tokens=LETTERS, labels=["bad", "good", "neither"], max_tokens=6)
    return model, path


@pytest.mark.parametrize("head", ["mean", "last"])
def test_pads_and_neighbours_change_no_bit(tmp_path: Path, head: str) -> None:
    model = build(weights="ternary", head=head, classes=3).eval()
    export_gpt(model, tmp_path / "gpt.onnx")
    file, lengths = GptClassifier(tmp_path / "gpt.onnx", native=False), (11, 3, 1)
    ids, mask = texts(*lengths)
    found = file.run(ids, mask)
    assert np.array_equal(file.run(torch.where(mask > 0, ids, 5), mask), found)
    for row, length in enumerate(lengths):
        assert np.array_equal(file.run(ids[row : row + 1, :length]), found[row : row + 1])
    assert len(np.unique(found)) == found.size


def test_a_bit_that_differs_is_found(tmp_path: Path, ternary: tuple[SpikeGPT, Path]) -> None:
    model = build(head="mean", classes=3)
    export_gpt(model, tmp_path / "gpt.onnx")
    with torch.no_grad():
        model.head.weight.mul_(1.0 + 2e-6)
    report = sxq.verify(model, tmp_path / "gpt.onnx", BATCHES)
    assert report.spikes_different == 0
    assert 0.0 < report.outputs[0].ratio < 1e-5  # which of other models' files would do
    assert not report.ok
    assert "'logits' differs" in str(report)
    assert "outputs differ" in report.verdict
    changed = build(weights="ternary", head="mean", classes=3)
    with torch.no_grad():
        changed.blocks[1].ffn.value.weight[4].neg_()
    report = sxq.verify(changed, ternary[1], BATCHES)
    assert report.spikes_different > 0
    assert not report.ok
    first = report.first_difference
    assert first is not None
    assert first.layer == "blocks.1.ffn.neurons"
    assert first.channel == (4,)


def test_spikes_at_pads_do_not_count(ternary: tuple[SpikeGPT, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands there is nobody's: torch may give it other spikes."""
    model, path = ternary
    ids, mask = texts(9, 2)
    other = torch.where(mask > 0, ids, (ids + 7) % SIZES["vocab"])
    forward = SpikeGPT.forward
    monkeypatch.setattr(SpikeGPT, "forward", lambda self, _, mask: forward(self, other, mask))
    found = sxq.verify(model, path, (ids, mask))
    assert found.ok
    assert found.layers[0].compared == 11 * 21
    assert not sxq.verify(model, path, (ids, torch.ones_like(mask))).ok


def test_the_file_labels_texts(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    file = GptClassifier(path, native=False)
    given = ["abcab", "w", "tuvwabcdefgh", "hello"]
    found = file.classify(given, batch=2)
    assert file.classify(given[::-1], batch=4) == found[::-1]
    assert [answer.truncated for answer in found] == [False, False, True, False]
    assert [answer.tokens for answer in found] == [5, 1, 6, 5]
    layers = [f"blocks.{number}.{part}.neurons" for number in range(2) for part in ("att", "ffn")]
    for text, answer in zip(given, found, strict=True):
        with torch.no_grad(), caught_spikes(model, layers) as spikes:
            logits = model(torch.from_numpy(LETTERS.encode(text)[:6].astype(np.int64))[None])[0]
        assert answer.label == ("bad", "good", "neither")[int(logits.argmax())]
        assert answer.probabilities == pytest.approx(logits.double().softmax(-1).tolist(), abs=1e-12)
        assert answer.firing_rate == pytest.approx(torch.stack([*spikes.values()]).mean().item())
        assert (answer.time_steps, answer.steps_spent, answer.energy) == (1, 1, None)


def test_the_metadata(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    proto, facts = read_model(path)
    told = facts["classifier"]
    assert told["config"] == model.config.to_dict()
    assert (told["head"], told["classes"], told["max_tokens"]) == ("mean", 3, 6)
    assert (facts["input"], facts["inputs"]) == ("tokens", ["input_ids", "attention_mask"])
    assert [value.name for value in proto.graph.output] == ["logits"]
    # Nothing is written that nobody reads.
    read = {name for node in proto.graph.node for name in node.input} | {"logits"}
    assert all(set(node.output) & read for node in proto.graph.node)


def test_it_needs_no_torch(ternary: tuple[SpikeGPT, Path]) -> None:
    done = without_torch(
        """
        from snn_extreme_quant.cli import main
        from snn_extreme_quant.deploy import GptClassifier

        (answer,) = GptClassifier(sys.argv[1], native=False).classify(["abcab"])
        assert answer.label in ("bad", "good", "neither")
        sys.argv = ["sxq", "classify", "--model", sys.argv[1], "abcab", "--native", "no"]
        main()
        """,
        ternary[1],
    )
    assert done.returncode == 0, done.stderr
    assert "firing rate" in done.stdout


def test_a_graph_that_is_not_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: SpikeGPT, *rest: Any) -> Any:
        changed = build(weights="ternary", head=model.config.head)
        with torch.no_grad():
            changed.ln_out.bias.add_(0.25)
        return write_gpt(changed.eval(), *rest)

    monkeypatch.setattr("snn_extreme_quant.deploy.language.export.write_gpt", other)
    with pytest.raises(ExportError, match="'logits' differs"):
        export_gpt(build(weights="ternary", head="last"), tmp_path / "gpt.onnx")
    assert not (tmp_path / "gpt.onnx").exists()


def test_what_export_refuses(tmp_path: Path) -> None:
    model, out = build(weights="ternary", head="mean", classes=3), tmp_path / "gpt.onnx"
    options: list[tuple[dict[str, Any], str]] = [
        ({"form": "streaming"}, "form='streaming': .* is a classifier"),
        ({"logits": "all"}, "leave logits out"),
        ({"labels": ["a", "b"]}, "has 3 classes"),
        ({"labels": ["a", "b", "b"]}, "a name of its own"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"tokens": TextTokens.of("bytes")}, "24 tokens, the tokenizer 256"),
    ]
    for given, words in options:
        with pytest.raises(ExportError, match=words):
            export_gpt(model, out, **given)
    with pytest.raises(ExportError, match="form='streaming'"):
        sxq.export_onnx(model, None, out, form="streaming")
    with pytest.raises(ExportError, match="one with profile='integer'"):
        sxq.export_onnx(model, None, out, integer=True)
    with pytest.raises(ExportError, match="labels and max_tokens are of classifiers"):
        export_gpt(build(), out, labels=["a", "b"])
    assert not out.exists()


def test_what_verify_and_runs_refuse(ternary: tuple[SpikeGPT, Path], tmp_path: Path) -> None:
    model, path = ternary
    ids, mask = texts(5, 2)
    wrong_model = [
        (build(hidden=22, head="mean", classes=3), "its hidden is 21, the model's 22"),
        (build(head="last", classes=3), "its head is 'mean'"),
        (build(), "its head is 'mean'"),
        (torch.nn.Linear(2, 2), "Linear is none"),
    ]
    for other, words in wrong_model:
        with pytest.raises(ModelFileError, match=words):
            sxq.verify(other, path, (ids, mask))
    for given, words in (
        ({"input_ids": ids, "attention_mask": mask, "token_type_ids": mask}, "token types"),
        ((ids, mask.flip(1)), "attention_mask"),
        (ids + 24, "takes 0 to 23"),
        ([], "no input"),
    ):
        with pytest.raises(SampleError, match=words):
            sxq.verify(model, path, given)
    file = GptClassifier(path, native=False)
    for one, two, words in (
        ([[24]], None, "The token 24"),
        ([1, 2], None, r"\(B, L\)"),
        (ids, mask.flip(1), "the mask is"),
        (ids, mask * 0, "the mask is"),
        (ids, mask[:, :3], "the mask is"),
    ):
        with pytest.raises(SampleError, match=words):
            file.run(one, two)
    with pytest.raises(DataError, match="Text 2 is empty"):
        file.classify(["a", " "])
    with pytest.raises(DataError, match="single texts"):
        file.classify(["a"], ["b"])
    with pytest.raises(ConfigError, match="leave T out"):
        file.classify(["a"], time_steps=4)
    with pytest.raises(ConfigError, match="early exit"):
        file.classify(["a"], early_exit=0.5)
    with pytest.raises(ModelFileError, match="sxq classify"):
        GptFile(path)
    (path.parent / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match="GptClassifier"):
        Classifier(path)
    export_gpt(build(weights="ternary"), tmp_path / "text.onnx")
    with pytest.raises(ModelFileError, match="of no SpikeGPT that classifies"):
        GptClassifier(tmp_path / "text.onnx")
    export_gpt(model, tmp_path / "silent.onnx")
    silent = GptClassifier(tmp_path / "silent.onnx")
    assert silent.labels == ("0", "1", "2")
    with pytest.raises(ModelFileError, match="does not say what a token is"):
        silent.classify(["a"])


def test_damaged_metadata_is_said(tmp_path: Path, ternary: tuple[SpikeGPT, Path]) -> None:
    proto = onnx.load(ternary[1])
    (entry,) = (entry for entry in proto.metadata_props if entry.key == METADATA_KEY)
    entry.value = entry.value.replace('"classes":3', '"clauses":3')
    kept = onnx.StringStringEntryProto(key=METADATA_KEY, value=entry.value)
    del proto.metadata_props[:]
    proto.metadata_props.append(kept)
    (tmp_path / "gpt.onnx").write_bytes(seal(proto))
    with pytest.raises(ModelFileError, match="damaged metadata"):
        GptClassifier(tmp_path / "gpt.onnx")
