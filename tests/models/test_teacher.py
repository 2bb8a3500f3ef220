from __future__ import annotations

import pytest
import torch

from snn_extreme_quant.errors import ConfigError, ModelSourceError, UnsupportedModelError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.calibration import best_threshold
from snn_extreme_quant.models.teacher import load_teacher, load_tokenizer, teacher_layers
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


def test_layers():
    assert teacher_layers(None, 3) == (1, 2, 3)
    assert teacher_layers(3, 6) == (2, 4, 6)
    for wrong in (0, 7, True, [0, 1], [3, 2], []):
        with pytest.raises(ConfigError, match="teacher"):
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
    with pytest.raises(ConfigError, match="texts"):
        SpikingBert.from_teacher(teacher, texts=[])
