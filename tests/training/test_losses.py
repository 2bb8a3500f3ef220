"""What a student is compared with: losses by their equations, and a teacher's outputs that are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snn_extreme_quant.data import GLUE, Sentences, collate, read_rows
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer
from snn_extreme_quant.training.distillation import Distiller, Teacher
from snn_extreme_quant.training.recipe import LossWeights
from snn_extreme_quant.training.recipe_files import load_recipe
from snn_extreme_quant.training.teacher_cache import CachedTeacher


def test_losses_are_their_equations(recipe):
    loaded = load_recipe(recipe)
    teacher = load_teacher(loaded.teacher)
    rows = read_rows(GLUE["sst2"], loaded.data, "dev")
    sentences = Sentences.tokenise(rows, load_tokenizer(loaded.teacher), 16)
    batch = collate(sentences, np.arange(6))
    outputs = Teacher(teacher, (0, 1, 2), True, True)(batch)
    reference = teacher(
        input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True, output_attentions=True
    )
    pads = (1 - batch.mask[:, None, None, :]) * -1e4
    for ours, theirs in zip(outputs.scores, reference.attentions, strict=True):
        torch.testing.assert_close((ours + pads).softmax(-1), theirs)
    student = SpikingBert.from_teacher(loaded.teacher, T=8).eval()
    weights = LossWeights(hidden=1.0, scores=2.0, logits=3.0, labels=4.0, temperature=2.0)
    found = Distiller(student, 32, False).eval()(batch, outputs, weights)
    with torch.no_grad():
        details = student.details(batch.ids, batch.mask, batch.types)
    expected = {"hidden": 0.0, "scores": 0.0}
    for ours, theirs in zip(details.hidden, reference.hidden_states, strict=True):
        errors = [(ours[i, :n] - theirs[i, :n]).square() for i, n in enumerate(batch.mask.sum(1).tolist())]
        expected["hidden"] += torch.cat(errors).mean().item()
    for ours, theirs in zip(details.scores, outputs.scores, strict=True):
        errors = [
            (ours[i, :, :n, :n] - theirs[i, :, :n, :n]).square().flatten() for i, n in enumerate(batch.mask.sum(1))
        ]
        expected["scores"] += torch.cat(errors).mean().item()
    soft = (reference.logits / 2).softmax(-1)
    expected["logits"] = float(-(soft * (details.logits / 2).log_softmax(-1)).sum(-1).mean())
    picked = details.logits.log_softmax(-1)[torch.arange(6), batch.labels.long()]
    expected["labels"] = float(-picked.mean())
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(value, rel=1e-4), name
    total = sum(getattr(weights, name) * value for name, value in expected.items())
    assert float(found["loss"].detach()) == pytest.approx(total, rel=1e-4)


def test_outputs_of_other_weights_are_computed_anew(recipe, tmp_path):
    loaded = load_recipe(recipe)
    model, tokenizer = load_teacher(loaded.teacher), load_tokenizer(loaded.teacher)
    sentences = Sentences.tokenise(read_rows(GLUE["sst2"], loaded.data, "dev"), tokenizer, 16)
    batch = collate(sentences, np.array([5, 0, 9]))
    for change in (0.0, 0.5):
        with torch.no_grad():
            model.bert.encoder.layer[0].output.dense.bias.add_(change)
        teacher = Teacher(model, (0, 1, 2), True, False)
        kept, fresh = CachedTeacher(teacher, sentences, tmp_path, "no")(batch), teacher(batch)
        torch.testing.assert_close(kept.logits, fresh.logits, atol=1e-5, rtol=0)
        used = batch.mask.bool()
        torch.testing.assert_close(kept.hidden[:, used].float(), fresh.hidden[:, used], atol=2e-3, rtol=1e-3)
