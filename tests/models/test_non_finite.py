"""NaN and infinity in weights and states: a forward pass need not show them, so loading does."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from snn_extreme_quant.errors import CheckpointError, SampleError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTState
from snn_extreme_quant.models.gpt.released import load_released, save_released
from tests.models.spike_gpts import build, texts

NAMES = ("blocks.0.ln1.weight", "blocks.1.att.key.weight", "blocks.0.att.time_decay", "blocks.2.ffn.value.weight")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_checkpoints_with_nan_are_refused(tmp_path, name, suffix):
    model = build()
    model.get_parameter(name).data.view(-1)[-1] = math.nan
    assert model(texts(10)).isfinite().all()  # what makes it worth a look
    save_released(model, tmp_path / f"model{suffix}")
    with pytest.raises(CheckpointError, match=rf"'{name}' holds NaN"):
        load_released(tmp_path / f"model{suffix}")


def test_numbers_that_float32_does_not_have_are_refused(tmp_path):
    tensors = {name: value.double() for name, value in build().state_dict().items()}
    tensors["ln_out.bias"][2] = 1e60
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"'ln_out\.bias' holds NaN or infinite"):
        load_released(tmp_path / "model.pth")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_saved_models_are_refused(tmp_path, packed, value):
    model = build(weights="ternary")
    model.save_pretrained(tmp_path, packed=packed)
    file = tmp_path / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    whole = load_file(file)
    for name, stored in (("blocks.1.ln2.bias", "blocks.1.ln2.bias"), ("head.weight", "head.scale")):
        tensors = {key: tensor.clone() for key, tensor in whole.items()}
        tensors[stored if packed else name].view(-1)[0] = value
        save_file(tensors, file, metadata)
        with pytest.raises(CheckpointError, match=f"'{name.removesuffix('.weight')}.*finite"):
            SpikeGPT.from_pretrained(tmp_path)


def test_states_are_refused():
    model, ids = build(), texts(6)
    _, state = model.run(ids)
    for name in ("numerator", "att_before", "ffn_potential"):
        value = state.tensors[name].clone()
        value[-1, 0, 3] = math.nan
        with pytest.raises(SampleError, match=rf"state's '{name}' holds NaN"):
            model.step(ids[:, 0], SpikeGPTState({**state.tensors, name: value}))
    spoilt = build()
    spoilt.blocks[1].ln1.weight.data[0] = math.nan
    _, after = spoilt.run(ids)
    with pytest.raises(SampleError, match="weights are finite"):
        spoilt.run(ids, after)
    whole = build(profile="integer")  # states of whole numbers, which have no NaN
    assert whole.run(ids, whole.run(ids)[1])[0].isfinite().all()
