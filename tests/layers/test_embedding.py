"""The embedding: rows of codes times a scale, padding rows, sign storage, and options that are refused."""

import copy

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary, Uniform, export_onnx, quantize_, verify
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import Embedding

CONFIGS = [
    Ternary(),
    Binary(),
    Binary(center=True),
    Uniform(bits=4),
    Ternary(per="tensor"),
    Binary(per="tensor"),
    Ternary(per="group", group_size=3),
    Binary(per="group", group_size=8),
]
IDS = torch.tensor([[1, 4, 0], [6, 2, 2]])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("padding_idx", [None, 0, -1])
def test_output_is_code_times_scale(config, padding_idx) -> None:
    torch.manual_seed(0)
    layer = Embedding(7, 10, padding_idx, config=config)
    codes, scale = layer.integer_weight()
    assert codes.shape == (7, 10)
    size = config.group_size or 10
    scale = scale.view(7, -1)
    for ids in (IDS, IDS[0], torch.tensor(3)):
        y = layer(ids)
        assert y.shape == (*ids.shape, 10)
        for k in range(10):
            assert torch.equal(y[..., k], codes[ids, k] * scale[ids, k // size])
    torch.testing.assert_close(layer.to_float()(IDS), layer(IDS), rtol=0, atol=0)
    assert repr(layer.to_float()) == repr(nn.Embedding(7, 10, padding_idx))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_zero_padding_row_stays_zero_and_untrained(config) -> None:
    torch.manual_seed(0)
    layer = Embedding(7, 10, padding_idx=2, config=config)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        y = layer(IDS)
        assert torch.equal(y[1, 1], torch.zeros(10))
        optimizer.zero_grad()
        (y - 1).square().sum().backward()
        assert not layer.weight.grad[2].any()
        assert layer.weight.grad[1].any()
        optimizer.step()
    assert not layer.weight[2].any()


def test_a_padding_row_with_values_is_quantised() -> None:
    """torch allows it: only the gradient is withheld."""
    layer = Embedding(3, 4, padding_idx=0, config=Binary())
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert layer(torch.tensor(0)).tolist() == [1.0, -1.0, 1.0, -1.0]
    layer(torch.tensor([0, 1])).sum().backward()
    assert not layer.weight.grad[0].any()
    assert layer.weight.grad[1].any()


@pytest.mark.parametrize("least", [1e-45, 1e-30, 0.0])
def test_a_small_negative_keeps_its_sign(least) -> None:
    """One bit has no zero: a weight that is too small for its type is still negative."""
    layer = Embedding(1, 4, config=Binary())
    with torch.no_grad():
        layer.weight[0] = torch.tensor([-least, least, -1.0, 1.0])
    assert layer.integer_weight()[0].tolist() == [[-1.0, 1.0, -1.0, 1.0]]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradient_is_that_of_the_dequantised_table(config) -> None:
    torch.manual_seed(0)
    layer = Embedding(7, 10, padding_idx=0, config=config)
    plain = layer.to_float()
    weights = torch.randn(2, 3, 10)
    (layer(IDS) * weights).sum().backward()
    (plain(IDS) * weights).sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-6)


def test_learned_scales_are_trained_but_for_padding() -> None:
    layer = Embedding(7, 10, padding_idx=2, config=Ternary(scale="learned"))
    scaling = layer.quantizer.scaling
    layer(IDS).sum().backward()
    assert not scaling.grad[2].any()
    assert not scaling.grad[5].any(), "row 5 was not looked up"
    assert scaling.grad[6].any()


def test_it_takes_the_place_of_the_float_layer() -> None:
    floating = nn.Embedding(7, 10, padding_idx=1)
    net = nn.Sequential(floating)
    report = quantize_(net, Ternary())
    assert report.replaced[0].was == "Embedding"
    layer = net[0]
    assert type(layer) is Embedding
    assert layer.weight is floating.weight
    assert layer.padding_idx == 1
    assert list(layer.state_dict()) == ["weight"]
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(IDS), layer(IDS))


def test_initialised_like_torch() -> None:
    torch.manual_seed(0)
    ours = Embedding(7, 10, padding_idx=3)
    torch.manual_seed(0)
    theirs = nn.Embedding(7, 10, padding_idx=3)
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}], ids=str)
def test_options_that_cannot_be_carried_over(option) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"Embedding\({name}=.*: .*; use {name}="):
        Embedding(7, 10, **option)
    net = nn.Sequential(nn.Embedding(7, 10, **option), nn.Linear(10, 2))
    report = quantize_(net, Ternary())
    assert [entry.name for entry in report.left] == ["0"]
    assert report.left[0].reason.startswith(name)
    assert type(net[0]) is nn.Embedding


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_compiled_without_graph_breaks(config) -> None:
    torch._dynamo.reset()
    layer = Embedding(7, 10, padding_idx=2, config=config)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(IDS), layer(IDS))
    compiled(IDS).sum().backward()
    assert layer.weight.grad.any()
    assert not layer.weight.grad[2].any()


class Tokens(nn.Module):
    """Tokens as currents, a time step each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6, padding_idx=0)
        self.hidden = snn.Leaky(0.9, threshold=0.5)
        self.readout = nn.Linear(6, 4)
        self.output = snn.Leaky(0.9, threshold=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, output, spikes = self.hidden.reset_mem(), self.output.reset_mem(), []
        currents = self.embedding(ids)
        for step in range(ids.shape[1]):
            spike, hidden = self.hidden(currents[:, step], hidden)
            spike, output = self.output(self.readout(spike), output)
            spikes.append(spike)
        return torch.stack(spikes)


@pytest.mark.parametrize("config", [Ternary(), Binary(), Uniform(bits=8), Ternary(per="group", group_size=4)], ids=str)
def test_exported(config, tmp_path) -> None:
    """Rows are looked up in the packed table; a padding row is zero there too."""
    torch.manual_seed(0)
    net = Tokens().eval()
    quantize_(net, config)
    ids = torch.cat([torch.zeros(1, 5, dtype=torch.long), torch.randint(0, 9, (3, 5))])
    export_onnx(net, ids, tmp_path / "net.onnx")
    report = verify(net, tmp_path / "net.onnx", ids)
    assert report.ok, str(report)
