"""Integer files of whole networks: golden model, onnxruntime and torch agree, and integers are all that is in them."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, event, given, settings
from onnx import TensorProto, helper
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import IntegerOptions
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from tests.deploy.random_networks import FORMS, Network, networks

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


# Random networks -----------------------------------------------------------------------------------------------------


def _check(network: Network) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        kind: Any = "spikes" if network.spikes_in else "real"
        report = _exported(network, path, kind)
        if report is None:
            return
        result = sxq.verify(network.model, path, [network.inputs, network.inputs[:, :1]])
        assert result.ok, str(result)
        assert result.integer is not None
        assert result.integer.torch_compared == result.spikes_compared > 0
        assert report.exact
        # On a lattice potentials meet thresholds exactly, and one spike changes all behind it.
        event("as in float" if result.integer.different == 0 else "other than in float")


def _exported(network: Network, path: Path, kind: Any) -> sxq.ExportReport | None:
    """What is exact in float has an integer form, unless its numbers are too large."""
    try:
        return sxq.export_onnx(network.model, network.inputs, path, input=kind, integer=True)
    except sxq.errors.UnsupportedModelError as refusal:
        if network.exact and "32 bit" not in str(refusal):
            raise
        event("refused")
        return None


@pytest.mark.parametrize("form", FORMS[::2])
def test_random_networks(form: str) -> None:
    @given(networks(form))
    @settings(max_examples=1, **_SETTINGS)
    def check(network: Network) -> None:
        _check(network)

    check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_networks() -> None:
    @given(networks())
    @settings(max_examples=60, **_SETTINGS)
    def check(network: Network) -> None:
        _check(network)

    check()


# Networks that have it all -------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """snnTorch: embeddings with a scale a row, a synaptic neuron, a recurrent one whose states are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 12)
        self.lif = snn.Leaky(beta=0.8, threshold=0.5)
        self.fc1 = nn.Linear(12, 10)
        self.syn = snn.Synaptic(alpha=0.7, beta=0.9, threshold=0.4)
        self.fc2 = nn.Linear(10, 6)
        self.rec = snn.RLeaky(beta=0.9, linear_features=6, threshold=0.3)
        nn.init.normal_(self.table.weight, std=2)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mem = self.lif.reset_mem()
        syn, mem2 = self.syn.reset_mem()
        spk, mem3 = self.rec.reset_mem()
        out, potentials = [], []
        for step in range(ids.shape[0]):
            s, mem = self.lif(self.table(ids[step]), mem)
            s, syn, mem2 = self.syn(self.fc1(s), syn, mem2)
            spk, mem3 = self.rec(self.fc2(s), spk, mem3)
            out.append(spk)
            potentials.append(mem3)
        return torch.stack(out), torch.stack(potentials)


class Residual(nn.Module):
    """SpikingJelly: signed spikes, counts, batch norm, currents of two layers, pools, attention, a mean at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = sxq.FixedPointInput(bits=8, fraction=8)
        self.conv = layer.Conv2d(2, 6, 3, padding=1)
        self.norm = layer.BatchNorm2d(6)
        self.signed = neuron.TernaryIFNode(v_threshold=0.3)
        self.left, self.right = layer.Conv2d(6, 6, 1, bias=False), layer.Conv2d(6, 6, 3, padding=1)
        self.count = neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(4), v_threshold=0.5)
        self.fire = neuron.LIFNode(v_threshold=0.1, v_reset=-0.2)
        self.head = layer.Linear(24, 5)
        self.readout = layer.Linear(5, 3)
        nn.init.normal_(self.norm.weight, 0, 2)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.signed(self.norm(self.conv(self.grid(x))))
        x = self.count(self.left(x) + self.right(x)) + torch.relu(x)
        x = nn.functional.avg_pool2d(x.flatten(0, 1), 3).unflatten(0, x.shape[:2]).flatten(3)
        x = (x @ x.transpose(2, 3) * 0.125) @ x
        x = self.fire(self.head(x.flatten(2)))
        return self.readout(x.mean(0))


def _recurrent() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Recurrent()
    sxq.quantize_(model, sxq.Ternary())
    return model.eval(), torch.randint(0, 9, (6, 3))


def _residual() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Residual()
    sxq.quantize_(model, sxq.Uniform(bits=4))
    return model.eval(), torch.rand(5, 2, 2, 6, 6)


@pytest.mark.parametrize("build", [_recurrent, _residual])
def test_networks_that_have_it_all(build: Any, tmp_path: Path) -> None:
    model, inputs = build()
    path = tmp_path / "net.onnx"
    report = sxq.export_onnx(model, inputs, path, integer=True)
    assert report.time == "free"
    assert {entry.name for entry in report.fixed_point} == {n for n, m in model.named_modules() if _fires(m)}
    assert all(entry.headroom >= 0 for entry in report.fixed_point), str(report)
    assert {entry.name for entry in report.layers if not entry.exact} <= {"readout"}, str(report)
    longer = torch.cat([inputs, inputs.flip(0), inputs])
    result = sxq.verify(model, path, [inputs, longer, inputs[:1, :1]])
    assert result.ok, str(result)
    assert 0.02 < result.firing_rate < 0.98
    assert result.integer is not None
    assert result.integer.agreement > 0.999, str(result)


def _fires(module: nn.Module) -> bool:
    return isinstance(module, (snn.SpikingNeuron, neuron.BaseNode))


# One small file, in every respect ------------------------------------------------------------------------------------


def _small(decay: float = 0.9) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(12, 16), snn.Leaky(beta=decay, threshold=0.3, init_hidden=True),
        nn.Linear(16, 4), snn.Leaky(beta=decay, threshold=0.2, init_hidden=True),
    )  # fmt: skip
    sxq.quantize_(model, sxq.Ternary())
    return model.eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, sxq.ExportReport]:
    model, path = _small(), tmp_path_factory.mktemp("integer") / "net.onnx"
    options = IntegerOptions(decay_bits=12)
    return model, path, sxq.export_onnx(model, spikes(4, 2, 12), path, input="spikes", integer=options)


Small = tuple[nn.Module, Path, sxq.ExportReport]


def test_report_and_metadata(small: Small) -> None:
    _, path, report = small
    proto = onnx.load(path)
    facts = json.loads(next(e.value for e in proto.metadata_props if e.key == "snn_extreme_quant"))
    assert facts["integer"] is True
    assert [entry["name"] for entry in facts["fixed_point"]] == ["1", "3"]
    for entry, said in zip(report.fixed_point, facts["fixed_point"], strict=True):
        assert vars(entry) == said
        assert (entry.decay_bits, entry.max_steps) == (12, None)
        assert max(entry.current, entry.potential) * 2**entry.headroom == pytest.approx(2**30, rel=0.01)
        assert f"2^-{entry.fraction}" in str(report)
    operators = [node.op_type for node in proto.graph.node if node.domain]
    assert operators == ["TernaryMatMulInteger", "IntLIF_leak_gt_subtract_delayed"] * 2
    kinds = {init.name: init.data_type for init in proto.graph.initializer if init.name[0].isdigit()}
    assert set(kinds.values()) == {TensorProto.UINT8, TensorProto.INT32}


def test_verify_counts_and_says(small: Small) -> None:
    model, path, _ = small
    result = sxq.verify(model, path, spikes(9, 5, 12))
    assert result.ok
    assert result.integer is not None
    assert result.integer.torch_compared == result.integer.compared == result.spikes_compared == 9 * 5 * 20
    assert "float model" in str(result)


def test_verify_finds_another_threshold(small: Small, tmp_path: Path) -> None:
    """A changed file computes what it computes on every runtime, but not what the model does."""
    model, path, _ = small
    proto = onnx.load(path)
    for init in proto.graph.initializer:
        if init.name == "1.threshold":
            init.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(init) // 2, init.name))
    edited = tmp_path / "edited.onnx"
    onnx.save(proto, edited)
    result = sxq.verify(model, edited, spikes(9, 5, 12), allow_edited=True)
    assert result.integer is not None
    # onnxruntime and the golden model run the same file, so torch alone gives other spikes.
    assert result.spikes_different == result.integer.torch_different > 0
    assert result.integer.different > 0
    assert not result.ok


def test_verify_finds_other_weights(small: Small) -> None:
    model, path, _ = small
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.neg_()
    assert not sxq.verify(other, path, spikes(9, 5, 12)).ok


def test_a_float_between_integers_is_found(small: Small) -> None:
    proto = onnx.load(small[1])
    check_integers_only(proto)
    index, second = [(i, n) for i, n in enumerate(proto.graph.node) if n.op_type == "TernaryMatMulInteger"][1]
    there = helper.make_node("Cast", [second.input[0]], ["real"], "there", to=TensorProto.FLOAT)
    back = helper.make_node("Cast", ["real"], ["whole"], "back", to=TensorProto.UINT8)
    second.input[0] = "whole"
    proto.graph.node.insert(index, back)
    proto.graph.node.insert(index, there)
    with pytest.raises(sxq.errors.ExportError, match="float 'real' between integers"):
        check_integers_only(proto)


def test_a_float_layer_in_the_encoding_is_found(small: Small) -> None:
    proto = onnx.load(small[1])
    cast = next(n for n in proto.graph.node if n.op_type == "Cast")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(12, dtype=np.float32), "matrix"))
    proto.graph.node.insert(0, helper.make_node("MatMul", ["input", "matrix"], ["mixed"], "float_layer"))
    cast.input[0] = "mixed"
    with pytest.raises(sxq.errors.ExportError, match="float_layer"):
        check_integers_only(proto)


def test_a_float_in_a_function_is_found(small: Small) -> None:
    proto = onnx.load(small[1])
    body = next(f for f in proto.functions if f.name.startswith("IntLIF"))
    scan = next(n for n in body.node if n.op_type == "Scan")
    inner = next(a.g for a in scan.attribute if a.name == "body")
    inner.node.append(helper.make_node("Cast", [inner.node[0].output[0]], ["stray"], to=TensorProto.FLOAT))
    with pytest.raises(sxq.errors.ExportError, match="computes in float"):
        check_integers_only(proto)


# What is refused -----------------------------------------------------------------------------------------------------


def _behind(*modules: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 8), snn.Leaky(beta=0.9, init_hidden=True), *modules)
    sxq.quantize_(model, sxq.Ternary())
    return model.eval()


def _with_float_layer() -> nn.Module:
    model = _behind(nn.Linear(8, 8), snn.Leaky(beta=0.9, init_hidden=True))
    model[2] = nn.Linear(8, 8)
    return model.eval()


REFUSED: dict[str, tuple[Any, str, str]] = {
    "raw input": (_small, "real", r"'0' reads the model's raw input.*FixedPointInput"),
    "layer norm": (
        lambda: _behind(nn.LayerNorm(8), nn.Linear(8, 4), snn.Leaky(beta=0.5, init_hidden=True)),
        "spikes",
        r"'3' reads what 'layer_norm' gives.*replace it",
    ),
    "float layer": (_with_float_layer, "spikes", r"'3' reads what 'linear' gives.*[Qq]uantise"),
    "layer on a current": (
        lambda: _behind(nn.Linear(8, 8), nn.Linear(8, 4), snn.Leaky(beta=0.5, init_hidden=True)),
        "spikes",
        r"'3' cannot be computed in integers.*Put a neuron before it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    build, kind, message = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(sxq.errors.UnsupportedModelError, match=message):
        sxq.export_onnx(build(), spikes(3, 2, 12), tmp_path / "net.onnx", input=kind, integer=True)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("option", [{"decay_bits": 0}, {"decay_bits": 31}, {"max_steps": 0}, {"max_steps": 2.5}])
def test_options_out_of_range(option: dict[str, Any]) -> None:
    with pytest.raises(sxq.errors.ConfigError, match=next(iter(option))):
        IntegerOptions(**option)


def test_integer_is_a_choice_or_options(tmp_path: Path) -> None:
    with pytest.raises(sxq.errors.ConfigError, match="IntegerOptions"):
        sxq.export_onnx(_small(), spikes(3, 2, 12), tmp_path / "net.onnx", input="spikes", integer="yes")  # type: ignore[arg-type]
