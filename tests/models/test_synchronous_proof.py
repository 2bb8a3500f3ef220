"""On the synchronous schedule rates on T levels *are* T simulated steps, event by event: the same predictions."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from snn_extreme_quant import SpikeTrain, schedule
from snn_extreme_quant.data import GLUE, read_rows
from snn_extreme_quant.neurons.equilibrium import ChannelIF
from tests.models.test_spiking_bert import build


def fire_one_by_one(neuron: ChannelIF, current: Tensor | SpikeTrain) -> SpikeTrain:
    """Do what docs/synchronous.md says of the neuron, step by step: half a threshold, the input, then spikes."""
    mean = current.rates if isinstance(current, SpikeTrain) else current
    potential = (mean / neuron.threshold * neuron.T + 0.5).double()  # in thresholds; whole steps are exact from here
    spikes = []
    for _ in range(neuron.T):
        spike = (potential >= 1.0).double()
        if neuron.signed:
            spike = spike - (potential < 0.0).double()
        potential = potential - spike
        spikes.append(spike.to(mean.dtype))
    return SpikeTrain(torch.stack(spikes))


def add_step_by_step(train: SpikeTrain, func, args, kwargs) -> Tensor:
    """Add what each step's spikes contribute, one step after another."""
    weight, bias = (*args, None, None)[:2]
    weight, bias = kwargs.get("weight", weight), kwargs.get("bias", bias)
    total = torch.zeros(())
    for spikes in train.spikes:
        total = total + func(spikes, weight, None)
    mean = total * (1.0 / train.steps)
    return mean if bias is None else mean + bias


@pytest.fixture
def event_by_event(monkeypatch):
    """Switch the schedule "spikes" to the two functions above; return what counts their calls."""
    calls = {"neurons": 0, "products": 0}
    counted = ChannelIF.forward

    def forward(neuron, current):
        if neuron.schedule == "counts":
            return counted(neuron, current)
        calls["neurons"] += 1
        return fire_one_by_one(neuron, current)

    def product(train, func, args, kwargs):
        calls["products"] += 1
        return add_step_by_step(train, func, args, kwargs)

    monkeypatch.setattr(ChannelIF, "forward", forward)
    monkeypatch.setattr(SpikeTrain, "_product", product)
    return calls


@torch.no_grad()
def assert_identical(model, ids, mask, calls):
    counted = model.details(ids, mask)
    with schedule(model, "spikes"):
        spiked = model.details(ids, mask)
    assert torch.equal(spiked.logits, counted.logits)
    for a, b in zip((*spiked.hidden, *spiked.scores), (*counted.hidden, *counted.scores), strict=True):
        assert torch.equal(a, b)
    layers = len(model.encoder)
    assert calls["neurons"] % (1 + 6 * layers) == 0
    assert calls["products"] % (6 * layers) == 0
    assert calls["neurons"] > 0


@pytest.mark.parametrize("T", [1, 4, 16])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("weights", "profile"), [("ternary", "reference"), ("binary", "integer")])
def test_counts_are_spikes_event_by_event(event_by_event, T, signed, weights, profile):
    model = build(T=T, signed=signed, weights=weights, profile=profile, threshold=0.3 if signed else 0.1)
    ids = torch.randint(40, (8, 9), generator=torch.Generator().manual_seed(T))
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    assert_identical(model, ids, mask, event_by_event)
    assert model(ids, mask).std(0).min() > 1e-3  # the sentences get different predictions


@pytest.mark.slow
@pytest.mark.skipif("SXQ_DATA" not in os.environ, reason="SXQ_DATA names no folder of data sets")
@pytest.mark.parametrize("weights", ["ternary", "binary"])
def test_predictions_on_a_dev_set_are_identical(event_by_event, weights):
    rows = read_rows(GLUE["sst2"], Path(os.environ["SXQ_DATA"]) / "sst2", "dev")
    model = build(T=16, weights=weights, vocab=1000, positions=64, hidden=64, ffn=128)
    sentences = [[1 + zlib.crc32(word.encode()) % 999 for word in text.split()][:64] for text in rows.texts]
    labels = set()
    for start in range(0, len(sentences), 64):
        part = sentences[start : start + 64]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        for row, words in zip(ids, part, strict=True):
            row[: len(words)] = torch.tensor(words)
        assert_identical(model, ids, (ids > 0).long(), event_by_event)
        with torch.no_grad():
            labels.update(model(ids, (ids > 0).long()).argmax(1).tolist())
    assert len(sentences) > 800
    assert labels == {0, 1}
