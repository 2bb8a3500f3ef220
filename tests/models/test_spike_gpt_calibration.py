"""A SpikeGPT quantised after training: codes chosen by the layers' outputs on a text, and kept in files."""

from __future__ import annotations

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

OPTIONS = {
    "ternary": {"weights": sxq.Ternary(scale="mse")},
    "3 bit": {"weights": sxq.Uniform(3, scale="mse")},
    "spikes": {"weights": sxq.Ternary(scale="mse"), "inputs": "spikes"},
    "tied": {"weights": sxq.Uniform(4), "tied": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_matrix_is_calibrated_and_kept(tmp_path, options):
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(vocab=30, layers=2, hidden=24, dropout=0.0, **options)).eval()
    ids = torch.randint(30, (4, 50), generator=torch.Generator().manual_seed(1))
    signs = torch.signbit(model.emb.weight).clone()
    before = model(ids)
    report = sxq.gptq_(model, [ids])
    products = {product.name for product in model.products()}
    silent = {entry.name for entry in report.left if entry.reason == "all its inputs were 0"}  # no neuron fired
    tied = {"head"} if options.get("tied", False) else set()
    assert {entry.name for entry in report.left} == {"emb", *tied, *silent}
    assert {layer.name for layer in report.layers} == products - tied - silent
    assert silent == set() or "inputs" in options
    assert all(layer.error <= layer.error_rounded for layer in report.layers)
    assert any(layer.error < 0.95 * layer.error_rounded for layer in report.layers)
    assert torch.equal(torch.signbit(model.emb.weight), signs)
    expected = model(ids)
    assert not torch.equal(expected, before)
    state = model.initial_state(4)
    for token in ids.T:
        logits, state = model.step(token, state)
    assert torch.equal(logits, expected[:, -1])  # the forms agree as they did
    for packed in (False, True):
        model.save_pretrained(tmp_path / str(packed), packed=packed)
        twin = SpikeGPT.from_pretrained(tmp_path / str(packed))
        assert torch.equal(twin(ids), expected)

    assert all(isinstance(model.get_submodule(name), IntegerFirst) for name in products)


def test_the_integer_profile_says_where_its_codes_are_chosen():
    model = SpikeGPT(SpikeGPTConfig(vocab=30, layers=1, hidden=24, weights="ternary", profile="integer")).eval()
    with pytest.raises(sxq.errors.SampleError, match="calibrate the same weights in profile='reference'"):
        sxq.gptq_(model, [torch.randint(30, (2, 9))])
