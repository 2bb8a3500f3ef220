from __future__ import annotations

import numpy as np
import pytest
import torch

from snn_extreme_quant.config import Binary, Float, PrecisionPlan, Ternary
from snn_extreme_quant.errors import ConfigError, ModelSourceError, UnsupportedModelError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert import calibration
from snn_extreme_quant.models.bert.calibration import best_range, best_threshold
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer, teacher_layers
from tests.tiny_bert import WORDS, save_teacher

TEXTS = [f"{a} {b} {c}" for a in WORDS[:5] for b in WORDS[5:10] for c in WORDS[10:15]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def logits_of(teacher, student):
    batch = load_tokenizer(teacher)(TEXTS[:40], return_tensors="pt", padding=True)
    with torch.no_grad():
        return load_teacher(teacher)(**batch).logits, student.eval()(batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_with_float_weights_and_many_levels_the_student_is_its_teacher(teacher, per):
    student = SpikingBert.from_teacher(teacher, texts=TEXTS, T=128, threshold_per=per)
    expected, found = logits_of(teacher, student)
    assert student.config.head == "pooled"
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_unit_amplitudes_are_exact_too_with_one_threshold_a_tensor(teacher):
    options = {"texts": TEXTS, "T": 128, "threshold_per": "tensor"}
    student = SpikingBert.from_teacher(teacher, amplitude="unit", **options)
    expected, found = logits_of(teacher, student)
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_thresholds_from_texts_serve_better_than_a_guess(teacher):
    student = SpikingBert.from_teacher(teacher, texts=TEXTS, T=8)
    expected, found = logits_of(teacher, student)
    good = (found - expected).abs().mean()
    with torch.no_grad():
        for _, neurons in student.named_neurons():
            neurons.log_threshold.add_(0.7)
    assert (logits_of(teacher, student)[1] - expected).abs().mean() > 2 * good


def test_norms_by_shifts_start_at_the_teachers_scale(teacher):
    student = SpikingBert.from_teacher(teacher, texts=TEXTS, T=128, profile="integer").eval()
    batch = load_tokenizer(teacher)(TEXTS[:40], return_tensors="pt", padding=True)
    with torch.no_grad():
        found = student.details(batch["input_ids"], batch["attention_mask"]).hidden
        expected = load_teacher(teacher)(**batch, output_hidden_states=True).hidden_states
    for ours, theirs in zip(found, expected, strict=True):
        slope = (ours * theirs).sum() / theirs.square().sum()
        assert slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("per", "schedule"), [("channel", "synchronous"), ("tensor", "synchronous"), ("channel", "step")]
)
def test_with_offsets_unsigned_spikes_say_what_their_teacher_says(teacher, per, schedule):
    options = {"texts": TEXTS, "T": 128, "signed": False, "threshold_per": per, "schedule": schedule}
    student = SpikingBert.from_teacher(teacher, offset=True, **options).eval()
    if schedule == "step":
        student.mode = "equilibrium"
    expected, found = logits_of(teacher, student)
    assert (found - expected).abs().mean() < 0.06 * expected.std()
    without = logits_of(teacher, SpikingBert.from_teacher(teacher, **options))[1]
    assert (without - expected).abs().mean() > 0.4 * expected.std()
    batch = load_tokenizer(teacher)(TEXTS[:8], return_tensors="pt", padding=True)
    model = load_teacher(teacher)
    with torch.no_grad():
        details = student.details(batch["input_ids"], batch["attention_mask"])
        hidden = model(**batch, output_hidden_states=True).hidden_states
        own = model.bert.encoder.layer[0].attention.self
        query, key = (f(hidden[0]).unflatten(-1, (4, 8)).transpose(1, 2) for f in (own.query, own.key))
    for ours, theirs in zip(details.hidden, hidden, strict=True):
        assert (ours - theirs).square().mean() < 0.02 * theirs.var()
    scores = query @ key.mT / 8**0.5
    assert (details.scores[0] - scores).square().mean() < 0.02 * scores.var()


@pytest.mark.parametrize("classify", [True, False])
def test_what_codes_give_for_zeros_stays_with_offsets(tmp_path, classify):
    folder = save_teacher(tmp_path / "teacher", classify=classify)
    student = SpikingBert.from_teacher(folder, texts=TEXTS, T=8, signed=False, offset=True).eval()
    neurons = dict(student.named_neurons())
    read = {
        "encoder.0.attention.query": "embeddings.neurons",
        "encoder.1.attention.value": "encoder.0.neurons",
        "encoder.1.attention_output": "encoder.1.attention.neurons",
        "encoder.1.intermediate": "encoder.1.attention_neurons",
        "encoder.1.output": "encoder.1.intermediate_neurons",
        **({"pooler": "encoder.1.neurons"} if classify else {}),
    }
    points = {layer: -(neurons[name].offset / neurons[name].threshold)[None] for layer, name in read.items()}
    points["classifier"] = -neurons["pooler_neurons" if classify else "encoder.1.neurons"].offset[None]
    plan = PrecisionPlan({"encoder.*": Ternary(), "pooler": Binary(), "classifier": Ternary()}, Float())
    if not classify:
        plan = PrecisionPlan({"encoder.*": Binary(), "classifier": Ternary()}, Float())
    with torch.no_grad():
        before = {name: student.get_submodule(name)(point) for name, point in points.items()}
        bias = student.encoder[1].output.bias.clone()
        student.set_weights(plan)
        for name, point in points.items():
            torch.testing.assert_close(student.get_submodule(name)(point), before[name], atol=1e-4, rtol=1e-4, msg=name)
        assert (student.encoder[1].output.bias - bias).abs().mean() > 0.01
        student.save_pretrained(tmp_path / "kept")
        ids = torch.tensor([[2, 5, 9, 3]])
        assert torch.equal(SpikingBert.from_pretrained(tmp_path / "kept")(ids), student(ids))
        student.set_weights("float")
        torch.testing.assert_close(student.encoder[1].output.bias, bias, atol=1e-4, rtol=1e-4)


def test_packed_files_keep_offsets(teacher, tmp_path):
    student = SpikingBert.from_teacher(teacher, texts=TEXTS, T=8, signed=False, offset=True, weights="ternary").eval()
    student.save_pretrained(tmp_path, packed=True)
    twin = SpikingBert.from_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 9, 3]])
    assert torch.equal(twin(ids), student(ids))
    assert torch.equal(twin.details(ids).hidden[0], student.details(ids).hidden[0])


def test_pairs_are_texts_too(teacher):
    pairs = [(a, b) for a in WORDS[:5] for b in WORDS[5:10]]
    student = SpikingBert.from_teacher(teacher, texts=pairs, T=64)
    batch = load_tokenizer(teacher)([a for a, _ in pairs], [b for _, b in pairs], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = load_teacher(teacher)(**batch).logits
        found = student.eval()(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    assert (found - expected).abs().mean() < 0.1 * expected.std()


def test_without_texts_random_tokens_serve(teacher):
    student = SpikingBert.from_teacher(teacher, T=64)
    expected, found = logits_of(teacher, student)
    assert torch.corrcoef(torch.stack([expected[:, 0], found[:, 0]]))[0, 1] > 0.8


def test_some_layers_of_a_teacher_without_classifier(tmp_path):
    folder = save_teacher(tmp_path / "plain", layers=4, classify=False)
    student = SpikingBert.from_teacher(folder, layers=2, texts=TEXTS, T=16, classes=3, weights="ternary")
    assert student.config.layers == 2
    assert student.config.head == "cls"
    assert student.classifier.out_features == 3
    expected = load_teacher(folder).encoder.layer[1].intermediate.dense.weight
    found = student.encoder[0].intermediate.weight / student.encoder[0].attention_neurons.threshold
    torch.testing.assert_close(found, expected)


def test_best_threshold_beats_its_neighbours():
    torch.manual_seed(0)
    current = torch.randn(4000, 2) * torch.tensor([1.0, 10.0])

    def error(threshold):
        return ((current / threshold * 8).round().clamp(-8, 8) / 8 * threshold - current).square().mean(0)

    best = best_threshold(current, 8, signed=True, per_channel=True)
    assert best[1] / best[0] == pytest.approx(10, rel=0.15)
    for factor in (0.7, 1.4):
        assert (error(best) < error(best * factor)).all()


def test_best_range_beats_its_neighbours():
    torch.manual_seed(0)
    current = torch.cat([torch.randn(4000, 1).exp(), torch.randn(4000, 1) * 3 - 5], 1)

    def error(offset, threshold):
        rates = ((current - offset) / threshold * 8).round().clamp(0, 8) / 8
        return (offset + rates * threshold - current).square().mean(0)

    offset, threshold = best_range(current, 8, per_channel=True)
    best = error(offset, threshold)
    assert (best < 0.35 * error(torch.zeros(2), best_threshold(current, 8, False, True))).any()
    for factor in (0.7, 1.4):
        assert (best < error(offset, threshold * factor)).all()
        assert (best < error(offset + (factor - 1) * threshold / 2, threshold))[1]  # each end alone, on a skewed one
    shared, one = best_range(current, 8, per_channel=False)
    assert (shared.shape, one.shape) == ((2,), ())
    assert error(shared, one).sum() < error(shared, one * 2).sum()
    constant, width = best_range(torch.full((5, 1), 3.0), 8, per_channel=True)
    assert constant.item() == 3.0
    assert width.item() > 0


def test_a_large_teacher_is_sampled_in_several_runs(teacher, monkeypatch):
    whole = SpikingBert.from_teacher(teacher, texts=TEXTS, T=8).state_dict()
    monkeypatch.setattr(calibration, "_BYTES", calibration._TOKENS * 4 * 70)
    parts = SpikingBert.from_teacher(teacher, texts=TEXTS, T=8).state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    monkeypatch.setattr(calibration, "_TOKENS", 100)  # fewer than there are: spread over all texts
    some = SpikingBert.from_teacher(teacher, texts=TEXTS, T=8).state_dict()
    name = "encoder.0.neurons.log_threshold"
    assert not torch.equal(some[name], whole[name])
    assert (some[name] - whole[name]).abs().mean() < 0.2


def test_layers():
    assert teacher_layers(None, 3) == (1, 2, 3)
    assert teacher_layers(3, 6) == (2, 4, 6)
    assert teacher_layers(np.array([1, 3]), 6) == (1, 3)
    for wrong in (0, 7, True, [0, 1], [3, 2], [], "a", 1.5, ["a"], [1.5], [True], b"a", {"a": 1}):
        with pytest.raises(ConfigError, match=r"layers=.*teacher"):
            teacher_layers(wrong, 6)


def test_what_is_no_teacher_is_refused(teacher, tmp_path):
    with pytest.raises(ModelSourceError, match="nowhere"):
        SpikingBert.from_teacher(tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match="hidden_act='relu'"):
        SpikingBert.from_teacher(save_teacher(tmp_path / "relu", hidden_act="relu"))
    with pytest.raises(UnsupportedModelError, match="Linear"):
        SpikingBert.from_teacher(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="hidden"):
        SpikingBert.from_teacher(teacher, hidden=64)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "some hundred sentences"),
        ("a good film", "'a good film'.: give a list of sentences"),
        (3, "texts=3.: give a list"),
        ({"sentence": ["a good film"]}, "give a list"),
        (["good", 3], "number 1 is 3"),
        (["good", None], "number 1 is None"),
        ([("good", "film", "cast")], "number 0 is"),
        (["good", ("bad", "film")], "number 1 is a pair and number 0 is not"),
    ],
)
def test_what_are_no_texts_is_said_before_the_teacher_is_loaded(tmp_path, texts, words):
    with pytest.raises(ConfigError, match=words):
        SpikingBert.from_teacher(tmp_path / "nowhere", texts=texts)


def test_texts_may_come_one_by_one(teacher):
    expected = SpikingBert.from_teacher(teacher, texts=TEXTS[:20], T=8).state_dict()
    found = SpikingBert.from_teacher(teacher, texts=iter(TEXTS[:20]), T=8).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_folder_without_a_tokenizer_or_with_half_of_its_weights_is_no_teacher(teacher, tmp_path):
    """Transformers would make a tokenizer that knows no word."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in teacher.iterdir():
        if "token" not in path.name and "vocab" not in path.name:
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelSourceError, match="no tokenizer"):
        SpikingBert.from_teacher(bare, texts=TEXTS)
    weights = (bare / "model.safetensors").read_bytes()
    (bare / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelSourceError, match="cannot be loaded"):
        SpikingBert.from_teacher(bare)


def test_a_teacher_in_training_mode_is_measured_without_dropout_and_stays_in_it(teacher):
    module = load_teacher(teacher)
    wanted = SpikingBert.from_teacher(module).state_dict()
    module.train()
    module.bert.pooler.eval()  # each module's own flag comes back
    found = SpikingBert.from_teacher(module).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert module.bert.encoder.training
    assert not module.bert.pooler.training


def test_a_teacher_that_computes_its_ffn_in_pieces(teacher):
    module = load_teacher(teacher)
    wanted = SpikingBert.from_teacher(module).state_dict()
    for layer in module.bert.encoder.layer:
        layer.chunk_size_feed_forward = 4
    found = SpikingBert.from_teacher(module).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert [layer.chunk_size_feed_forward for layer in module.bert.encoder.layer] == [4, 4]
