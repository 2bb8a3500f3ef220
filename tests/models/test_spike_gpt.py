"""A text at once, in pieces, or token by token: the same bits. And that it is the published model."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import CheckpointError, ConfigError, SampleError, UnmatchedNameError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikeGPTState
from snn_extreme_quant.models.spike_gpt_state import state_shapes
from snn_extreme_quant.models.token_cells import FrameworkTokenLIF
from snn_extreme_quant.neurons.token_lif import TokenLIF

SIZES = {"vocab": 40, "layers": 3, "hidden": 37, "dropout": 0.0}
PLAN = sxq.PrecisionPlan({"blocks.1.*": sxq.Uniform(5), "blocks.*": sxq.Ternary(scale="twn"), "emb": sxq.Binary()})
MODELS = {
    "float": {},
    "ternary": {"weights": "ternary"},
    "binary": {"weights": "binary"},
    "plan": {"weights": PLAN},
    "spikes, float": {"inputs": "spikes"},
    "spikes, ternary": {"inputs": "spikes", "weights": "ternary"},
    "rwkv": {"spiking": False},
    "rwkv, ternary": {"spiking": False, "weights": "ternary"},
    "real embedding, tied, tau 3": {"binary_embedding": False, "tied": True, "tau": 3.0, "ffn": 50},
}


def build(seed=0, **options):
    torch.manual_seed(seed)
    model = SpikeGPT(SpikeGPTConfig(**{**SIZES, **options})).eval()
    with torch.no_grad():
        for block in model.blocks:  # as after training, every neuron has something to do
            block.att.value.weight.mul_(3.0)
            block.att.output.weight.mul_(2.0)
            block.ffn.value.weight.mul_(3.0)
    return model


def texts(tokens=120, batch=2, seed=1):
    return torch.randint(SIZES["vocab"], (batch, tokens), generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def recorded(model):
    """Keep the spikes of every layer of neurons, call by call."""
    found = {n: [] for n, m in model.named_modules() if isinstance(m, (TokenLIF, FrameworkTokenLIF))}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found[name].append(out[0].detach())
        )
        for name in found
    ]
    yield found
    for handle in handles:
        handle.remove()


@torch.no_grad()
def run(model, ids, pieces):
    """Return logits, spikes by layer, and the last state."""
    state, logits = model.initial_state(len(ids)), []
    with recorded(model) as spikes:
        for piece in ids.split(pieces, 1):
            part, state = model.run(piece, state)
            logits.append(part)
    return torch.cat(logits, 1), {name: torch.cat(parts) for name, parts in spikes.items()}, state


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, spikes in one[1].items():
        assert torch.equal(spikes, other[1][name]), name
    for name, value in one[2].tensors.items():
        assert torch.equal(value, other[2].tensors[name]), name


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
    for wrong in (mask.flip(1), mask * 0, mask[:, :5], mask * 2):
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
    for wrong in (torch.rand(2, 3), torch.zeros(3, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long)):
        with pytest.raises(SampleError, match=r"\(B, T\)"):
            model(wrong)
    for token in (40, -1):
        with pytest.raises(SampleError, match=f"token {token}"):
            model(torch.tensor([[1, token]]))


# Weights.


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
    assert_same(run(SpikeGPT.from_pretrained(tmp_path).eval(), ids, 120), expected)


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
    twin = SpikeGPT.from_pretrained(tmp_path / "a").eval()
    assert torch.equal(twin(ids), model(ids))
    if not packed:
        assert twin.config == model.config
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    twin.save_pretrained(tmp_path / "b", packed=packed)
    assert torch.equal(SpikeGPT.from_pretrained(tmp_path / "b").eval()(ids), model(ids))
    with pytest.raises(CheckpointError, match="SpikingBert"):
        sxq.models.SpikingBert.from_pretrained(tmp_path / "a")


def test_damaged_folders_are_refused(tmp_path):
    import json

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


# Configuration.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 1}, "hidden"),
        ({"hidden": 5000}, "at most 4096"),
        ({"layers": 0}, "layers"),
        ({"head": "first"}, "head"),
        ({"inputs": "numbers"}, "inputs"),
        ({"tau": 1.0}, "tau"),
        ({"tau": 3.0, "neurons": "snntorch"}, "tau"),
        ({"detach_reset": True, "neurons": "snntorch"}, "detach_reset"),
        ({"spiking": False, "inputs": "spikes"}, "inputs"),
        ({"spiking": False, "neurons": "snntorch"}, "neurons"),
        ({"tied": True, "head": "mean"}, "tied"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"input_threshold": 0.0}, "input_threshold"),
        ({"weights": "tenary"}, "ternary"),
        ({"vocab": 4.0}, "whole number"),
        ({"spiking": 1}, "True or False"),
        ({"binary_embedding": "yes"}, "binary_embedding"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        SpikeGPTConfig(**options)


def test_neurons_of_no_framework():
    with pytest.raises(ConfigError, match="snntorch"):
        build(neurons="snntorc")


def test_products_say_what_they_read():
    products = list(build(weights="ternary").products())
    assert len(products) == 3 * 7 + 1
    assert {p.operation for p in products} == {"multiply-accumulate"}
    assert sum(p.inputs * p.outputs for p in products) == 3 * (5 * 37 * 37 + 2 * 37 * 148) + 37 * 40
    assert {p.operation for p in build(inputs="spikes").products()} == {"accumulate"}
    by_name = {p.name: p.reads for p in build(inputs="spikes", head="mean").products()}
    assert by_name.pop("head") == "numbers"
    assert set(by_name.values()) == {"spikes"}


def test_products_of_the_spike_driven_variant_do_read_spikes():
    model, seen = build(inputs="spikes", weights="ternary"), {}
    for product in model.products():
        layer = model.get_submodule(product.name)
        layer.register_forward_pre_hook(
            lambda _, given, name=product.name: seen.update({name: given[0].unique().tolist()})
        )
    model(texts(60))
    assert len(seen) == 3 * 7 + 1
    assert all(values in ([0.0, 1.0], [0.0]) for values in seen.values())
