"""Folders of the schedule "step": T at run time, and early exit that goes on with the simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import Classifier, native_status
from snn_extreme_quant.deploy.model_folders.step_files import why_no_parts
from snn_extreme_quant.errors import ConfigError, ExportError
from snn_extreme_quant.models import SpikingBert
from tests.packed_models import TEXTS, save_folder, save_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("step")
    student = {"schedule": "step", "T": 6, "start": 0.25, "profile": "integer", "layers": 1}
    return save_folder(place, (2,), student=student)


@pytest.fixture(scope="module")
def classifier(folder):
    return Classifier(folder, native=False)


def probabilities(answers):
    return np.asarray([answer.probabilities for answer in answers])


@pytest.mark.parametrize("steps", [2, 6])
def test_every_offered_t_is_the_models(folder, classifier, steps):
    model = SpikingBert.from_pretrained(folder)
    model.set_time_steps(steps)
    given = classifier.batch(classifier.encode(TEXTS))
    with torch.no_grad():
        expected = model(*(torch.from_numpy(value) for value in given.values())).softmax(-1)
    answers = classifier.classify(TEXTS, time_steps=steps)
    np.testing.assert_allclose(probabilities(answers), expected.numpy(), atol=1e-6)


def test_a_simulation_that_goes_on_is_the_whole_one(classifier):
    """Three parts of 2 steps with their potentials handed on: the spikes of 6 steps at once."""
    assert classifier.goes_on
    whole, parts = (classifier.classify(TEXTS * 3, early_exit=margin, batch=5) for margin in (None, 1.0))
    np.testing.assert_allclose(probabilities(parts), probabilities(whole), atol=1e-6)
    for one, other in zip(whole, parts, strict=True):
        assert one.energy.spiking.accumulations == other.energy.spiking.accumulations
        assert one.firing_rate == pytest.approx(other.firing_rate, rel=1e-9)
        assert (other.label, other.time_steps, other.steps_spent) == (one.label, 6, 6)


def test_each_text_leaves_when_its_margin_is_reached(folder, classifier):
    model = SpikingBert.from_pretrained(folder)
    given = classifier.batch(classifier.encode(TEXTS))
    by_steps = {}
    for T in (2, 4, 6):
        model.set_time_steps(T)
        with torch.no_grad():
            by_steps[T] = model(*(torch.from_numpy(value) for value in given.values())).softmax(-1).numpy()
    margins = sorted(float(abs(row[0] - row[1])) for row in by_steps[2])
    least = (margins[1] + margins[2]) / 2
    answers = classifier.classify(TEXTS, early_exit=least)
    assert [answer.time_steps for answer in answers].count(2) == 2
    for row, answer in enumerate(answers):
        reached = [T for T, found in by_steps.items() if abs(found[row][0] - found[row][1]) >= least]
        assert answer.time_steps == answer.steps_spent == min([*reached, 6])
        np.testing.assert_allclose(answer.probabilities, by_steps[answer.time_steps][row], atol=1e-6)


def test_scales_and_biases_are_paid_in_each_step(classifier):
    macs = [classifier.classify(TEXTS[:1], time_steps=T)[0].energy.spiking.macs for T in (2, 6)]
    sizes = classifier.folder.sizes
    head = sizes.hidden * sizes.classes
    assert macs[1] - head == 3 * (macs[0] - head)


@pytest.mark.skipif(not native_status().available, reason="no compiler")
def test_native_kernels_go_on_with_the_same_spikes(folder, classifier):
    native = Classifier(folder, native=True)
    assert "native" in (native.open(6, early_exit=True) or native.runtime)
    found, expected = (c.classify(TEXTS, early_exit=1.0) for c in (native, classifier))
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-6)
    assert [a.energy.spiking for a in found] == [a.energy.spiking for a in expected]


LEAKY = {"schedule": "step", "T": 2, "leak": 0.9, "layers": 1}


@pytest.mark.slow
def test_what_leaks_has_one_t(tmp_path):
    """A leak weighs steps by their number, so the graphs for two T are not alike."""
    with pytest.raises(ExportError, match="T = 4"):
        save_folder(tmp_path, (4,), student=LEAKY)


def test_what_leaks_does_not_go_on(tmp_path):
    classifier = Classifier(save_folder(tmp_path, (), student=LEAKY, rows=None), native=False)
    assert classifier.offered == (2,)
    assert not classifier.goes_on
    assert "leak" in why_no_parts(classifier._model, classifier._nodes(classifier._model))
    with pytest.raises(ConfigError, match="no earlier T"):
        classifier.classify(TEXTS, early_exit=0.5)


def test_a_file_of_all_steps_of_the_synchronous_schedule(tmp_path):
    student = save_student(tmp_path, T=4, profile="integer", layers=1)
    model = SpikingBert.from_pretrained(student)
    ids = torch.arange(14).reshape(2, 7)
    for form in ("sequence", "counts"):
        (tmp_path / form).mkdir()
        (tmp_path / form / "tokenizer.json").write_bytes((student / "tokenizer.json").read_bytes())
        sxq.export_onnx(model, (ids, torch.ones_like(ids)), tmp_path / form / "x.onnx", form=form)
    steps, counts = (Classifier(tmp_path / form / "x.onnx", native=False) for form in ("sequence", "counts"))
    one, other = (c.classify(TEXTS) for c in (steps, counts))
    np.testing.assert_allclose(probabilities(one), probabilities(other), atol=1e-6)
    assert [a.firing_rate for a in one] == pytest.approx([a.firing_rate for a in other])
    assert steps.firing_rates(TEXTS) == pytest.approx(counts.firing_rates(TEXTS))
    with pytest.raises(ConfigError, match="no earlier T"):
        steps.classify(TEXTS, early_exit=0.5)
