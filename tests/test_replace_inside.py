"""quantize_ inside other modules: neurons that hold layers, containers with state, attention, torch's transformer."""

import copy

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import layer as sj
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from snn_extreme_quant import PrecisionPlan, Ternary, quantize_, reset
from snn_extreme_quant.errors import ConfigError, UnmatchedNameError
from snn_extreme_quant.layers import Conv2d, IntegerFirst, Linear


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def left(report) -> dict[str, str]:
    return {entry.name: entry.reason for entry in report.left}


def with_float_layers(model: nn.Module) -> nn.Module:
    """Return the model with each quantised layer dequantised: what it should compute, but for rounding."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, IntegerFirst):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.to_float())
    return model


# snnTorch's neurons.


NEURONS = {
    "RLeaky linear": (lambda: snn.RLeaky(0.9, linear_features=4, init_hidden=True), ("recurrent",), (2, 4)),
    "RLeaky conv": (
        lambda: snn.RLeaky(0.9, conv2d_channels=2, kernel_size=3, init_hidden=True),
        ("recurrent",),
        (2, 2, 5, 5),
    ),
    "RSynaptic linear": (lambda: snn.RSynaptic(0.8, 0.9, linear_features=4, init_hidden=True), ("recurrent",), (2, 4)),
    "RSynaptic conv": (
        lambda: snn.RSynaptic(0.8, 0.9, conv2d_channels=2, kernel_size=3, init_hidden=True),
        ("recurrent",),
        (2, 2, 5, 5),
    ),
    "LinearLeaky": (lambda: snn.LinearLeaky(0.9, 4, 6), ("linear",), (3, 2, 4)),
    "SConv2dLSTM": (lambda: snn.SConv2dLSTM(2, 3, 3, init_hidden=True), ("conv",), (2, 2, 6, 6)),
    "AssociativeLeaky": (
        lambda: snn.AssociativeLeaky.from_num_spiking_neurons(4, 16),
        ("to_v", "to_k", "to_alpha"),
        (3, 2, 4),
    ),
}


@pytest.mark.parametrize("case", NEURONS)
def test_layers_that_a_neuron_calls_are_swapped(case) -> None:
    """And used: the neuron computes what it would with the dequantised weights."""
    make, names, shape = NEURONS[case]
    torch.manual_seed(0)
    net = nn.Sequential(make())
    report = quantize_(net, Ternary())
    swapped = {name for r in report.replaced for name in r.names}
    assert {f"0.{name}" for name in names} <= swapped
    for name in names:
        assert isinstance(getattr(net[0], name), (Linear, Conv2d))
    plain = with_float_layers(net)
    reset(net)
    reset(plain)
    x = spikes(*shape) * 2
    for _ in range(3):
        ours, theirs = net(x), plain(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    (ours[0] if isinstance(ours, tuple) else ours).sum().backward()


def test_layers_inside_neurons_follow_skip_and_plans() -> None:
    net = nn.Sequential(nn.Linear(4, 4), snn.RLeaky(0.5, linear_features=4))
    assert left(quantize_(net, Ternary(), skip=["1.recurrent"])) == {"1.recurrent": "skipped by name"}
    report = quantize_(net, PrecisionPlan({"1.*": Ternary(per="tensor")}))
    assert [r.names for r in report.replaced] == [("1.recurrent",)]


@pytest.mark.parametrize("name", ["RLeaky linear", "RLeaky conv", "RSynaptic linear", "RSynaptic conv"])
def test_layers_that_feed_spikes_back_have_no_scales_by_group(name) -> None:
    net = nn.Sequential(nn.Linear(4, 4), NEURONS[name][0]())
    before = dict(net.named_modules())
    grouped = Ternary(per="group", group_size=2)
    with pytest.raises(
        ConfigError, match=r"Layer '1.recurrent' carries a neuron's spikes back.*skip=\['1.recurrent'\]"
    ):
        quantize_(net, grouped)
    assert dict(net.named_modules()) == before
    report = quantize_(net, PrecisionPlan({"1.recurrent": Ternary()}, default=grouped))
    assert [r.config for r in report.replaced] == [grouped, Ternary()]


def test_other_layers_inside_neurons_have_scales_by_group() -> None:
    grouped = Ternary(per="group", group_size=2)
    for name in ("LinearLeaky", "SConv2dLSTM"):
        assert quantize_(nn.Sequential(NEURONS[name][0]()), grouped).replaced[0].config == grouped


def test_a_vector_of_recurrent_weights_is_listed() -> None:
    """It is no matrix, but a weight all the same."""
    for options in ({}, {"learn_recurrent": False}):
        net = nn.Sequential(nn.Linear(4, 4), snn.RLeaky(0.5, V=torch.ones(4), all_to_all=False, **options))
        report = quantize_(net, Ternary())
        assert left(report) == {"1.recurrent": "no quantised layer for RecurrentOneToOne"}
        with pytest.raises(UnmatchedNameError, match=r"'1.recurrent' cannot be quantised"):
            quantize_(net, PrecisionPlan({"1.recurrent": Ternary()}))


def test_weights_that_neurons_multiply_by_themselves_are_listed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), snn.SLSTM(4, 4), snn.LeakyParallel(4, 4))
    reasons = left(quantize_(net, Ternary()))
    assert reasons["1.lstm_cell"].startswith("LSTMCell multiplies by its weights itself")
    assert reasons["2.rnn"].startswith("RNN multiplies by its weights itself")


def test_a_subclass_that_may_use_its_layer_otherwise_keeps_it() -> None:
    class Scaled(snn.RLeaky):
        def _base_state_function(self, input_):
            return input_ @ self.recurrent.weight

    class Same(snn.RLeaky):
        """Nothing changed."""

    odd, same = Scaled(0.5, linear_features=4), Same(0.5, linear_features=4)
    patched = snn.RLeaky(0.5, linear_features=4)
    patched.fire = lambda mem: mem
    report = quantize_(nn.Sequential(nn.Linear(4, 4), odd, same, patched), Ternary())
    assert type(odd.recurrent) is nn.Linear
    assert type(same.recurrent) is Linear
    assert type(patched.recurrent) is nn.Linear
    assert left(report)["1.recurrent"] == "inside the neuron '1': Scaled is not known to call it like a layer"


def test_a_layer_that_someone_put_into_a_neuron_is_left() -> None:
    neuron = snn.Leaky(0.5)
    neuron.extra = nn.Linear(4, 4)
    report = quantize_(nn.Sequential(nn.Linear(4, 4), neuron), Ternary())
    assert left(report) == {"1.extra": "inside the neuron '1': Leaky is not known to call it like a layer"}


def test_a_framework_that_knows_no_inner_layers(monkeypatch) -> None:
    """The plugins of others need not say anything about them."""
    from snn_extreme_quant.frameworks import frameworks
    from snn_extreme_quant.replace import regions

    class Old:
        def __init__(self, framework):
            self._framework = framework

        def __getattr__(self, name):
            if name == "inner_layers":
                raise AttributeError(name)
            return getattr(self._framework, name)

    found = regions.regions_of(
        [regions.Site(("1",), snn.RLeaky(0.5, linear_features=4))], [Old(f) for f in frameworks()]
    )
    assert [(r.name, r.open) for r in found] == [("1", ())]


# SpikingJelly's containers.


def test_recurrent_containers() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(sj.Linear(4, 4), sj_neuron.LIFNode())
    net = nn.Sequential(
        sj.LinearRecurrentContainer(inner, 4, 4),
        sj.ElementWiseRecurrentContainer(nn.Sequential(sj.Linear(4, 4), sj_neuron.IFNode()), torch.add),
    )
    report = quantize_(net, Ternary())
    assert {r.names[0] for r in report.replaced} == {"0.sub_module.0", "0.rc", "1.sub_module.0"}
    assert report.left == ()
    plain = with_float_layers(net)
    for x in spikes(4, 2, 4):
        torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-5)


def test_weights_of_stateful_layers_are_listed() -> None:
    net = nn.Sequential(sj.Linear(4, 4), sj_neuron.PSN(4), sj.DropConnectLinear(4, 4))
    reasons = left(quantize_(net, Ternary()))
    assert reasons["1"] == "PSN keeps state and multiplies by its parameters itself"
    assert reasons["2"] == "DropConnectLinear keeps state and multiplies by its parameters itself"


def test_attention_of_spikingjelly() -> None:
    """Its projections are ordinary children."""
    torch.manual_seed(0)
    net = nn.Sequential(sj.SpikingSelfAttention(8, 2)).eval()
    report = quantize_(net, Ternary())
    assert report.replaced
    assert report.left == ()
    plain = with_float_layers(net)
    x = spikes(3, 2, 8, 5)
    for ours, theirs in zip(net(x).flatten(), plain(x).flatten(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# torch's transformer.


def encoder_layer(**options) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options).eval()


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
def test_the_encoder_layers_fast_path_does_not_run_float_weights(options) -> None:
    layer = encoder_layer(**options)
    untouched = copy.deepcopy(layer)
    x = torch.randn(3, 5, 8)
    net = nn.Sequential(layer)
    report = quantize_(net, Ternary())
    assert type(layer.linear1) is type(layer.linear2) is Linear
    assert report.notes == ("0: torch's fast path, which runs float weights, is switched off",)
    assert left(report) == {
        "0.self_attn": "MultiheadAttention multiplies by its weights itself, not through layers that could be swapped",
        "0.self_attn.out_proj": "MultiheadAttention reads the weights of its layers itself",
    }
    with_gradients = net(x)
    with torch.no_grad():
        without, copied = net(x), copy.deepcopy(net)(x)
        plain = with_float_layers(net)(x)
        before = untouched(x)
    # Attention, which stays in float, has two kernels of its own that round differently.
    torch.testing.assert_close(with_gradients, without, rtol=1e-5, atol=1e-6)
    assert torch.equal(without, copied)
    torch.testing.assert_close(without, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, before, atol=1e-2)


def test_an_encoder_layer_whose_own_layers_stay_keeps_its_fast_path() -> None:
    layer = encoder_layer()
    report = quantize_(nn.Sequential(layer, nn.Linear(8, 2)), Ternary(), skip=["0"])
    assert layer.activation_relu_or_gelu == 1
    assert report.notes == ()


def test_an_encoder_with_padded_sequences() -> None:
    """The encoder packs them for the fast path, which nobody takes any more."""
    encoder = nn.TransformerEncoder(encoder_layer(), 2).eval()
    assert encoder.use_nested_tensor
    quantize_(encoder, Ternary())
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with_gradients = encoder(x, src_key_padding_mask=padding)
    with torch.no_grad():
        without = encoder(x, src_key_padding_mask=padding)
    torch.testing.assert_close(without[~padding], with_gradients[~padding], rtol=1e-5, atol=1e-6)


def test_a_decoder_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)).eval()
    report = quantize_(net, Ternary())
    assert {r.names[0] for r in report.replaced} == {"0.linear1", "0.linear2"}
    assert {name for name in left(report) if name.endswith("out_proj")} == {
        "0.self_attn.out_proj",
        "0.multihead_attn.out_proj",
    }
    x = torch.randn(2, 5, 8)
    with_gradients = net[0](x, x)
    with torch.no_grad():
        torch.testing.assert_close(net[0](x, x), with_gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["forward", "_ff_block"])
def test_a_transformer_layer_that_computes_something_else(method) -> None:
    class Own(nn.TransformerEncoderLayer):
        """One method differs."""

    setattr(Own, method, lambda self, *args, **kwargs: args[0] @ self.linear1.weight.T)
    net = nn.Sequential(Own(8, 2, 16), nn.Linear(8, 8))
    reasons = left(quantize_(net, Ternary()))
    assert reasons["0.linear1"] == reasons["0.linear2"] == "Own reads the weights of its layers itself"
