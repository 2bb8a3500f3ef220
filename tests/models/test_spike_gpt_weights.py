"""Precisions of a SpikeGPT, and its folders."""

from __future__ import annotations

import json

import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import CheckpointError, ConfigError, UnmatchedNameError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models import SpikeGPT
from tests.models.spike_gpts import MODELS, assert_same, build, run, texts


@pytest.mark.parametrize("values", ["random", "with zeros of either sign"])
def test_one_bit_an_entry_of_the_embedding_loses_nothing(tmp_path, values):
    model, ids = build(), texts()
    if values != "random":
        with torch.no_grad():
            model.emb.weight[::2, ::3] = 0.0
            model.emb.weight[1::2, ::2] = -0.0
    expected = run(model, ids, 120)
    model.set_weights(sxq.PrecisionPlan({"emb": sxq.Binary()}))
    assert isinstance(model.emb, IntegerFirst)
    assert_same(run(model, ids, 120), expected)
    model.save_pretrained(tmp_path, packed=True)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "model.safetensors")
    assert "emb.weight" not in stored
    assert stored["emb.packed"].numel() == 40 * 5  # 37 bits a row
    assert_same(run(SpikeGPT.from_pretrained(tmp_path), ids, 120), expected)


def test_an_embedding_with_zeros_would_change_signs():
    for config in (sxq.Ternary(), sxq.Uniform(4), sxq.Binary(center=True)):
        plan = sxq.PrecisionPlan({"emb": config})
        with pytest.raises(ConfigError, match="'emb'"):
            build(weights=plan)
        with pytest.raises(ConfigError, match="'emb'"):
            build().set_weights(plan)
        assert build(weights=plan, binary_embedding=False)(texts(5)).isfinite().all()


def test_layers_that_were_quantised_from_outside(tmp_path):
    model = build()
    sxq.quantize_(model, sxq.Ternary(), skip=["emb"])
    assert model(texts(5)).isfinite().all()
    with pytest.raises(ConfigError, match="set_weights"):
        model.save_pretrained(tmp_path)
    model = build()
    sxq.quantize_(model, sxq.Ternary())
    with pytest.raises(ConfigError, match="'emb'"):
        model(texts(5))


@pytest.mark.parametrize("weights", ["ternary", "binary", sxq.Uniform(4)], ids=str)
def test_every_matrix_gets_its_precision(weights):
    model = build(weights=weights)
    quantised = {name for name, module in model.named_modules() if isinstance(module, IntegerFirst)}
    assert quantised == {
        name for name, p in model.named_parameters() for name in [name.removesuffix(".weight")] if p.dim() == 2
    }
    assert model.emb.quantizer.bits == 1
    parameters = {id(p) for p in model.parameters()}
    model.set_weights("float")
    assert not any(isinstance(module, IntegerFirst) for module in model.modules())
    assert {id(p) for p in model.parameters()} == parameters
    with pytest.raises(UnmatchedNameError):
        model.set_weights(sxq.PrecisionPlan({"encoder.*": sxq.Ternary()}))


def test_tied_tables_are_one_parameter():
    model = build(tied=True, weights="ternary")
    assert model.head.weight is model.emb.weight
    model.set_weights("binary")
    assert model.head.weight is model.emb.weight
    assert (
        sum(p.numel() for p in build(tied=True).parameters()) == sum(p.numel() for p in build().parameters()) - 40 * 37
    )


FILES = {**MODELS, "tied, ternary": {"tied": True, "weights": "ternary"}, "mean": {"head": "mean", "weights": "binary"}}


@pytest.mark.parametrize("options", FILES.values(), ids=FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_comes_back(tmp_path, options, packed):
    model, ids = build(**options), texts(40)
    model.save_pretrained(tmp_path / "a", packed=packed)
    twin = SpikeGPT.from_pretrained(tmp_path / "a")
    assert not any(module.training for module in twin.modules())
    assert torch.equal(twin(ids), model(ids))
    if not packed:
        assert twin.config == model.config
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    twin.save_pretrained(tmp_path / "b", packed=packed)
    assert torch.equal(SpikeGPT.from_pretrained(tmp_path / "b")(ids), model(ids))
    with pytest.raises(CheckpointError, match="SpikingBert"):
        sxq.models.SpikingBert.from_pretrained(tmp_path / "a")


def test_damaged_folders_are_refused(tmp_path):

    model = build(weights="ternary")
    with pytest.raises(CheckpointError, match=r"config.json"):
        SpikeGPT.from_pretrained(tmp_path)
    for packed in (False, True):
        model.save_pretrained(tmp_path / "a", packed=packed)
        config = tmp_path / "a/config.json"
        good = json.loads(config.read_text())
        for change in ({"version": 9}, {"config": None}, {"config": {**good["config"], "tau": 0.5}}):
            config.write_text(json.dumps({**good, **change}))
            with pytest.raises(CheckpointError, match=r"config.json"):
                SpikeGPT.from_pretrained(tmp_path / "a")
        for change in ({"hidden": 38}, {"layers": 2}, {"layers": 4}, {"vocab": 41}, {"weights": "binary"}):
            config.write_text(json.dumps({**good, "config": {**good["config"], **change}}))
            with pytest.raises(CheckpointError, match="safetensors"):
                SpikeGPT.from_pretrained(tmp_path / "a")
