from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import uses_external_data

import snn_extreme_quant as sxq
from snn_extreme_quant.data import GLUE, Rows
from snn_extreme_quant.deploy import Classifier, Packing, pack_model
from snn_extreme_quant.deploy.model_folders import packing as packing_module
from snn_extreme_quant.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    ModelEditedError,
    ModelFileError,
)
from snn_extreme_quant.exported.external import point_into
from snn_extreme_quant.exported.files import is_sealed, read_model
from snn_extreme_quant.exported.inspection import inspect_file
from snn_extreme_quant.exported.time_steps import at_time_steps, offered_time_steps, with_time_steps
from snn_extreme_quant.models import SpikingBert
from tests.packed_models import TEXTS, save_folder, save_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def classifier(folder):
    return Classifier(folder, native=False)


def torch_logits(folder, steps, given):
    model = SpikingBert.from_pretrained(folder)
    model.set_time_steps(steps)
    with torch.no_grad():
        return model(*(torch.from_numpy(value) for value in given.values())).numpy()


def test_the_graph_reads_its_weights_from_the_one_copy(folder):
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    beside = {tensor.name for tensor in proto.graph.initializer if uses_external_data(tensor)}
    packed = {tensor.name for tensor in proto.graph.initializer if tensor.name.endswith(".packed")}
    assert {name for name in packed if "types" not in name} <= beside
    assert {"embeddings.words.packed", "classifier.weight"} <= beside  # a float one, too
    in_it = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert in_it < (folder / "model.safetensors").stat().st_size / 3
    assert is_sealed((folder / "model.onnx").read_bytes())


@pytest.mark.parametrize("place", [3, -1, 0.5])
def test_weights_that_are_not_those_of_the_graph_are_refused(folder, tmp_path, place):
    """A code that became another code, which no check of codes can see, and a header that was changed."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelEditedError, match=r"model\.safetensors is not the file"):
        Classifier(copy)
    read_model(copy / "model.onnx", allow_edited=True)
    assert "is not the file" in inspect_file(copy / "model.onnx").damage[0]
    (copy / "model.safetensors").unlink()
    assert "cannot be read" in inspect_file(copy / "model.onnx").damage[0]


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_tokenizer_or_configuration_of_another_model_is_refused(folder, tmp_path, name):
    """A swapped word or another T is whole JSON, and would answer for another text or tell another energy."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / name).read_text(encoding="utf-8")
    changed = text.replace('"good"', '"goodd"', 1) if name == "tokenizer.json" else text.replace('"T": 8', '"T": 4')
    assert changed != text
    (copy / name).write_text(changed, encoding="utf-8")
    with pytest.raises(ModelEditedError, match=rf"{name} is not the file that model\.onnx was made with"):
        Classifier(copy)
    assert f"{name} is not the file" in inspect_file(copy / "model.onnx").damage[0]
    read_model(copy / "model.onnx", allow_edited=True)
    (copy / name).unlink()  # the graph runs without, on ids
    read_model(copy / "model.onnx")
    assert inspect_file(copy / "model.onnx").damage == ()


def test_packing_that_fails_leaves_the_folder_as_it_was(folder, tmp_path, monkeypatch):
    student = save_student(tmp_path)
    made = tmp_path / "made"
    shutil.copytree(folder, made)
    before = {path.name: path.read_bytes() for path in made.iterdir()}

    def fail(*_, **__):
        raise ExportError("no graph")

    monkeypatch.setattr(packing_module, "_write_graph", fail)
    packing = Packing("own", GLUE["sst2"], ("negative", "positive"), max_tokens=16)
    for target in (made, tmp_path / "new"):
        with pytest.raises(ExportError, match="no graph"):
            pack_model(student, target, packing)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_runtime_that_knows_nothing_runs_the_trained_time_steps(folder, classifier):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    given = classifier.batch(classifier.encode(TEXTS))
    np.testing.assert_allclose(session.run(None, given)[0], torch_logits(folder, 8, given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_every_offered_t_is_the_models(folder, classifier, steps):
    assert classifier.offered == (2, 4, 8)
    given = classifier.batch(classifier.encode(TEXTS))
    exponent = np.exp(torch_logits(folder, steps, given).astype(np.float64))
    answers = classifier.classify(TEXTS, time_steps=steps)
    expected = exponent / exponent.sum(-1, keepdims=True)
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, atol=1e-5)
    assert {answer.time_steps for answer in answers} == {steps} == {answer.steps_spent for answer in answers}


def test_the_file_is_verified_and_inspected_like_any_other(folder):
    model = SpikingBert.from_pretrained(folder)
    report = sxq.verify(model, folder / "model.onnx", torch.tensor([[2, 5, 6, 3], [2, 8, 3, 0]]), native=False)
    assert report.samples == 2
    assert sum(layer.different for layer in report.layers) < 0.001 * sum(layer.compared for layer in report.layers)
    found = inspect_file(folder / "model.onnx")
    assert not found.damage
    assert {"embeddings.words", "encoder.1.output"} <= {layer.name for layer in found.layers}


def test_firing_rates_are_those_of_the_model(folder, classifier):
    model = SpikingBert.from_pretrained(folder)
    found = []
    for _, neurons in model.named_neurons():
        neurons.register_forward_hook(lambda *arguments: found.append(arguments[-1].abs()))
    for text in TEXTS:
        found.clear()
        given = classifier.batch(classifier.encode([text]))
        model(*(torch.from_numpy(value) for value in given.values()))
        expected = sum(float(rates.detach().sum()) for rates in found) / sum(rates.numel() for rates in found)
        [answer] = classifier.classify([text])
        assert answer.firing_rate == pytest.approx(expected, rel=1e-3)


def test_the_batch_changes_nothing(classifier):
    texts = TEXTS * 3
    alone = [classifier.classify([text])[0] for text in texts]
    for size in (1, 2, 5, 32):
        for one, other in zip(alone, classifier.classify(texts, batch=size), strict=True):
            assert (one.label, one.tokens, one.energy) == (other.label, other.tokens, other.energy)
            assert one.firing_rate == pytest.approx(other.firing_rate)
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_early_exit_goes_on_until_the_margin_is_reached(classifier):
    by_steps = {T: classifier.classify(TEXTS, time_steps=T) for T in (2, 4, 8)}
    margins = sorted(answer.margin for answers in by_steps.values() for answer in answers)
    for margin in (0.0, *margins, 1.0):
        for row, answer in enumerate(classifier.classify(TEXTS, early_exit=margin)):
            expected, spent, joules = 8, 0, 0.0
            for T, answers in by_steps.items():
                spent, joules = spent + T, joules + answers[row].energy.spiking.joules
                if answers[row].margin >= margin + 1e-6 or T == 8:
                    expected = T
                    break
            if abs(answer.margin - margin) < 1e-5:
                continue  # on the edge, sums in another order decide
            assert (answer.time_steps, answer.steps_spent) == (expected, spent)
            assert answer.label == by_steps[expected][row].label
            assert answer.energy.spiking.joules == pytest.approx(joules)
            assert answer.energy.dense == by_steps[2][row].energy.dense
    assert {answer.time_steps for answer in classifier.classify(TEXTS, early_exit=0.0)} == {2}
    spent = [answer.steps_spent for answer in classifier.classify(TEXTS, early_exit=1.0, time_steps=4)]
    assert spent == [6] * len(TEXTS)


def test_energy_is_less_with_fewer_steps(classifier):
    joules = [sum(a.energy.spiking.joules for a in classifier.classify(TEXTS, time_steps=T)) for T in (2, 4, 8)]
    assert joules == sorted(joules)
    assert joules[0] < joules[-1] / 2


def test_what_is_said_of_the_folder_is_so(folder, classifier):
    run = json.loads((folder / "run.json").read_text())
    assert run["training"] == {"seed": 3}
    assert run["trained_time_steps"] == 8
    assert run["dev"]["agreement_with_torch"] == 1.0
    assert set(run["dev"]["by_time_steps"]) == {"2", "4", "8"}
    text = (folder / "README.md").read_text()
    assert f"{100 * run['dev']['by_time_steps']['8']['accuracy']:.2f} %" in text
    assert "Seed: 3" in text
    assert "not stated" in text
    assert classifier.labels == ("bad", "good")
    assert classifier.max_tokens == 16


def test_texts_are_cut_off(classifier):
    [answer] = classifier.classify(["good " * 40])
    assert answer.truncated
    assert answer.tokens == 16


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"time_steps": 32}, ConfigError, "2, 4, 8"),
        ({"time_steps": 3}, ConfigError, "T = 3"),
        ({"early_exit": 1.5}, ConfigError, "0 to 1"),
        ({"early_exit": float("nan")}, ConfigError, "0 to 1"),
        ({"batch": 0}, ConfigError, "batch"),
        ({"texts": ["good", "  "]}, DataError, "Text 2"),
        ({"texts": ["good", "b\udcffd"]}, DataError, "Text 2 holds bytes"),
        ({"pairs": ["bad"]}, DataError, "single texts"),
        ({"texts": "good film"}, DataError, r"got 'good film': for one text write texts=\[...\]"),
        ({"texts": 3}, DataError, "texts is a list of texts; got 3"),
        ({"texts": ["good", 3]}, DataError, "number 2 is of type int"),
        ({"pairs": "bad"}, DataError, "pairs is a list"),
        ({"pairs": [None]}, DataError, "number 1 is of type NoneType"),
        ({"time_steps": "8"}, ConfigError, "T = '8' is not offered"),
        ({"early_exit": "0.9"}, ConfigError, "early_exit='0.9'"),
        ({"batch": 1.5}, ConfigError, "batch=1.5: use a whole number"),
        ({"batch": "32"}, ConfigError, "whole number"),
    ],
)
def test_what_means_nothing_is_refused(classifier, options, error, match):
    with pytest.raises(error, match=match):
        classifier.classify(**({"texts": ["good"]} | options))


def test_no_texts_have_no_answers(classifier):
    assert classifier.classify([]) == []
    with pytest.raises(DataError, match="no texts"):
        classifier.firing_rates([])


def test_other_files_are_refused(folder, tmp_path):
    with pytest.raises(ModelFileError, match="sst2-ternary"):
        Classifier("sst2-ternery")
    with pytest.raises(ModelFileError, match="None is no model"):
        Classifier(None)
    with pytest.raises(ModelFileError, match="no model"):
        Classifier(tmp_path)
    (tmp_path / "best").mkdir()
    with pytest.raises(ModelFileError, match="sxq pack"):
        Classifier(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    good = (copy / "run.json").read_text()
    (copy / "run.json").write_text(good.replace('"bad",', '"bad", "neither",'))
    with pytest.raises(ModelFileError, match=r"2 classes, run.json names 3"):
        Classifier(copy)
    (copy / "run.json").write_text("[]")
    with pytest.raises(ModelFileError, match="no JSON object"):
        Classifier(copy)
    (copy / "run.json").write_text(good)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="has no 'config'"):
        Classifier(copy)
    (copy / "config.json").write_text(config)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-2000])
    with pytest.raises(ModelEditedError, match=r"model.safetensors"):
        Classifier(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model.safetensors"):
        Classifier(copy)
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"tokenizer.json"):
        Classifier(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"tokenizer.json is missing"):
        Classifier(copy / "model.onnx")


def test_a_bare_file_has_numbers_for_labels_and_no_energy(folder, tmp_path):
    for name in ("model.onnx", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    [answer] = Classifier(tmp_path / "model.onnx", native=False).classify(["good"])
    assert answer.label in ("0", "1")
    assert answer.energy is None


@pytest.mark.slow
def test_pairs_of_texts(tmp_path):
    task = replace(GLUE["mrpc"])
    rows = Rows(["good film", "a plot"], ["fine film", "dull"], [1.0, 0.0])
    packing = Packing("pairs", task, ("no", "yes"), 12, time_steps=(4,), rows=rows)
    run = pack_model(save_student(tmp_path), tmp_path / "pairs", packing)
    assert run["dev"]["agreement_with_torch"] == 1.0
    classifier = Classifier(tmp_path / "pairs", native=False)
    one, other = (classifier.classify(["good film"], [second])[0] for second in ("fine film", "bad"))
    assert one.probabilities != other.probabilities
    with pytest.raises(DataError, match="--pair-column"):
        classifier.classify(["good film"])


def test_what_cannot_be_packed(tmp_path):
    packing = Packing("x", GLUE["sst2"], ("a", "b"), 16, time_steps=(4,))
    with pytest.raises(CheckpointError, match=r"config.json"):
        pack_model(tmp_path, tmp_path / "x", packing)
    student = save_student(tmp_path)
    with pytest.raises(ConfigError, match="3 labels for 2 classes"):
        pack_model(student, tmp_path / "x", replace(packing, labels=("a", "b", "c")))
    with pytest.raises(ConfigError, match="T="):
        pack_model(student, tmp_path / "x", replace(packing, time_steps=(5,)))
    score = replace(packing, task=GLUE["stsb"], labels=())
    with pytest.raises(ConfigError, match="2 outputs, but the task 'stsb' is of regression"):
        pack_model(student, tmp_path / "x", score)
    one = save_student(tmp_path / "one", classes=1)
    with pytest.raises(ConfigError, match="1 outputs, but the task 'sst2' is of classes"):
        pack_model(one, tmp_path / "x", packing)
    with pytest.raises(ConfigError, match="leave them out"):
        pack_model(one, tmp_path / "x", replace(score, labels=("a",)))
    (student / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"tokenizer.json"):
        pack_model(student, tmp_path / "x", packing)


def test_time_steps_of_a_file(folder):
    model, facts = read_model(folder / "model.onnx")
    assert offered_time_steps(model) == (2, 4, 8)
    assert facts["schedule"]["steps"] == 8
    assert at_time_steps(model, 8) is model
    with pytest.raises(ConfigError, match="2, 4, 8"):
        at_time_steps(model, 64)
    other = at_time_steps(model, 2)
    assert offered_time_steps(other) == (2,)
    again = with_time_steps({2: other, 8: model}, 2)
    assert offered_time_steps(again) == (2, 8)
    assert at_time_steps(again, 8).graph == model.graph
    assert again.ByteSize() < other.ByteSize() + 40_000
    broken = onnx.ModelProto()
    broken.CopyFrom(other)
    broken.graph.node[3].op_type = "Identity"
    with pytest.raises(ExportError, match="other nodes"):
        with_time_steps({8: model, 2: broken}, 8)
    for entry in model.metadata_props:
        if entry.key.endswith("time_steps"):
            entry.value = json.dumps({"2": {"attributes": [["steps", 2.0, [0, 9999]]], "factors": [], "values": {}}})
    with pytest.raises(ModelFileError, match="does not fit"):
        at_time_steps(model, 2)


def test_pointing_into_what_is_no_safetensors_file(folder, tmp_path):
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="safetensors"):
        point_into(onnx.load(folder / "model.onnx", load_external_data=False), tmp_path / "x")
