"""Plans that were found are exported: the file runs spike for spike, and its weights take what the search said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import file_memory, weight_memory
from snn_extreme_quant.data import Sentences, collate
from snn_extreme_quant.deploy import export_gpt
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert, SpikingBertConfig
from snn_extreme_quant.precision_search import Classification, SentenceClassification

LEVELS = [8, 5, 3, 1.58]


def bert(**options: object) -> SpikingBert:
    """Return a SpikingBert whose neurons fire, and whose parameters differ as a trained one's do."""
    torch.manual_seed(0)
    sizes = {"vocab": 12000, "positions": 32, "layers": 2, "hidden": 64, "heads": 4, "ffn": 256, "T": 4}
    model = SpikingBert(SpikingBertConfig(**{**sizes, "threshold": 0.3, "dropout": 0.0, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("encoder", "pooler", "classifier")) and parameter.dim() == 2:
                parameter.mul_(10.0)
            parameter.add_(0.01 * torch.rand_like(parameter))
    return model


def sentences(vocab: int, count: int = 48) -> Sentences:
    """Return sentences of 2 to 9 tokens, without labels yet."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 10, count)
    ids = draw.integers(1, vocab, lengths.sum()).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sentences(ids, np.zeros(len(ids), np.int8), starts, np.zeros(count, np.float32))


def labelled(model: nn.Module, given: Sentences) -> Sentences:
    """Give each sentence the label that the model says, alone and without pads."""
    found = []
    with torch.no_grad():
        for row in range(len(given)):
            ids = torch.from_numpy(given.ids[given.starts[row] : given.starts[row + 1]]).long()[None]
            found.append(float(model(ids).argmax()))
    return Sentences(given.ids, given.types, given.starts, np.array(found, np.float32))


@pytest.mark.parametrize("kind", ["SpikingBert", "SpikeGPT"])
def test_sentences(kind: str) -> None:
    """Scores are those of sentences one by one: batches, pads and the order of rows change nothing."""
    torch.manual_seed(0)
    small = SpikeGPTConfig(vocab=50, layers=1, hidden=16, head="mean", classes=2)
    model = bert(vocab=50, layers=1) if kind == "SpikingBert" else SpikeGPT(small).eval()
    data = labelled(model, sentences(50))
    assert 0 < data.labels.mean() < 1
    evaluator = SentenceClassification(data)
    rows = np.random.default_rng(1).permutation(48)
    with torch.no_grad():
        assert evaluator.scores(model, rows).tolist() == [1.0] * 48
        turned = SentenceClassification(Sentences(data.ids, data.types, data.starts, 1.0 - data.labels))
        assert turned.scores(model, rows[:7]).tolist() == [0.0] * 7
        some = data.labels.copy()
        some[rows[3]] = 1.0 - some[rows[3]]
        mixed = SentenceClassification(Sentences(data.ids, data.types, data.starts, some))
        assert np.flatnonzero(mixed.scores(model, rows) == 0.0).tolist() == [3]
    assert evaluator.reduce(np.array([1.0, 0.0])) == 50.0
    assert len({evaluator.fingerprint(), turned.fingerprint(), mixed.fingerprint()}) == 3


def test_a_spiking_bert_is_measured_as_it_is_deployed() -> None:
    """Whatever mode it is in, time steps are simulated, and the mode stays."""
    model = bert(vocab=50, layers=1)
    evaluator = SentenceClassification(labelled(model, sentences(50)))
    model.mode = "equilibrium"
    with torch.no_grad():
        assert evaluator.scores(model, np.arange(48)).all()
    assert model.mode == "equilibrium"


@pytest.mark.parametrize("form", ["sequence", "counts"])
def test_the_plan_of_a_spiking_bert(tmp_path: Path, form: str) -> None:
    model = bert()
    data = labelled(model, sentences(12000, 24))
    found = sxq.search(
        model, SentenceClassification(data), max_drop=60.0, max_memory="30%", levels=LEVELS, sensitivity=0.0,
        alpha=500.0, tiers=["global", "block"],
    )  # fmt: skip
    assert found.feasible, str(found)
    assert found.chosen is not None
    assert found.plan is not None
    model.set_weights(found.plan)
    quality = SentenceClassification(data)
    with torch.no_grad():
        assert quality.reduce(quality.scores(model, np.arange(24))) == found.chosen.quality
    batch = collate(data, np.arange(4))
    path = tmp_path / "bert.onnx"
    sxq.export_onnx(model, batch.ids, path, form=form)
    report = sxq.verify(model, path, {"input_ids": batch.ids, "attention_mask": batch.mask})
    assert report.ok, str(report)
    assert weight_memory(model).total == found.chosen.memory
    assert file_memory(path).weights == pytest.approx(found.chosen.memory, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"binary_embedding": False, "tied": True}, {"inputs": "spikes"}])
def test_the_plan_of_a_spike_gpt(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(vocab=300, layers=2, hidden=128, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and not name.startswith("emb"):
                parameter.mul_(4.0)
            elif "time_mix" in name:
                parameter.uniform_()  # as after training: equal ones are in a file once
        ids = torch.randint(300, (100, 8))
        labels = model(ids)[:, -1].argmax(-1)  # what it says itself: quantising has something to lose
    evaluator = Classification(lambda net, rows: net(ids[rows])[:, -1], labels)
    result = sxq.search(model, evaluator, max_drop=60.0, levels=LEVELS, alpha=50.0)
    assert result.feasible, str(result)
    # The most mixed of all that were tried is stored as it was reckoned with.
    mixed = max(result.candidates, key=lambda c: len(set(c.levels.values())))
    assert len(set(mixed.levels.values())) > 1
    for found in (result.chosen, mixed):
        assert found is not None
        net = copy.deepcopy(model)
        if found.plan != sxq.PrecisionPlan():  # else it is float
            sxq.quantize_(net, found.plan)
        if found.exact:
            with torch.no_grad():
                assert evaluator.reduce(evaluator.scores(net, np.arange(100))) == found.quality
        path = tmp_path / "gpt.onnx"
        export_gpt(net, path)
        report = sxq.verify(net, path, ids[:3, :6], tokens=8)
        assert report.ok, str(report)
        assert report.spikes_different == 0 < report.spikes_compared
        if found.saved:
            assert weight_memory(net).total == found.memory
            assert file_memory(path).weights == pytest.approx(found.memory, rel=0.01)


@pytest.mark.parametrize("head", ["mean", "last"])
def test_the_plan_of_a_spike_gpt_that_classifies(tmp_path: Path, head: str) -> None:
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(vocab=300, layers=1, hidden=128, head=head)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and not name.startswith("emb"):
                parameter.mul_(4.0)
            elif "time_mix" in name:
                parameter.uniform_()
    data = labelled(model, sentences(300, 24))
    assert 0 < data.labels.mean() < 1
    result = sxq.search(model, SentenceClassification(data), max_drop=60.0, levels=LEVELS, alpha=50.0)
    mixed = max(result.candidates, key=lambda c: len(set(c.levels.values())))
    assert len(set(mixed.levels.values())) > 1
    model.set_weights(mixed.plan)
    batch = collate(data, np.arange(24))
    path = tmp_path / "gpt.onnx"
    export_gpt(model, path)
    report = sxq.verify(model, path, (batch.ids, batch.mask))
    assert report.ok, str(report)
    assert report.spikes_different == 0 < report.spikes_compared
    assert weight_memory(model).total == mixed.memory
    assert file_memory(path).weights == pytest.approx(mixed.memory, rel=0.01)


def test_the_plan_of_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lif = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3), snn.Leaky(**lif), nn.Conv2d(16, 32, 3), snn.Leaky(**lif), nn.Flatten(),
        nn.Linear(32 * 16, 96), snn.Leaky(**lif), nn.Linear(96, 6), snn.Leaky(**lif),
    )  # fmt: skip
    spikes = (torch.rand(4, 40, 2, 8, 8) < 0.4).float()

    def logits(net: nn.Module, rows: object) -> torch.Tensor:
        return torch.as_tensor(sum(net(step) for step in spikes[:, rows]))

    with torch.no_grad():
        sxq.reset(model)
        labels = logits(model, np.arange(40)).argmax(-1)
    assert len(set(labels.tolist())) > 1
    found = sxq.search(model, Classification(logits, labels), max_drop=2.5, max_memory="25%", levels=LEVELS)
    assert found.feasible, str(found)
    assert found.chosen is not None
    assert len(set(found.chosen.levels.values())) > 1
    sxq.quantize_(model, found.plan)
    path = tmp_path / "net.onnx"
    sxq.export_onnx(model, spikes[:, :1], path, input="spikes")
    report = sxq.verify(model, path, spikes[:, :3])
    assert report.ok, str(report)
    assert report.firing_rate > 0.02
    assert file_memory(path).weights == pytest.approx(found.chosen.memory, rel=0.01)
