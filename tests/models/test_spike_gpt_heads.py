"""States of SpikeGPTs, in files too; heads that classify; ids that are none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import CheckpointError, ConfigError, SampleError
from snn_extreme_quant.models import SpikeGPTState
from snn_extreme_quant.models.gpt.state import state_shapes
from tests.models.spike_gpts import build, texts

# States.


@pytest.mark.parametrize("options", [{}, {"inputs": "spikes"}, {"spiking": False}], ids=str)
def test_states_go_to_files_and_back(tmp_path, options):
    model, ids = build(**options), texts(30)
    _, state = model.run(ids[:, :20])
    assert {n: (len(v), v.shape[2]) for n, v in state.tensors.items()} == state_shapes(model.config)
    before = {name: value.clone() for name, value in state.tensors.items()}
    state.save(tmp_path / "state.safetensors")
    again = SpikeGPTState.load(tmp_path / "state.safetensors")
    assert torch.equal(model.run(ids[:, 20:], again)[0], model(ids)[:, 20:])
    assert torch.equal(model.run(ids[[1, 1], 20:], state.rows([1, 1]))[0], model(ids)[[1, 1], 20:])
    assert all(torch.equal(value, state.tensors[name]) for name, value in before.items())  # nothing wrote into it


def test_what_is_no_state_is_refused(tmp_path):
    model, ids = build(), texts(4)
    for state, words in (
        (model.initial_state(3), "2 sequences"),
        (build(inputs="spikes").initial_state(2), "another model"),
        (build(spiking=False).initial_state(2), "another model"),
        (build(hidden=8).initial_state(2), "shape"),
    ):
        with pytest.raises(SampleError, match=words):
            model.run(ids, state)
    (tmp_path / "no").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="no"):
        SpikeGPTState.load(tmp_path / "no")
    sxq.save_checkpoint(model, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="no state"):
        SpikeGPTState.load(tmp_path / "weights.safetensors")


# Heads.


@pytest.mark.parametrize("inputs", ["norms", "spikes"])
@pytest.mark.parametrize("head", ["mean", "last"])
def test_classifiers_do_not_see_pads(head, inputs):
    model, ids = build(head=head, classes=3, inputs=inputs, weights="ternary"), texts(20, 4)
    lengths = torch.tensor([20, 7, 1, 12])
    mask = (torch.arange(20) < lengths[:, None]).long()
    together = model(ids, mask)
    assert together.shape == (4, 3)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(model(ids[row : row + 1, :length]), together[row : row + 1])
    model.train()
    model(ids, mask).square().sum().backward()
    assert model.emb.weight.grad[ids[2, 5:]].shape  # pads may be looked up, and teach nothing:
    only = torch.tensor(sorted(set(range(40)) - set(ids[mask.bool()].tolist())))
    assert not model.emb.weight.grad[only].any()
    for wrong in (mask.flip(1), mask * 0, mask[:, :5], mask * 2, mask - 0.5 * (mask.cumsum(1) == 7), mask.tolist()):
        with pytest.raises(SampleError, match="attention_mask"):
            model(ids, wrong)
    with pytest.raises(ConfigError, match="head='tokens'"):
        model.run(ids)


def test_the_mean_is_over_the_tokens():
    model, ids = build(head="mean", classes=5), texts(30)
    whole, _ = model._features(ids, None)
    expected = F.linear(whole.mean(0), model.head.weight)
    torch.testing.assert_close(model(ids), expected, atol=2e-3, rtol=1e-3)


def test_what_are_no_ids_is_refused():
    model = build()
    for wrong in (torch.rand(2, 3), torch.zeros(3, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long), [[1]]):
        with pytest.raises(SampleError, match=r"\(B, T\)"):
            model(wrong)
    for token in (40, -1):
        with pytest.raises(SampleError, match=f"token {token}"):
            model(torch.tensor([[1, token]]))


def test_the_mask_of_a_language_model():
    """Pads behind a text change nothing before them; pads before it, or what is no mask, are refused."""
    model, ids = build(weights="ternary"), texts(9, 3)
    lengths = torch.tensor([9, 4, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    for given in (mask, mask.bool(), torch.ones_like(ids), None):
        assert torch.equal(model(ids, given), model(ids))
    other = torch.where(mask.bool(), ids, (ids + 1) % 40)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(model(other, mask)[row, :length], model(ids[row : row + 1, :length])[0])
    with pytest.raises(SampleError, match=r"text 1 begins with a pad.*padding_side='right'"):
        model(ids, mask.flip(1))
    for wrong in (torch.zeros(9), "abc", mask[:, :5], mask * 2, mask.float() * 0.5, mask * 0, mask.tolist()):
        with pytest.raises(SampleError, match="attention_mask"):
            model(ids, wrong)


def test_wrong_arguments_of_states_and_steps():
    model, ids = build(), texts(4)
    _, state = model.run(ids)
    arrays = {name: value.detach().numpy() for name, value in state.tensors.items()}
    for call, words in (
        (lambda: model.run(ids, dict(state.tensors)), "got dict.*SpikeGPTState"),
        (lambda: model.run(ids, "x"), "got str"),
        (lambda: model.run(ids, SpikeGPTState(arrays)), "type float32"),
        (lambda: model.step([1, 2], state), r"\(B,\); got list"),
        (lambda: model.step(torch.tensor(1), state), r"a tensor \(\)"),
        (lambda: model.step(ids, state), r"a tensor \(2, 4\)"),
        (lambda: SpikeGPTState({}).batch, "no 'numerator'"),
        (lambda: SpikeGPTState({}).rows([0]), "no 'numerator'"),
        *((lambda rows=rows: state.rows(rows), "0 to 1") for rows in ([], [5], [-3], [0.5], 0, "a", None, [True])),
        *((lambda batch=batch: model.initial_state(batch), "from 1") for batch in (-1, 0, "a", 2.5, None)),
    ):
        with pytest.raises(SampleError, match=words):
            call()
    assert torch.equal(state.rows([False, True]).tensors["numerator"], state.rows([1]).tensors["numerator"])
    assert torch.equal(state.rows(torch.tensor([-1])).tensors["numerator"], state.rows([1]).tensors["numerator"])
    assert SpikeGPTState({name: torch.from_numpy(value) for name, value in arrays.items()}).batch == 2
