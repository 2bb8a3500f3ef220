"""A plan that was found is trained for a while."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import weight_memory
from snn_extreme_quant.data import Sentences, collate
from snn_extreme_quant.errors import ConfigError, SearchError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.precision_search import (
    Classification,
    SearchResult,
    SentenceClassification,
    SentenceLoss,
    TextLoss,
    TextPerplexity,
    polish,
)
from tests.precision_search.networks import bits_of, trained


def learnt(evaluator: Classification) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of ``trained``."""
    torch.manual_seed(0)
    return torch.randn(400, 6), torch.from_numpy(evaluator.labels)


@pytest.fixture(scope="module")
def searched() -> tuple[nn.Module, Classification, SearchResult]:
    """A search whose limits cannot be met without training."""
    net, evaluator = trained()
    found = sxq.search(net, evaluator, max_drop=4.0, max_memory="17%", levels=[8, 2, 1], sensitivity=0.0)
    assert not found.feasible
    assert found.least_drop is not None
    return net, evaluator, found


def test_it_meets_limits_that_the_search_alone_does_not(
    searched: tuple[nn.Module, Classification, SearchResult],
) -> None:
    net, evaluator, found = searched
    assert found.least_drop is not None
    inputs, labels = learnt(evaluator)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    done = polish(net, evaluator, found, lambda m, _: F.cross_entropy(m(inputs), labels), steps=150, rate=1e-2)
    assert done.kept
    assert done.before == found.least_drop.quality
    assert done.candidate.quality > done.before + 5.0
    assert done.feasible == (done.candidate.drop <= 4.0)
    assert done.feasible
    assert "the limits are met" in str(done)
    assert done.losses[-1] < done.losses[0]
    # The model is what the figures are of.
    with torch.no_grad():
        right = (done.model(inputs).argmax(-1) == labels).double().mean()
    assert 100.0 * float(right) == pytest.approx(done.candidate.quality)
    assert done.candidate.memory == weight_memory(done.model).total
    assert done.candidate.score == pytest.approx(done.candidate.quality - 10.0 * (1 - done.candidate.saved))
    assert done.plan == found.least_drop.plan
    # The given one is as it was.
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert set(bits_of(net).values()) == {32}
    assert done.to_dict()["steps"] == 150


def test_training_that_does_harm_is_taken_back(searched: tuple[nn.Module, Classification, SearchResult]) -> None:
    net, evaluator, found = searched
    inputs, labels = learnt(evaluator)
    done = polish(net, evaluator, found, lambda m, _: -F.cross_entropy(m(inputs), labels), steps=20, rate=1e-2)
    assert not done.kept
    assert done.candidate.quality == done.before
    with torch.no_grad():
        right = (done.model(inputs).argmax(-1) == labels).double().mean()
    assert 100.0 * float(right) == pytest.approx(done.before)
    assert "did not help" in str(done)
    assert "not met" in str(done)


def test_another_model_or_other_data_are_noticed(searched: tuple[nn.Module, Classification, SearchResult]) -> None:
    _, evaluator, found = searched
    other = copy.deepcopy(searched[0])
    nn.init.normal_(other[0].weight)
    with pytest.raises(SearchError, match="where the search found"):
        polish(other, evaluator, found, lambda m, _: m(torch.zeros(1, 6)).sum(), steps=1)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda m, _: m(torch.zeros(1, 6)).sum() * torch.nan, SearchError, "The loss of step 0 is nan"),
        (lambda m, _: m(torch.zeros(1, 6)), ConfigError, "a tensor of one number"),
        (lambda _m, _: torch.zeros(()), ConfigError, "with gradients"),
        (lambda _m, _: 1.0, ConfigError, "has to give"),
    ],
)
def test_losses_that_are_none(
    searched: tuple[nn.Module, Classification, SearchResult], loss: object, error: type[Exception], message: str
) -> None:
    net, evaluator, found = searched
    with pytest.raises(error, match=message):
        polish(net, evaluator, found, loss, steps=3)


@pytest.mark.parametrize("option", [{"steps": 0}, {"steps": True}, {"steps": 1, "rate": 0.0}, {"steps": 1, "seed": -1}])
def test_options_that_mean_nothing(
    searched: tuple[nn.Module, Classification, SearchResult], option: dict[str, object]
) -> None:
    net, evaluator, found = searched
    with pytest.raises(ConfigError, match="polish"):
        polish(net, evaluator, found, lambda m, _: m(torch.zeros(1, 6)).sum(), **option)


def test_without_a_plan_there_is_nothing_to_polish(
    searched: tuple[nn.Module, Classification, SearchResult],
) -> None:
    net, evaluator, found = searched
    none = dataclasses.replace(found, least_drop=None)
    with pytest.raises(ConfigError, match="no plan within the memory"):
        polish(net, evaluator, none, lambda m, _: m(torch.zeros(1, 6)).sum(), steps=1)


def small(**options: object) -> SpikeGPT:
    torch.manual_seed(0)
    return SpikeGPT(SpikeGPTConfig(**{"vocab": 12, "layers": 1, "hidden": 16, "dropout": 0.0, **options})).eval()


def test_a_language_model() -> None:
    model = small()
    ids = np.arange(400) * 5 % 12  # each token says the next
    evaluator = TextPerplexity(ids[:200], streams=8)
    found = sxq.search(model, evaluator, max_drop=100.0, levels=[3], tiers=["global"])
    loss = TextLoss(model, ids, context=20, batch=4)
    assert loss(model, 0).item() == loss(model, 0).item()  # the same step is the same batch
    done = polish(model, evaluator, found, loss, steps=12, rate=1e-2)
    assert done.candidate.quality < done.before
    assert done.candidate.drop < 0.0
    assert done.model.config.plan.config_for("blocks.0.att.key") == sxq.Uniform(3, scale="mse")


def test_sentences_are_half_labels_and_half_the_model_before() -> None:
    model = small(head="mean", classes=2)
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 6, 10)
    ids = draw.integers(0, 12, lengths.sum()).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = Sentences(ids, np.zeros(len(ids), np.int8), starts, (np.arange(10) % 2).astype(np.float32))
    loss = SentenceLoss(model, data, batch=10)
    batch = collate(data, np.arange(10))
    with torch.no_grad():
        logits = model(batch.ids, batch.mask)
        expected = 0.5 * F.cross_entropy(logits, batch.labels.long())
        expected -= 0.5 * (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    assert loss(model, 3).item() == pytest.approx(expected.item(), rel=1e-5)
    found = sxq.search(model, SentenceClassification(data), max_drop=100.0, levels=[1], tiers=["global"])
    done = polish(model, SentenceClassification(data), found, SentenceLoss(model, data, batch=5), steps=2)
    assert len(done.losses) == 2
    with pytest.raises(ConfigError, match="batch=0"):
        SentenceLoss(model, data, batch=0)
