"""What is guaranteed of a layer, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron as jelly
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.translations import fits_pairs
from snn_extreme_quant.quantizers.packing import LAYOUTS
from tests.deploy.random_layers import spikes

REAL = "sums real numbers, in an order that a runtime may choose"


def lif(**options: Any) -> nn.Module:
    return snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True, **options)


def verdicts(model: nn.Module, x: Tensor, path: Path, kind: str = "spikes") -> dict[str, tuple[bool, str]]:
    """Export, check the file where it is guaranteed, and return what is said of each layer."""
    report = sxq.export_onnx(model.eval(), x, path, input=kind)  # type: ignore[arg-type]
    result = sxq.verify(model, path, x)
    for layer in result.layers:
        assert layer.different == 0 or not layer.exact, str(result)
    if report.exact:
        assert result.output_difference == 0
    return {layer.name: (layer.exact, layer.reason) for layer in report.layers}


def quantised(config: Any, *modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*modules)
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    sxq.quantize_(model, config)
    return model


def operators_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "snn.extreme_quant"]


def test_wide_codes_over_many_inputs_need_too_many_bits(tmp_path: Path) -> None:
    """Codes of 16 bit: 512 of them and more may come to 2**24."""
    x = spikes(3, 2, 2048)
    model = quantised(sxq.Uniform(16), nn.Linear(2048, 4), lif())
    nn.init.uniform_(model[0].weight, 0.9, 1.0)  # type: ignore[index]
    found = verdicts(model, x, tmp_path / "net.onnx")
    why = "sums 2048 inputs, which may need more than 24 bits"
    assert found == {"0": (False, why), "1": (False, f"layer '0' {why}")}


def test_wide_codes_over_few_inputs_are_exact(tmp_path: Path) -> None:
    model = quantised(sxq.Uniform(16), nn.Linear(64, 4), lif())
    found = verdicts(model, spikes(3, 2, 64), tmp_path / "net.onnx")
    assert found == {"0": (True, "sums of 64 spikes"), "1": (True, "computed from exact sums")}


def test_wide_codes_of_a_recurrent_layer(tmp_path: Path) -> None:
    """The input's layer is narrow: it is the neuron that says no."""
    neuron = snn.RLeaky(beta=0.9, linear_features=1200, init_hidden=True)
    nn.init.uniform_(neuron.recurrent.weight, 0.9, 1.0)
    model = nn.Sequential(nn.Linear(4, 1200), neuron)
    sxq.quantize_(model, sxq.PrecisionPlan({"1.recurrent": sxq.Uniform(16)}, default=sxq.Ternary()))
    found = verdicts(model, spikes(2, 2, 4), tmp_path / "net.onnx")
    assert found["0"][0]
    assert found["1"] == (False, "its recurrent layer sums 1200 inputs, which may need more than 24 bits")


def test_a_recurrent_layer_in_float(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 5), snn.RLeaky(beta=0.9, linear_features=5, init_hidden=True))
    sxq.quantize_(model, sxq.PrecisionPlan({"0": sxq.Ternary()}))
    found = verdicts(model, spikes(2, 2, 4), tmp_path / "net.onnx")
    assert found["1"] == (False, "its recurrent layer has float weights")


def test_real_input(tmp_path: Path) -> None:
    found = verdicts(quantised(sxq.Ternary(), nn.Linear(6, 4), lif()), torch.rand(3, 2, 6), tmp_path / "n.onnx", "real")
    assert found == {"0": (False, REAL), "1": (False, f"layer '0' {REAL}")}


def test_fixed_point_input(tmp_path: Path) -> None:
    model = quantised(sxq.Ternary(), sxq.FixedPointInput(8, 8), nn.Linear(6, 4), lif())
    found = verdicts(model, torch.rand(3, 2, 6), tmp_path / "n.onnx", "real")
    assert found["1"] == (True, "sums of 6 multiples of 2^-8 up to 0.996094")
    assert operators_of(tmp_path / "n.onnx")[0] == "TernaryLinearInteger"


def test_graded_spikes_are_real_numbers_to_the_next_layer(tmp_path: Path) -> None:
    neuron = lif(graded_spikes_factor=0.7)
    model = quantised(sxq.Ternary(), nn.Linear(6, 4), neuron, nn.Linear(4, 3), lif())
    found = verdicts(model, spikes(3, 2, 6), tmp_path / "net.onnx")
    assert found["1"] == (True, "computed from exact sums")
    assert found["2"] == (False, REAL)
    assert found["3"] == (False, f"layer '2' {REAL}")


@pytest.mark.parametrize("levels", [1, 4, 7])
def test_counts(levels: int, tmp_path: Path) -> None:
    """Counts of spikes are integers; only those that bytes hold in pairs go through an integer product."""
    counting = jelly.ILIFNode(v_threshold=0.2, surrogate_function=surrogate.MultiLevelSpikeCount(levels))
    model = quantised(sxq.Uniform(8), nn.Linear(6, 4), counting, nn.Linear(4, 3), jelly.IFNode(v_threshold=0.3))
    found = verdicts(model, spikes(3, 2, 6), tmp_path / "net.onnx")
    assert found["2"] == (True, f"sums of 4 {'spikes' if levels == 1 else f'integers up to {levels}'}")
    assert operators_of(tmp_path / "net.onnx")[2] == "Int8LinearInteger"


def test_signed_spikes_are_signed_bytes(tmp_path: Path) -> None:
    model = quantised(
        sxq.Ternary(), nn.Linear(6, 4), jelly.TernaryIFNode(v_threshold=0.2), nn.Linear(4, 3), jelly.IFNode()
    )
    found = verdicts(model, spikes(3, 2, 6), tmp_path / "net.onnx")
    assert found["2"] == (True, "sums of 4 integers up to 1")
    assert operators_of(tmp_path / "net.onnx")[2] == "TernaryLinearIntegerSigned"


def test_signed_bytes_of_wide_codes_take_the_float_product(tmp_path: Path) -> None:
    """With its zero point a signed byte is up to 255, whose products with 8-bit codes do not fit in pairs."""
    model = quantised(
        sxq.Uniform(8), nn.Linear(6, 4), jelly.TernaryIFNode(v_threshold=0.2), nn.Linear(4, 3), jelly.IFNode()
    )
    assert verdicts(model, spikes(3, 2, 6), tmp_path / "net.onnx")["2"][0]
    assert operators_of(tmp_path / "net.onnx")[2] == "Int8Linear"


@pytest.mark.parametrize(
    ("layout", "most"),
    [
        ("binary8", 255),
        ("ternary4", 255),
        ("ternary5", 255),
        ("int4", 255),
        ("int7", 255),
        ("int8", 129),
        ("int9", 0),
        ("int16", 0),
    ],
)
def test_pairs_of_byte_products_fit_16_bits(layout: str, most: int) -> None:
    """Up to what input onnxruntime's integer product is exact on processors that add pairs in 16 bit."""
    for units in (1, most, most + 1):
        exact = not LAYOUTS[layout].wide and 2 * units * LAYOUTS[layout].largest <= 2**15 - 1
        assert fits_pairs(units, layout) == exact
        if 0 < units <= 255:
            assert exact == (units <= most)


def test_large_inputs_of_wide_codes_take_the_float_product(tmp_path: Path) -> None:
    """8-bit inputs with 8-bit codes: exact, but not in pairs of 16 bit."""
    x = torch.rand(3, 2, 6)
    model = quantised(sxq.Uniform(8), sxq.FixedPointInput(8, 8), nn.Linear(6, 4), lif())
    assert verdicts(model, x, tmp_path / "net.onnx", "real")["1"][0]
    assert operators_of(tmp_path / "net.onnx")[0] == "Int8Linear"
    model = quantised(sxq.Uniform(8), sxq.FixedPointInput(7, 7), nn.Linear(6, 4), lif())
    assert verdicts(model, x, tmp_path / "net.onnx", "real")["1"][0]
    assert operators_of(tmp_path / "net.onnx")[0] == "Int8LinearInteger"


class Attention(nn.Module):
    """Spiking self-attention without softmax: products of matrices of spikes, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif, self.lif = (lif() for _ in range(4))
        self.out = lif()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_lif(self.q(x)), self.k_lif(self.k(x)), self.v_lif(self.v(x))
        mixed = (q @ k.transpose(-2, -1)) @ v * self.factor
        return self.out(self.head(mixed))


@pytest.mark.parametrize(
    ("factor", "head"), [(0.125, (True, "sums of 6 multiples of 2^-3 up to 3")), (0.3, (False, REAL))]
)
def test_attention(factor: float, head: tuple[bool, str], tmp_path: Path) -> None:
    """Of spikes it is exact; scaled by a power of two the next layer is too."""
    torch.manual_seed(0)
    model = Attention(factor)
    sxq.quantize_(model, sxq.Ternary())
    found = verdicts(model, spikes(4, 2, 4, 6), tmp_path / "net.onnx")
    assert all(found[name][0] for name in ("q_lif", "k_lif", "v_lif"))
    assert found["head"] == head
    assert found["out"][0] == head[0]


@pytest.mark.parametrize(
    "config",
    [
        sxq.Ternary(per="group", group_size=4),
        sxq.Binary(per="group", group_size=3),
        sxq.Uniform(6, "group", group_size=64),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(10, 5), nn.Conv1d(10, 5, 3), nn.ConvTranspose1d(10, 5, 3)],
    ids=lambda layer: type(layer).__name__,
)
def test_scales_by_group(config: Any, layer: nn.Module, tmp_path: Path) -> None:
    """Each group is a product of its own, and they are added in their order."""
    torch.manual_seed(0)
    model = nn.Sequential(layer, lif())
    sxq.quantize_(model, config)
    x = spikes(4, 2, 10) if layer.weight.dim() == 2 else spikes(4, 2, 10, 7)  # type: ignore[operator]
    found = verdicts(model, x, tmp_path / "net.onnx")
    groups = -(-10 // config.group_size)
    assert len(operators_of(tmp_path / "net.onnx")) == groups + 1
    assert found["0"][0]
    assert found["1"] == (True, "computed from exact sums")


@pytest.mark.parametrize("config", [sxq.Ternary(), sxq.Uniform(5, "group", group_size=4)], ids=repr)
def test_tables_of_tokens(config: Any, tmp_path: Path) -> None:
    """Rows are looked up and scaled: no sum, so exact for a neuron; real to a layer."""
    torch.manual_seed(0)
    ids = torch.randint(0, 9, (4, 2, 3))
    model = nn.Sequential(nn.Embedding(9, 10, padding_idx=0), lif(), nn.Linear(10, 4), lif())
    sxq.quantize_(model, config)
    found = verdicts(model, ids, tmp_path / "net.onnx", "real")
    assert found["0"] == (True, "looks rows up, one product a value")
    assert all(exact for exact, _ in found.values())
    model = nn.Sequential(nn.Embedding(9, 10), nn.Linear(10, 4), lif())
    sxq.quantize_(model, config)
    assert verdicts(model, ids, tmp_path / "net.onnx", "real")["1"] == (False, REAL)
