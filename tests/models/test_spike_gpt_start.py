"""New SpikeGPTs: every layer of neurons fires, and every matrix learns."""

from __future__ import annotations

import pytest
import torch

from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from tests.models.spike_gpts import recorded, texts

SHAPES = {"4 x 128": (4, 128), "2 x 64": (2, 64), "1 x 37": (1, 37)}


def rates_of(model):
    with recorded(model) as spikes, torch.no_grad():
        model(texts(200))
    return {name: float(torch.cat(parts).mean()) for name, parts in spikes.items()}


def new(shape, seed=0, **options):
    torch.manual_seed(seed)
    layers, hidden = shape
    return SpikeGPT(SpikeGPTConfig(vocab=40, layers=layers, hidden=hidden, dropout=0.0, **options)).train()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "inputs", [{"inputs": "norms"}, {"inputs": "spikes"}, {"inputs": "spikes", "input_threshold": 0.3}], ids=str
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_layer_fires_from_the_start(shape, inputs, seed):
    model = new(shape, seed, **inputs)
    rates = rates_of(model)
    assert len(rates) == shape[0] * (2 if model.config.inputs == "norms" else 9) + (model.config.inputs == "spikes")
    assert all(0.05 < rate < 0.35 for rate in rates.values()), rates


@pytest.mark.parametrize("weights", ["ternary", "binary"])
def test_with_codes_no_layer_before_a_product_is_silent(weights):
    rates = rates_of(new((2, 128), inputs="spikes", weights=weights))
    assert all(rate > 0.002 for rate in rates.values()), rates


@pytest.mark.parametrize("inputs", ["norms", "spikes"])
def test_every_matrix_learns_from_the_start(inputs):
    model = new((2, 64), inputs=inputs)
    ids = texts(65, 4)
    logits = model(ids[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    sizes = {name: float(p.grad.norm() / p.detach().norm()) for name, p in model.named_parameters() if p.dim() == 2}
    assert min(sizes.values()) > 1e-5, sizes
