"""The blocks of the snnTorch flavour, and which layers inside neurons are known."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snn_extreme_quant import Binary, Ternary, export_onnx, reset, verify
from snn_extreme_quant.errors import SampleError
from snn_extreme_quant_snntorch.blocks import QuantConv2dLeaky, QuantLinearLeaky
from snn_extreme_quant_snntorch.layers import INNER_LAYERS, inner_layers

ROOT = Path(__file__).parents[2]


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()


BLOCKS = {
    "linear": (lambda **options: QuantLinearLeaky(0.9, 6, 5, **options), (7, 3, 6), (7, 3, 5)),
    "conv": (
        lambda **options: QuantConv2dLeaky(0.9, 2, 4, 3, padding=1, stride=2, **options),
        (7, 3, 2, 6, 6),
        (7, 3, 4, 3, 3),
    ),
}
OPTIONS = [
    {},
    {"config": Binary(per="tensor"), "bias": False, "threshold": 0.2},
    {"threshold": 0.3, "reset_mechanism": "zero"},
    {"reset_delay": False, "spike_grad": surrogate.fast_sigmoid()},
    {"learn_beta": True, "learn_threshold": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=",".join)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_its_layer_and_snntorchs_neuron(block, options) -> None:
    """Bit for bit, against the loop that a snnTorch user writes."""
    make, shape, output = BLOCKS[block]
    torch.manual_seed(0)
    module = make(**options)
    settings = {"learn_beta": False, "learn_threshold": False, **options}
    reference = snn.Leaky(0.9, **{name: value for name, value in settings.items() if name not in ("config", "bias")})
    x = spikes(*shape)
    mem, want = reference.reset_mem(), []
    for step in x:
        spk, mem = reference(module.synapse(step), mem)
        want.append(spk)
    ours = module(x)
    assert ours.shape == output
    assert 0 < ours.sum() < ours.numel()
    assert torch.equal(ours, torch.stack(want))
    assert torch.equal(module(x), ours), "each call starts from rest"
    ours.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_can_be_copied_after_training(block) -> None:
    make, shape, _ = BLOCKS[block]
    module = make()
    x = spikes(*shape)
    y = module(x)
    y.sum().backward()
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), y)


def test_a_block_does_not_reach_outside() -> None:
    net, other = QuantLinearLeaky(0.9, 6, 5), QuantLinearLeaky(0.9, 6, 5)
    outside = snn.Leaky(0.9, init_hidden=True)
    outside(torch.ones(1, 5))
    net(spikes(7, 3, 6))
    reset(other)
    assert outside.mem.any()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_step_is_not_a_sequence(block) -> None:
    make, shape, _ = BLOCKS[block]
    with pytest.raises(SampleError, match=r"takes \(T, B, .*\), time first; got \("):
        make()(spikes(*shape[1:]))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_exported_with_any_number_of_steps(block, tmp_path) -> None:
    make, shape, _ = BLOCKS[block]
    torch.manual_seed(0)
    net = nn.Sequential(make(threshold=0.3)).eval()
    report = export_onnx(net, spikes(*shape), tmp_path / "net.onnx", input="spikes")
    assert report.time == "free"
    verified = verify(net, tmp_path / "net.onnx", spikes(11, *shape[1:]))
    assert verified.ok, str(verified)


def test_default_precision() -> None:
    assert QuantLinearLeaky(0.9, 4, 4).synapse.config == Ternary()


# Inner layers.


def test_every_class_that_is_named_exists_and_has_the_layers() -> None:
    made = {
        "RLeaky": snn.RLeaky(0.9, linear_features=4),
        "RSynaptic": snn.RSynaptic(0.9, 0.8, linear_features=4),
        "LinearLeaky": snn.LinearLeaky(0.9, 4, 4),
        "SConv2dLSTM": snn.SConv2dLSTM(1, 1, 3),
        "AssociativeLeaky": snn.AssociativeLeaky.from_num_spiking_neurons(4, 16, use_q_projection=True),
    }
    assert set(made) == set(INNER_LAYERS)
    for name, module in made.items():
        assert set(inner_layers(module)) == set(INNER_LAYERS[name])
        assert all(isinstance(getattr(module, attribute), nn.Module) for attribute in inner_layers(module))


@pytest.mark.parametrize(
    "make", [lambda: snn.Leaky(0.5), lambda: snn.SLSTM(2, 2), lambda: snn.LeakyParallel(2, 2), lambda: nn.Linear(2, 2)]
)
def test_others_have_none(make) -> None:
    assert inner_layers(make()) == ()


def test_a_projection_that_was_not_asked_for_is_not_named() -> None:
    module = snn.AssociativeLeaky.from_num_spiking_neurons(4, 16, use_q_projection=False)
    assert module.to_q is None
    assert "to_q" not in inner_layers(module)


def test_the_plugin_imports_without_the_framework() -> None:
    code = (
        "import sys\nsys.modules['snntorch'] = None\n"
        "import snn_extreme_quant_snntorch, snn_extreme_quant_snntorch.layers, snn_extreme_quant_snntorch.blocks\n"
        "from torch import nn\n"
        "print(snn_extreme_quant_snntorch.plugin.inner_layers(nn.Linear(2, 2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "()", done.stderr
