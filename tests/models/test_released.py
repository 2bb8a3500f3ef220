"""Checkpoints in the released layout, at the released sizes without their values, and small ones with theirs."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from snn_extreme_quant.errors import CheckpointError, ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.gpt.released import load_released, released_config, save_released

D = 768
BLOCK = {
    **{f"{norm}.{what}": (D,) for norm in ("ln1", "ln2") for what in ("weight", "bias")},
    "att.time_decay": (D,), "att.time_first": (D,),
    **{f"{part}.time_mix_{kind}": (1, 1, D) for part, kinds in (("att", "kvr"), ("ffn", "kr")) for kind in kinds},
    **{f"att.{name}.weight": (D, D) for name in ("key", "value", "receptance", "output")},
    "ffn.key.weight": (4 * D, D), "ffn.receptance.weight": (D, D), "ffn.value.weight": (D, 4 * D),
}  # fmt: skip
RELEASED = {
    "emb.weight": (50277, D), "blocks.0.ln0.weight": (D,), "blocks.0.ln0.bias": (D,),
    **{f"blocks.{n}.{name}": shape for n in range(18) for name, shape in BLOCK.items()},
    "ln_out.weight": (D,), "ln_out.bias": (D,), "head.weight": (50277, D),
}  # fmt: skip


def test_the_released_layout():
    with torch.device("meta"):
        state = SpikeGPT(SpikeGPTConfig()).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == RELEASED
    assert len(state) == 330
    assert sum(value.numel() for value in state.values()) == 215_399_424
    assert released_config(RELEASED) == SpikeGPTConfig()


def small(**options):
    torch.manual_seed(0)
    return SpikeGPT(SpikeGPTConfig(vocab=30, layers=2, hidden=24, dropout=0.0, **options)).eval()


IDS = torch.randint(30, (2, 25), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("options", [{}, {"ffn": 40}, {"tied": True}], ids=str)
def test_there_and_back(tmp_path, ending, options):
    model = small(**options)
    model.set_weights("ternary")  # what is written is the latent weights
    path = tmp_path / f"model.{ending}"
    save_released(model, path)
    model.set_weights("float")
    twin = load_released(path, dropout=0.0)
    assert torch.equal(twin(IDS), model(IDS))
    assert all(parameter.requires_grad for parameter in twin.parameters())
    twin.set_weights("ternary")
    twin.train()(IDS).sum().backward()


def test_half_precision_and_zeros_of_the_embedding(tmp_path):
    model = small()
    with torch.no_grad():
        model.emb.weight[:, ::2] = -0.0
    tensors = {name: value.bfloat16() for name, value in model.state_dict().items()}
    torch.save(tensors, tmp_path / "model.pth")
    twin = load_released(tmp_path / "model.pth")
    assert twin.emb.weight.dtype == torch.float32
    assert not torch.signbit(twin.emb.weight[:, ::2]).any()


@pytest.mark.parametrize("neurons", ["snntorch", "spikingjelly"])
def test_with_neurons_of_a_framework(tmp_path, neurons):
    pytest.importorskip(neurons)
    save_released(small(), tmp_path / "model.pth")
    assert torch.equal(load_released(tmp_path / "model.pth", neurons=neurons)(IDS), small()(IDS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.att.time_decay"), r"has no 'blocks.1.att.time_decay'"),
        (lambda t: t.pop("emb.weight"), r"'emb.weight'"),
        (
            lambda t: t.update({"blocks.0.att.key.weight": torch.zeros(24, 23)}),
            r"'blocks.0.att.key.weight' has shape \(24, 23\)",
        ),
        (lambda t: t.update({"head.weight": torch.zeros(31, 24)}), r"'head.weight' has shape"),
        (lambda t: t.update({"blocks.7.ln1.weight": torch.zeros(24)}), r"has no 'blocks.2"),
        (lambda t: t.update({"extra": torch.zeros(2)}), r"also has 'extra'"),
        (lambda t: t.update({"pos_emb_x": torch.zeros(2)}), r"position embeddings"),
        (
            lambda t: t.update({"ln_out.weight": torch.zeros(24, dtype=torch.long)}),
            r"'ln_out.weight' is of torch.int64",
        ),
    ],
)
def test_what_is_missing_or_misshapen_is_named(tmp_path, change, words):
    tensors = {name: value.clone() for name, value in small().state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_released(tmp_path / "model.safetensors")


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"emb.weight": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad.pth"):
        load_released(tmp_path / "bad.pth")
    assert "executed" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="dictionary"):
        load_released(tmp_path / "list.pth")
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(CheckpointError, match="none"):
            load_released(tmp_path / name)
    save_released(small(), tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="hidden"):
        load_released(tmp_path / "model.pth", hidden=3)
    with pytest.raises(CheckpointError, match="mean"):
        save_released(small(head="mean"), tmp_path / "model.pth")


def test_damaged_files_are_said_without_foreign_advice(tmp_path):
    save_released(small(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for number, content in enumerate(
        (
            b"hello world this is not", b"", b"\x80\x02.", b"\x80\x02c", b"\x80\x02K\x01.", b"\x80\x02h\x05.",
            b"\x80\x02(K\x01R.", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", b"PK\x03\x04" + b"a" * 50,
            pickle.dumps({"a": 1}, protocol=2), whole[: len(whole) // 2], bytes(range(256)),
        )
    ):  # fmt: skip
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{number}\.pth") as caught:
            load_released(path)
        assert "weights_only" not in str(caught.value)
    torch.save({"emb.weight": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="any code") as caught:
        load_released(tmp_path / "bad.pth")
    assert "weights_only" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_released(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.empty(30, 24, device="meta"), "no values"),
        (torch.eye(30, 24).to_sparse(), "sparse"),
        (torch.zeros(30, 24, dtype=torch.complex64), "complex64"),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_of_other_kinds_are_named(tmp_path, value, words):
    torch.save({**small().state_dict(), "head.weight": value}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=rf"'head\.weight'.*{words}"):
        load_released(tmp_path / "model.pth")


def test_a_layer_of_a_huge_number_is_refused_before_models_are_made(tmp_path):
    torch.save({**small().state_dict(), "blocks.999999999.ln1.weight": torch.zeros(24)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"has no 'blocks\.2\.ln1"):
        load_released(tmp_path / "model.pth")


def test_options_and_models_that_are_none(tmp_path):
    save_released(small(), tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"no such field.*'inputs'"):
        load_released(tmp_path / "model.pth", input="spikes")
    with pytest.raises(ConfigError, match="Linear"):
        save_released(torch.nn.Linear(1, 1), tmp_path / "no.pth")


def test_a_packed_model_leaves_codes_times_scales(tmp_path):
    model = small(weights="ternary")
    model.save_pretrained(tmp_path, packed=True)
    save_released(SpikeGPT.from_pretrained(tmp_path), tmp_path / "model.pth")
    found = load_released(tmp_path / "model.pth").blocks[0].att.key.weight
    codes, scale = model.blocks[0].att.key.integer_weight()
    assert torch.equal(found, codes * scale.view(-1, 1))
    assert not torch.equal(found, model.blocks[0].att.key.weight)
