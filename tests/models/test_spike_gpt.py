"""A text at once, in pieces, or token by token: the same bits. And that it is the published model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import snn_extreme_quant as sxq
from tests.models.spike_gpts import MODELS, assert_same, build, recorded, run, texts


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_every_form_gives_the_same_bits(options):
    model, ids = build(**options), texts()
    whole = run(model, ids, 120)
    assert torch.equal(model(ids), whole[0])
    assert whole[0].std() > 0.05
    rates = [float(spikes.mean()) for spikes in whole[1].values()]
    assert sum(0.0 < rate < 0.9 for rate in rates) >= 0.8 * len(rates)
    for pieces in (1, 7, 64):
        assert_same(run(model, ids, pieces), whole)
    for row in range(2):  # another batch
        alone = run(model, ids[row : row + 1], 120)
        assert torch.equal(alone[0], whole[0][row : row + 1])


def test_a_long_text():
    model, ids = build(weights="ternary", layers=1, hidden=32), texts(1500, 1)
    assert_same(run(model, ids, 1), run(model, ids, 1500))


@pytest.mark.parametrize("seed", range(6))
def test_large_weights_and_odd_sizes(seed):
    sizes = [(1, 2, 0), (2, 5, 3), (1, 130, 17), (2, 64, 0), (4, 33, 200), (1, 511, 9)][seed]
    options = {"layers": sizes[0], "hidden": sizes[1], "ffn": sizes[2], "weights": ["float", "ternary"][seed % 2]}
    model = build(seed, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # inputs that leave their grids' range too
            parameter.mul_(torch.empty_like(parameter).uniform_(0.0, 6.0))
    ids = texts(50, 3, seed)
    assert_same(run(model, ids, 1), run(model, ids, 50))


@pytest.mark.parametrize("weights", ["ternary", "binary"])
def test_training_mode_gives_the_same_bits_with_packed_weights(weights):
    model, ids = build(weights=weights), texts(60)
    whole = run(model, ids, 60)
    model.train()
    assert_same(run(model, ids, 60), whole)
    assert_same(run(model, ids, 1), whole)


def test_dropout_is_for_training():
    model, ids = build(dropout=0.5), texts(30)
    model.train()
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_make_no_difference(threads):
    model, ids = build(weights=sxq.Uniform(8)), texts(60)
    expected = run(model, ids, 60)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(run(model, ids, 60), expected)
    finally:
        torch.set_num_threads(before)


def published(model, ids):
    """The equations of the docs in float64, token by token, without grids; logits and spikes of the branches."""
    p = {name: value.double() for name, value in model.state_dict().items()}
    layers, spikes = model.config.layers, []
    memory = [{} for _ in range(layers)]

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], model.config.norm_eps)

    def fire(layer, name, current):
        if not model.config.spiking:
            return current
        v = memory[layer].get(name, torch.zeros_like(current))
        h = v + (current - v) / 2.0
        s = (h >= 1.0).double()
        memory[layer][name] = h * (1.0 - s)
        spikes.append(s)
        return s

    def mixed(layer, name, y, kinds):
        old = memory[layer].get(name, torch.zeros_like(y))
        memory[layer][name] = y
        return [
            y * p[f"blocks.{layer}.{name}.time_mix_{k}"][0] + old * (1 - p[f"blocks.{layer}.{name}.time_mix_{k}"][0])
            for k in kinds
        ]

    logits = []
    for tokens in ids.T:
        x = p["emb.weight"][tokens]
        x = norm("blocks.0.ln0", (x >= 0).double() if model.config.binarised else x)
        for n in range(layers):
            name = f"blocks.{n}"
            xk, xv, xr = mixed(n, "att", norm(f"{name}.ln1", x), "kvr")
            k, v, r = (z @ p[f"{name}.att.{w}.weight"].T for z, w in ((xk, "key"), (xv, "value"), (xr, "receptance")))
            a, b = memory[n].get("ab", (torch.zeros_like(k),) * 2)
            e = (p[f"{name}.att.time_first"] + k).exp()
            wkv = (a + e * v) / (b + e)
            d = (-p[f"{name}.att.time_decay"].exp()).exp()
            memory[n]["ab"] = (d * a + k.exp() * v, d * b + k.exp())
            x = x + fire(n, "s1", (r.sigmoid() * wkv) @ p[f"{name}.att.output.weight"].T)
            xk, xr = mixed(n, "ffn", norm(f"{name}.ln2", x), "kr")
            k = (xk @ p[f"{name}.ffn.key.weight"].T).relu().square()
            gate = (xr @ p[f"{name}.ffn.receptance.weight"].T).sigmoid()
            x = x + fire(n, "s2", gate * (k @ p[f"{name}.ffn.value.weight"].T))
        logits.append(norm("ln_out", x) @ p["head.weight"].T)
    return torch.stack(logits, 1), torch.stack(spikes) if spikes else None


def test_it_is_the_published_model():
    model, ids = build(layers=1, hidden=64), texts(40, 4)
    with recorded(model) as ours:
        logits = model(ids)
    expected, spikes = published(model, ids)
    first, second = (torch.cat(ours[f"blocks.0.{part}.neurons"]) for part in ("att", "ffn"))
    theirs = spikes.view(40, 2, 4, 64)
    assert 0.02 < spikes.mean() < 0.5
    # Grids of 2^-15 move few currents across a threshold.
    assert (first.double() != theirs[:, 0]).double().mean() < 2e-3
    assert (second.double() != theirs[:, 1]).double().mean() < 4e-3
    assert (logits.double() - expected).abs().median() < 0.01


def test_rwkv_is_the_published_one():
    model, ids = build(spiking=False), texts(60)
    torch.testing.assert_close(model(ids).double(), published(model, ids)[0], atol=0.03, rtol=0.0)


@pytest.mark.parametrize("name", ["snntorch", "spikingjelly"])
@pytest.mark.parametrize("inputs", ["norms", "spikes"])
def test_neurons_of_a_framework_give_the_same_bits(name, inputs):
    pytest.importorskip(name)
    options = {"inputs": inputs, "weights": "ternary"}
    ours, theirs, ids = build(**options), build(neurons=name, **options), texts(80)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    expected = run(ours, ids, 80)
    assert_same(run(theirs, ids, 80), expected)
    assert_same(run(theirs, ids, 9), expected)
    theirs.train()
    theirs(ids).square().mean().backward()
    assert theirs.blocks[0].att.key.weight.grad.abs().max() > 0


def test_gradients_are_those_of_a_text_at_once():
    model, ids = build(weights="ternary"), texts(24)
    found = []
    for pieces in (24, 5):
        model.zero_grad()
        state, loss = model.initial_state(2), torch.zeros(())
        for piece in ids.split(pieces, 1):
            logits, state = model.run(piece, state)
            loss = loss + logits.square().sum()
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
