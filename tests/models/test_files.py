from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import CheckpointError, ConfigError, OutputPathError
from snn_extreme_quant.models import SpikeGPT, SpikingBert, SpikingBertConfig

IDS = torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(1))
PLANS = [
    "float",
    "ternary",
    "binary",
    sxq.Ternary(per="tensor", scale="twn"),
    sxq.Ternary(per="group", group_size=8),
    sxq.PrecisionPlan(
        {"encoder.0.attention.*": sxq.Uniform(4), "encoder.*": sxq.Ternary(), "embeddings.words": sxq.Uniform(4)}
    ),
]


def build(weights, **options):
    torch.manual_seed(0)
    sizes = {"vocab": 40, "positions": 12, "layers": 2, "hidden": 32, "heads": 4, "ffn": 48, "threshold": 0.05}
    model = SpikingBert(SpikingBertConfig(**sizes, weights=weights, head="pooled", **options)).eval()
    with torch.no_grad():
        for _, neurons in model.named_neurons():
            neurons.log_threshold.add_(torch.rand_like(neurons.log_threshold))
    return model


@pytest.mark.parametrize("weights", PLANS, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_comes_back_with_the_same_logits(tmp_path, weights, packed):
    model = build(weights)
    model.save_pretrained(tmp_path / "a", packed=packed)
    twin = SpikingBert.from_pretrained(tmp_path / "a")
    assert not any(module.training for module in twin.modules())
    assert torch.equal(twin(IDS), model(IDS))
    assert twin.config == model.config
    if not packed:
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    twin.save_pretrained(tmp_path / "b", packed=packed)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    if not packed:
        assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"}) == 1


def test_packed_files_are_small(tmp_path):
    model = build("ternary")
    for packed in (False, True):
        model.save_pretrained(tmp_path / str(packed), packed=packed)
    weights = sum(
        p.numel() for n, p in model.named_parameters() if n.startswith(("encoder", "pooler")) and p.dim() == 2
    )
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("False", "True")]
    assert sizes[0] - sizes[1] > weights * (4 - 0.25) * 0.8


def test_step_models_come_back_too(tmp_path):
    model = build("ternary", schedule="step", T=5, signed=False, neurons="snntorch")
    model.save_pretrained(tmp_path)
    assert torch.equal(SpikingBert.from_pretrained(tmp_path)(IDS), model(IDS))


def test_what_is_no_model_is_refused(tmp_path):
    model = build("ternary")
    with pytest.raises(CheckpointError, match=r"config.json"):
        SpikingBert.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "a", packed=True)
    config = tmp_path / "a/config.json"
    good = json.loads(config.read_text())
    for change in ({"format": "other"}, {"version": 2}, {"config": {**good["config"], "heads": 5}}, {"config": None}):
        config.write_text(json.dumps({**good, **change}))
        with pytest.raises(CheckpointError, match=r"config.json"):
            SpikingBert.from_pretrained(tmp_path / "a")
    for change in ({"hidden": 64}, {"layers": 3}, {"layers": 1}, {"weights": "binary"}, {"weights": "float"}):
        config.write_text(json.dumps({**good, "config": {**good["config"], **change}}))
        with pytest.raises(CheckpointError, match="safetensors"):
            SpikingBert.from_pretrained(tmp_path / "a")
    config.write_text(json.dumps(good))
    (tmp_path / "a/model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="safetensors"):
        SpikingBert.from_pretrained(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputPathError, match="file"):
        model.save_pretrained(tmp_path / "file")


def test_what_is_no_folder_is_refused(tmp_path, monkeypatch):
    build("ternary").save_pretrained(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    for model in (SpikingBert, SpikeGPT):
        for wrong, words in (
            ("studnet", "The folder studnet does not exist. Did you mean student"),
            ("studnet/last", "does not exist. Did you mean student"),
            ("student/config.json", "is a file; name the folder"),
            (
                "sst2-ternary",
                r"is loaded by snn_extreme_quant.models.zoo.load\('sst2-ternary'\)",
            ),
            (None, "None is no folder"),
        ):
            with pytest.raises(CheckpointError, match=words):
                model.from_pretrained(wrong)


@pytest.mark.parametrize("positions", [0, 13, "8", 1.5, True])
def test_positions_that_cannot_be_left_change_nothing(positions):
    model = build("ternary")
    before = model(IDS)
    with pytest.raises(ConfigError, match=r"cut_positions\(.*: the model has 12"):
        model.cut_positions(positions)
    assert model.config.weights == "ternary"
    assert torch.equal(model(IDS), before)


def test_packed_tables(tmp_path):
    model = build("ternary")
    before = model(IDS)
    model.pack_embeddings(4)
    words, positions = model.embeddings.words, model.embeddings.positions
    assert words.integer_weight()[0].abs().max() == 7
    assert positions.integer_weight()[0].abs().max() > 7
    assert not torch.equal(model(IDS), before)
    model.save_pretrained(tmp_path / "4", packed=True)
    twin = SpikingBert.from_pretrained(tmp_path / "4")
    assert torch.equal(twin(IDS), model(IDS))
    stored = load_file(tmp_path / "4/model.safetensors")
    assert stored["embeddings.words.packed"].shape == (40, 16)
    assert stored["encoder.0.output.packed"].shape == (48, 8)
    model.pack_embeddings(16)
    torch.testing.assert_close(model(IDS), before, atol=0.05, rtol=0)


def test_the_search_for_a_rows_scale_is_never_worse_than_its_maximum():
    model = build("float")
    words = model.embeddings.words.weight.detach().clone()
    errors = {}
    for scale in ("mse", "max"):
        model.pack_embeddings(4, scale)
        errors[scale] = (model.embeddings.words.dequantised() - words).square().sum(1)
    assert (errors["mse"] <= errors["max"] + 1e-9).all()
    assert errors["mse"].sum() < 0.95 * errors["max"].sum()


def test_fewer_positions():
    model = build("ternary")
    expected = model(IDS)
    model.cut_positions(IDS.shape[1])
    assert torch.equal(model(IDS), expected)
    assert model.config.weights == "ternary"
    with pytest.raises(sxq.SxqError, match="Truncate"):
        model(torch.zeros(1, IDS.shape[1] + 1, dtype=torch.long))
    with pytest.raises(sxq.SxqError, match="the model has 9"):
        model.cut_positions(12)
