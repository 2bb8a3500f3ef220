"""What all quantised layers share: exact sums, codes computed once a weight, and the float layer's life around them."""

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import IntegerFirst, Linear
from tests.layers.inputs import count_quantiser_calls, spikes

CONFIGS = [
    Ternary(),
    Ternary(per="tensor"),
    Binary(),
    Binary(per="tensor", center=True),
    Ternary(scale="learned"),
    Ternary(per="tensor", scale="twn"),
    Uniform(4, scale="mse"),
]

#: Quantised class, float class, constructor arguments, input shape.


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_sums_over_spikes_do_not_depend_on_their_order(kind, config) -> None:
    """Permuting the inputs of the dot product permutes float additions: with integer codes nothing changes."""
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments, config=config)
    x = spikes(*shape)
    order = torch.randperm(layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = copy.deepcopy(layer)
    with torch.no_grad():
        shuffled.weight.copy_(layer.weight[:, order])
    axis = 1
    assert torch.equal(shuffled(x.index_select(axis, order)), layer(x))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_sums_equal_those_in_float64_and_int64(config) -> None:
    layer = Linear(3000, 7, bias=False, config=config)
    x = spikes(4, 3000)
    codes, scale = layer.integer_weight()
    exact = x.long() @ codes.long().T
    assert torch.equal(F.linear(x, codes).long(), exact)
    assert torch.equal(layer(x), exact.float() * scale)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_scale_is_a_positive_vector_with_one_entry_a_channel(kind, config) -> None:
    """Also for per-tensor schemes: onnxruntime would fuse a scalar into the product and break exactness."""
    quantised, _, arguments, _ = kind
    codes, scale = quantised(*arguments, config=config).integer_weight()
    assert scale.shape == (5,)
    assert scale.is_contiguous()
    assert (scale > 0).all()
    assert codes.shape[0] == 5


# Codes are computed once.


@pytest.mark.parametrize("training", [True, False])
def test_one_quantiser_call_serves_a_sequence(kind, training) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments).train(training)
    calls = count_quantiser_calls(layer)
    for t in range(10):
        layer(spikes(*shape, seed=t))
    assert len(calls) == 1
    with torch.no_grad():  # codes with and without a gradient are two things
        for t in range(10):
            layer(spikes(*shape, seed=t))
    assert len(calls) == 2


def test_one_quantiser_call_an_optimiser_step(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    calls = count_quantiser_calls(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for epoch in range(3):
        optimizer.zero_grad()
        loss = sum(layer(spikes(*shape, seed=t)).square().sum() for t in range(4))
        loss.backward()
        optimizer.step()
        assert len(calls) == epoch + 1


def uncached(layer: IntegerFirst, x: Tensor) -> Tensor:
    layer.forget_codes()
    output: Tensor = layer(x)
    return output


def test_gradient_over_a_sequence_equals_the_one_without_sharing(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    steps = [spikes(*shape, seed=t) for t in range(6)]
    sum(layer(x).square().sum() for x in steps).backward()
    shared = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    sum(uncached(layer, x).square().sum() for x in steps).backward()
    for mine, own in zip(shared, layer.parameters(), strict=True):
        torch.testing.assert_close(mine, own.grad, rtol=1e-5, atol=1e-6)
    assert shared[0].abs().sum() > 0


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradient_is_that_of_the_dequantised_float_layer(kind, config) -> None:
    """Identity straight-through: what the float layer with the dequantised weight would get."""
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments, config=config)
    twin = layer.to_float()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(mine).sin().sum().backward()
    twin(theirs).sin().sum().backward()
    for a, b in ((layer.weight.grad, twin.weight.grad), (layer.bias.grad, twin.bias.grad), (mine.grad, theirs.grad)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
def test_two_losses_go_backward_in_any_order(kind, first) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    losses = [layer(spikes(*shape, seed=0)).sum(), layer(spikes(*shape, seed=1)).square().sum()]
    losses[first].backward()
    losses[1 - first].backward()
    both = layer.weight.grad.clone()
    layer.zero_grad()
    (uncached(layer, spikes(*shape, seed=0)).sum() + uncached(layer, spikes(*shape, seed=1)).square().sum()).backward()
    torch.testing.assert_close(both, layer.weight.grad, rtol=1e-5, atol=1e-6)


def test_gradients_accumulate_over_batches(kind) -> None:
    """A second forward pass after a backward pass uses the same codes: its graph must still be whole."""
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    calls = count_quantiser_calls(layer)
    for _ in range(3):
        layer(spikes(*shape)).sum().backward()
    assert len(calls) == 1
    three = layer.weight.grad.clone()
    layer.zero_grad()
    layer(spikes(*shape)).sum().backward()
    torch.testing.assert_close(three, 3 * layer.weight.grad, rtol=1e-5, atol=1e-6)


def test_inference_mode_then_training(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    with torch.inference_mode():
        layer(spikes(*shape))
    layer(spikes(*shape)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        expected = layer(spikes(*shape))
    assert torch.equal(layer(spikes(*shape)), expected)


def test_layer_made_in_inference_mode(kind) -> None:
    quantised, _, arguments, shape = kind
    with torch.inference_mode():
        layer = quantised(*arguments)
        layer(spikes(*shape))
    assert layer(spikes(*shape)).shape[0] == 4


def test_no_grad_then_training(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    with torch.no_grad():
        layer(spikes(*shape))
    layer(spikes(*shape)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_frozen_weights(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    layer(spikes(*shape))
    layer.weight.requires_grad_(False)
    x = spikes(*shape).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None
    layer.weight.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_weight_that_becomes_trainable_after_a_frozen_pass(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments).requires_grad_(False)
    layer(spikes(*shape))
    layer.requires_grad_(True)
    layer(spikes(*shape)).sum().backward()
    assert layer.weight.grad is not None


# Copies and files.


def test_deepcopy_is_independent(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments)
    layer(spikes(*shape)).sum().backward()  # fills the cache with tensors that belong to a graph
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(spikes(*shape)), layer(spikes(*shape)))
    before = layer.integer_weight()[0].clone()
    with torch.no_grad():
        twin.weight.neg_()
    assert torch.equal(layer.integer_weight()[0], before)
    assert not torch.equal(twin.integer_weight()[0], before)


def test_copies_do_not_take_each_others_codes_away() -> None:
    """A layer and its copy, run in turn, still compute their codes once each."""
    layer = Linear(6, 4)
    layer(spikes(1, 6))
    twin = copy.deepcopy(layer)
    calls = [count_quantiser_calls(layer), count_quantiser_calls(twin)]
    for _ in range(3):
        assert torch.equal(layer(spikes(1, 6)), twin(spikes(1, 6)))
    assert [len(c) for c in calls] == [0, 1]


def test_state_dict_is_that_of_the_float_layer_both_ways(kind) -> None:
    quantised, float_class, arguments, shape = kind
    floating, layer = float_class(*arguments), quantised(*arguments)
    assert list(layer.state_dict()) == list(floating.state_dict())
    layer.load_state_dict(floating.state_dict(), strict=True)
    want = quantised.from_float(floating, layer.config)
    assert torch.equal(layer(spikes(*shape)), want(spikes(*shape)))
    other = float_class(*arguments)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other.weight, floating.weight)


def test_state_dict_survives_a_file(kind) -> None:
    quantised, _, arguments, shape = kind
    layer, other = quantised(*arguments), quantised(*arguments)
    layer(spikes(*shape))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(spikes(*shape)), layer(spikes(*shape)))


def test_to_float_computes_the_same_up_to_rounding(kind) -> None:
    quantised, float_class, arguments, shape = kind
    layer = quantised(*arguments)
    plain = layer.to_float()
    assert type(plain) is float_class
    torch.testing.assert_close(plain(spikes(*shape)), layer(spikes(*shape)), rtol=1e-5, atol=1e-5)
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in layer.parameters()}
    assert all(p.requires_grad for p in plain.parameters())


def test_to_float_without_bias(kind) -> None:
    quantised, _, arguments, shape = kind
    layer = quantised(*arguments, bias=False)
    assert layer.to_float().bias is None
    torch.testing.assert_close(layer.to_float()(spikes(*shape)), layer(spikes(*shape)), rtol=1e-5, atol=1e-5)


# Taking a float layer's place.


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_from_float_keeps_parameters_flags_and_attributes(kind, config) -> None:
    quantised, float_class, arguments, _ = kind
    floating = float_class(*arguments).eval()
    floating.weight.requires_grad_(False)
    floating.note = "mine"
    layer = quantised.from_float(floating, config)
    assert layer.weight is floating.weight
    assert layer.bias is floating.bias
    assert layer.config == config
    assert layer.training is False
    assert not layer.weight.requires_grad
    assert layer.note == "mine"


def test_from_float_keeps_dtype(kind) -> None:
    quantised, float_class, arguments, shape = kind
    layer = quantised.from_float(float_class(*arguments).double(), Ternary())
    assert layer(spikes(*shape).double()).dtype == torch.float64


def test_hooks_move_over_and_their_handles_remove_them(kind) -> None:
    quantised, float_class, arguments, shape = kind
    floating = float_class(*arguments)
    seen: list[str] = []
    handles = [
        floating.register_forward_hook(lambda *_: seen.append("forward")),
        floating.register_forward_pre_hook(lambda *_: seen.append("pre")),
        floating.register_forward_hook(lambda m, a, k, o: seen.append("kwargs"), with_kwargs=True),
        floating.register_full_backward_hook(lambda *_: seen.append("backward")),
        floating.register_state_dict_post_hook(lambda *_: seen.append("state_dict")),
    ]
    layer = quantised.from_float(floating, Ternary())
    layer(spikes(*shape).requires_grad_()).sum().backward()
    layer.state_dict()
    assert seen == ["pre", "forward", "kwargs", "backward", "state_dict"]
    for handle in handles:
        handle.remove()
    seen.clear()
    layer(spikes(*shape).requires_grad_()).sum().backward()
    layer.state_dict()
    assert seen == []


def test_repr_shows_geometry_and_precision() -> None:
    text = repr(Linear(3, 2, config=Binary(per="tensor")))
    assert text == "Linear(in_features=3, out_features=2, bias=True, Binary(per='tensor'))"


def test_compiles_without_reading_the_cache() -> None:
    """Under torch.export the codes are computed in the graph, from the weight."""
    layer = Linear(6, 4).eval()
    layer(spikes(1, 6))
    program = torch.export.export(layer, (spikes(2, 6),))
    assert torch.equal(program.module()(spikes(2, 6)), layer(spikes(2, 6)))


# Fixed scales.


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (Ternary(), (4,), r"shape \(4,\); this layer has 5 outputs and 1 scales for each, .* \(5, 1\) or \(5,\)\."),
        (Ternary(), (1,), r"shape \(1,\)"),
        (Ternary(scale="learned"), (5, 2), r"shape \(5, 2\)"),
        (Uniform(4, per="tensor"), (2,), r"shape \(5, 1\) or \(5,\)"),
        (Uniform(4, per="group", group_size=5), (5,), r"shape \(5,\); .* 3 scales for each, .* \(5, 3\)\."),
    ],
)
def test_fixed_scales_of_another_shape_are_refused(config: Any, shape: tuple[int, ...], message: str) -> None:
    layer = Linear(12, 5, config=config)
    inputs = torch.ones(2, 12)
    want = layer(inputs)
    with pytest.raises(ConfigError, match=message):
        layer.quantizer.fix_scale(torch.ones(shape))
    assert layer.quantizer.fixed_scale is None
    assert torch.equal(layer(inputs), want)


def test_a_scale_for_all_outputs_is_fixed_per_tensor() -> None:
    layer = Linear(12, 5, config=Ternary(per="tensor"))
    for scale in (torch.tensor([0.5]), torch.full((5,), 0.5)):
        layer.quantizer.fix_scale(scale)
        assert (layer.integer_weight()[1] == 0.5).all()


def test_a_fixed_scale_of_another_shape_does_not_load() -> None:
    source, layer = Linear(12, 4), Linear(12, 5)
    source.quantizer.fix_scale(torch.ones(4))
    state = {**layer.state_dict(), **{k: v for k, v in source.state_dict().items() if "fixed_scale" in k}}
    with pytest.raises(
        RuntimeError, match=r"size mismatch for .*fixed_scale: \(4, 1\) in the checkpoint, \(5, 1\) here"
    ):
        layer.load_state_dict(state)
    assert layer.quantizer.fixed_scale is None


# Autocast.
