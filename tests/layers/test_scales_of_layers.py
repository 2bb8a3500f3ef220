"""Groups, folded batch norms, learned and fixed scales in quantised layers; autocast and compilation."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary, quantize_
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import Conv2d, Linear

GROUPS = [
    Ternary(per="group", group_size=4),
    Ternary(per="group", group_size=5, scale="learned"),
    Binary(per="group", group_size=12, center=True),
    Uniform(4, per="group", group_size=5, scale="mse"),
]
SCHEMES = [
    Binary(),
    Binary(center=True),
    Binary(scale="learned"),
    Ternary(),
    Ternary(scale="twn"),
    Ternary(scale="mse"),
    Ternary(scale="learned"),
    Uniform(8),
    Uniform(3, scale="mse"),
    *GROUPS,
]
LEARNED = [config for config in SCHEMES if config.scale == "learned"]


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (values(*shape, seed=seed) < 0.4).float()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("config", SCHEMES, ids=str)
def test_every_scheme_takes_a_trained_layers_place_without_training(config) -> None:
    """Post-training quantisation: the output is the float one up to what the bits explain."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Conv1d(1, 4, 5))
    quantised = copy.deepcopy(model)
    quantize_(quantised, config)
    weight, found = model[0].weight, quantised[0].dequantised()
    most = {1: 0.3, 2: 0.3, 3: 0.1, 4: 0.03, 8: 1e-4}[config.bits]
    assert 0 < (found - weight).square().sum() / weight.square().sum() < most
    assert torch.isfinite(quantised(spikes(2, 1, 64))).all()


# Groups.


@pytest.mark.parametrize("config", GROUPS, ids=str)
def test_groups_are_summed_in_order(config) -> None:
    """Bit for bit ((p0 + p1) + p2) + ..., on real-valued input too."""
    layer = Linear(13, 7, config=config)
    x = values(5, 13)
    codes, scale = layer.integer_weight()
    size = config.group_size
    groups = -(-13 // size)
    assert scale.shape == ((7, groups) if groups > 1 else (7,))
    scale = scale.view(7, groups)
    parts = [F.linear(x[:, s : s + size], codes[:, s : s + size]) * scale[:, s // size] for s in range(0, 13, size)]
    want = parts[0]
    for part in parts[1:]:
        want = want + part
    assert torch.equal(layer.product(x), want)
    assert torch.equal(layer(x), want + layer.bias)


@pytest.mark.parametrize("config", GROUPS, ids=str)
@pytest.mark.parametrize(
    "kind", [(Linear, (13, 7), (4, 13)), (Conv2d, (13, 7, 3), (2, 13, 6, 6))], ids=["linear", "conv"]
)
def test_groups_compute_the_dequantised_layer(kind, config) -> None:
    quantised, arguments, shape = kind
    layer = quantised(*arguments, config=config)
    torch.testing.assert_close(layer.to_float()(spikes(*shape)), layer(spikes(*shape)), rtol=1e-5, atol=1e-5)
    if config.scale != "learned":
        float_layer = layer.to_float()
        layer(spikes(*shape)).sin().sum().backward()
        float_layer(spikes(*shape)).sin().sum().backward()
        torch.testing.assert_close(layer.weight.grad, float_layer.weight.grad, rtol=1e-4, atol=1e-5)


def test_one_group_is_one_scale_a_channel() -> None:
    layer = Linear(8, 3, config=Ternary(per="group", group_size=8))
    twin = Linear.from_float(layer.to_float(), Ternary(per="group", group_size=100))
    assert layer.integer_weight()[1].shape == twin.integer_weight()[1].shape == (3,)


def test_groups_of_inputs_do_not_fit_a_grouped_convolution() -> None:
    with pytest.raises(ConfigError, match=r"layer with groups=2.*use per='channel'"):
        Conv2d(4, 4, 3, groups=2, config=Ternary(per="group", group_size=2))


# A folded batch norm.


@pytest.mark.parametrize("config", [Ternary(), GROUPS[0]], ids=str)
def test_a_folded_batch_norm_scales_the_scales_and_replaces_the_bias(config) -> None:
    layer = Linear(13, 4, config=config)
    x = spikes(3, 13)
    plain = layer(x)
    codes, scale = layer.integer_weight()
    factor, shift = torch.tensor([0.5, -2.0, 1.0, 0.25]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    layer.folded = (factor, shift)
    folded_codes, folded_scale = layer.integer_weight()
    assert torch.equal(folded_codes, codes)
    assert torch.equal(folded_scale, scale * (factor if scale.dim() == 1 else factor.view(-1, 1)))
    assert layer.effective_bias() is shift
    torch.testing.assert_close(layer(x), (plain - layer.bias) * factor + shift)
    torch.testing.assert_close(layer.to_float()(x), layer(x), rtol=1e-5, atol=1e-5)
    layer.folded = (2 * factor, shift)  # nothing of the first factor was kept
    assert torch.equal(layer.integer_weight()[1], 2 * folded_scale)
    layer.folded = None
    assert torch.equal(layer(x), plain)


def test_a_layer_without_bias_gets_the_shift() -> None:
    layer = Linear(5, 2, bias=False)
    assert layer.effective_bias() is None
    layer.folded = (torch.ones(2), torch.tensor([1.0, 2.0]))
    assert torch.equal(layer(torch.zeros(1, 5)), torch.tensor([[1.0, 2.0]]))


# Learned scales.


@pytest.mark.parametrize("config", LEARNED, ids=str)
def test_a_learned_scale_starts_from_the_float_layer(config) -> None:
    source = nn.Linear(13, 7)
    layer = Linear.from_float(source, config)
    scaling = layer.quantizer.scaling
    assert scaling is dict(layer.named_parameters())["weight_quant.tensor_quant.scaling"]
    assert scaling.device == source.weight.device
    fresh = Linear(13, 7, config=config)
    with torch.no_grad():
        fresh.weight.copy_(source.weight)
    fresh._reset_scale()
    assert torch.equal(scaling, fresh.quantizer.scaling)
    assert (scaling > 0).all()


@pytest.mark.parametrize("config", LEARNED, ids=str)
def test_the_cache_follows_a_learned_scale(config) -> None:
    """Over time steps and two backward passes the codes are shared; a step of the optimiser changes them."""
    layer = Linear(13, 7, config=config)
    calls = []
    original = layer.quantizer.integer
    object.__setattr__(layer.quantizer, "integer", lambda weight: calls.append(1) or original(weight))
    for seed in range(2):
        sum(layer(spikes(4, 13, seed=10 * seed + t)).square().sum() for t in range(3)).backward()
    assert len(calls) == 1
    shared = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    for seed in range(2):
        layer.forget_codes()
        sum(layer(spikes(4, 13, seed=10 * seed + t)).square().sum() for t in range(3)).backward()
    for mine, own in zip(shared, layer.parameters(), strict=True):
        torch.testing.assert_close(mine, own.grad, rtol=1e-5, atol=1e-6)

    before = [t.clone() for t in layer.integer_weight()]
    calls.clear()
    torch.optim.SGD([layer.quantizer.scaling], lr=0.1).step()
    after = layer.integer_weight()
    assert len(calls) == 1
    assert not torch.equal(before[1], after[1])
    with torch.no_grad():
        layer.quantizer.scaling.data.mul_(5)  # bumps no version
    assert torch.equal(layer.integer_weight()[1], original(layer.weight)[1].squeeze(1))
    if isinstance(config, Ternary):
        assert not torch.equal(before[0], layer.integer_weight()[0])


@pytest.mark.parametrize("config", LEARNED, ids=str)
def test_checkpoints_of_learned_scales(config) -> None:
    source = Linear(13, 7, config=config)
    with torch.no_grad():
        source.quantizer.scaling.mul_(1.3)
    layer = Linear(13, 7, config=config)
    scaling = layer.quantizer.scaling
    layer.load_state_dict(source.state_dict(), strict=True)
    assert layer.quantizer.scaling is scaling
    assert torch.equal(layer(spikes(2, 13)), source(spikes(2, 13)))

    floating = nn.Linear(13, 7)
    layer.load_state_dict(floating.state_dict(), strict=True)
    assert layer.quantizer.scaling is scaling
    assert torch.equal(scaling, Linear.from_float(floating, config).quantizer.scaling)

    kept = scaling.detach().clone()
    layer.load_state_dict({"bias": torch.zeros(7)}, strict=False)
    assert torch.equal(scaling, kept)


def test_a_float_checkpoint_loads_into_a_whole_model_of_learned_scales() -> None:
    model = nn.Sequential(Linear(5, 4, config=LEARNED[0]), nn.ReLU(), Linear(4, 3, config=LEARNED[1]))
    floating = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    model.load_state_dict(floating.state_dict(), strict=True)
    for mine, theirs in ((model[0], floating[0]), (model[2], floating[2])):
        assert torch.equal(mine.quantizer.scaling, Linear.from_float(theirs, mine.config).quantizer.scaling)


def test_a_checkpoint_assigned_to_a_learned_scale() -> None:
    layer = Linear(13, 7, config=LEARNED[0])
    layer.load_state_dict(nn.Linear(13, 7).state_dict(), strict=True, assign=True)
    assert isinstance(layer.quantizer.scaling, nn.Parameter)
    assert layer.quantizer.scaling.requires_grad
    layer(spikes(2, 13)).sum().backward()
    assert layer.quantizer.scaling.grad is not None


# Fixed scales.


def test_a_fixed_scale_travels_with_the_state_dict() -> None:
    source, layer = Linear(13, 7, config=Uniform(3)), Linear(13, 7, config=Uniform(3))
    source.integer_weight()
    source.quantizer.fix_scale(torch.full((7,), 0.03))
    assert (source.integer_weight()[1] == 0.03).all()
    layer.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(layer(spikes(2, 13)), source(spikes(2, 13)))
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(spikes(2, 13)), source(spikes(2, 13)))

    layer.load_state_dict({"bias": torch.zeros(7)}, strict=False)
    assert (layer.integer_weight()[1] == 0.03).all()
    layer.load_state_dict(nn.Linear(13, 7).state_dict(), strict=True)  # another weight: the scale is not its own
    assert layer.quantizer.fixed_scale is None


def test_the_cache_follows_a_fixed_scale() -> None:
    layer = Linear(13, 7)
    layer.integer_weight()
    layer.quantizer.fix_scale(torch.full((7,), 0.03))
    assert (layer.integer_weight()[1] == 0.03).all()
    layer.quantizer.fixed_scale.mul_(2)
    assert (layer.integer_weight()[1] == torch.tensor(0.03) * 2).all()


# Half precision.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", SCHEMES, ids=str)
def test_autocast(config, dtype) -> None:
    """Codes stay those of float32; output and gradients are the float32 ones up to the type's precision."""
    layer = Linear(13, 7, config=config)
    x = spikes(4, 13)
    want = layer(x)
    want.square().sum().backward()
    exact = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        output = layer(x)
    output.float().square().sum().backward()
    torch.testing.assert_close(output.float(), want, rtol=2**-6, atol=2**-6)
    for mine, parameter in zip(exact, layer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, mine, rtol=2**-4, atol=2**-4 * mine.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", SCHEMES, ids=str)
def test_layers_in_half_precision(config, dtype) -> None:
    layer = Linear(13, 7, config=config).to(dtype)
    output = layer(spikes(4, 13).to(dtype))
    assert output.dtype == dtype
    output.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == dtype for p in layer.parameters())
    assert layer.weight.grad.abs().sum() > 0


# Compilation.


@pytest.mark.parametrize("config", [c for c in SCHEMES if not isinstance(c, Uniform) or c.scale == "max"], ids=str)
def test_compiles_without_graph_breaks(config) -> None:
    """Forward and gradients are the eager ones, before and after the weight changes."""
    torch.compiler.reset()
    model = nn.Sequential(Linear(13, 7, config=config), nn.ReLU(), Linear(7, 3, config=Binary()))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = spikes(4, 13)
    for _ in range(2):
        model.zero_grad()
        want = model(x)
        want.square().sum().backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        output = compiled(x)
        assert torch.equal(output, want)
        output.square().sum().backward()
        for mine, theirs in zip(model.parameters(), grads, strict=True):
            torch.testing.assert_close(mine.grad, theirs, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(compiled(x), want)
            for parameter in model.parameters():
                parameter.add_(values(*parameter.shape, seed=3), alpha=0.1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("config", [Binary(), Ternary()], ids=str)
def test_inductor(config) -> None:
    torch.compiler.reset()
    layer = Linear(13, 7, config=config)
    x = spikes(4, 13)
    output = torch.compile(layer, fullgraph=True)(x)
    torch.testing.assert_close(output, layer(x), rtol=1e-6, atol=1e-6)
    output.sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(7, 13))
