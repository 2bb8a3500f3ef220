"""What `inspect_file` says of each kind of layer, against what the model has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import onnx
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.exported.files import METADATA_KEY
from snn_extreme_quant.exported.inspection import inspect_file
from snn_extreme_quant.layers import IntegerFirst
from tests.deploy.test_repacking import IDS, build


@pytest.mark.parametrize("per", ["channel", "group"])
@pytest.mark.parametrize("packing", ["2bit", "1.6bit"])
def test_layers_of_every_kind(tmp_path: Path, per: str, packing: Any) -> None:
    model = build(per)
    written = sxq.export_onnx(model, IDS, tmp_path / "net.onnx", ternary_packing=packing)
    report = inspect_file(written.path)
    assert [(e.name, e.operator, e.exact, e.why) for e in report.layers] == [
        (e.name, e.operator, e.exact, e.reason) for e in written.layers
    ]
    found = {e.name: e for e in report.layers}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, IntegerFirst)}
    layers["recurrent"] = layers.pop("recurrent.recurrent")
    assert {name for name, e in found.items() if e.shape} == set(layers)
    for name, module in layers.items():
        codes, _ = module.integer_weight()
        assert found[name].shape == tuple(codes.shape), name
        precision = "binary, 1 bit" if name == "binary" else f"ternary, {packing.replace('bit', ' bit')}"
        assert found[name].precision == precision
    assert report.sizes.codes == sum(math.prod(e.shape) for e in found.values() if e.shape)
    graph = onnx.load(written.path).graph
    packed = sum(math.prod(i.dims) for i in graph.initializer if i.data_type == onnx.TensorProto.UINT8)
    assert report.sizes.packed_bytes == packed
    assert report.facts.get("ternary_packing") == (None if packing == "2bit" else packing)
    assert report.inputs == {"input": ("T", "B")}


def test_sums_of_integer_pooling_are_layers_without_codes(tmp_path: Path) -> None:
    pool = nn.AvgPool2d(2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), neuron.IFNode(), pool, nn.Flatten(), nn.Linear(16, 3), neuron.IFNode())
    sxq.quantize_(model, sxq.Ternary())
    spikes = (torch.rand(3, 2, 2, 6, 6) < 0.5).float()
    sxq.export_onnx(model, spikes, tmp_path / "net.onnx", input="spikes", integer=True)
    found = {e.operator: e for e in inspect_file(tmp_path / "net.onnx").layers}
    assert (found["SumPoolInteger"].precision, found["SumPoolInteger"].shape) == ("", ())
    assert found["TernaryMatMulInteger"].precision == "ternary, 2 bit"


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_convolutions(tmp_path: Path, groups: int) -> None:
    convs = nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(6, 4, 3, groups=groups)
    model = nn.Sequential(convs[0], neuron.IFNode(), convs[1], neuron.IFNode())
    sxq.quantize_(model, sxq.Uniform(4))
    sxq.export_onnx(model, torch.rand(3, 2, 4, 5, 5), tmp_path / "net.onnx")
    shapes = [e.shape for e in inspect_file(tmp_path / "net.onnx").layers if e.kind == "layer"]
    assert shapes == [(6, 4 // groups, 3, 3), (4, 6 // groups, 3, 3)]


def test_an_unrolled_file_names_each_layer_once(tmp_path: Path) -> None:
    class Damped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.node = nn.Linear(6, 5), snn.Leaky(0.9, threshold=0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs, v = [], self.node.reset_mem()
            for t in range(x.shape[0]):
                spikes, v = self.node(self.fc(x[t]), v)
                v = v * 0.5
                outputs.append(spikes)
            return torch.stack(outputs)

    model = Damped()
    sxq.quantize_(model, sxq.Ternary())
    report = sxq.export_onnx(model, torch.ones(4, 2, 6), tmp_path / "net.onnx")
    assert report.time.startswith("fixed")
    found = inspect_file(tmp_path / "net.onnx")
    assert [e.name for e in found.layers] == [e.name for e in report.layers]
    steps = {e.operator: e.count for e in found.operators if e.domain}
    assert steps[report.layers[-1].operator] == 4


def edited(path: Path, change: Any) -> Path:
    """A file whose facts of its layers are changed."""
    model = onnx.load(path)
    (entry,) = (e for e in model.metadata_props if e.key == METADATA_KEY)
    facts = json.loads(entry.value)
    change(facts)
    entry.value = json.dumps(facts)
    onnx.save(model, path.with_name("edited.onnx"))
    return path.with_name("edited.onnx")


def test_what_else_a_file_says_of_a_layer_is_kept(tmp_path: Path) -> None:
    written = sxq.export_onnx(build(), IDS, tmp_path / "net.onnx")
    report = inspect_file(edited(written.path, lambda facts: facts["layers"][0].update(fraction=7)))
    assert report.edited
    assert report.layers[0].more == {"fraction": 7}


def test_a_file_that_says_nothing_of_a_layer(tmp_path: Path) -> None:
    written = sxq.export_onnx(build(), IDS, tmp_path / "net.onnx")
    report = inspect_file(edited(written.path, lambda facts: facts["layers"].clear()))
    assert len(report.layers) == len(written.layers)
    assert {e.exact for e in report.layers} == {None}
    lost = inspect_file(edited(written.path, lambda facts: facts.pop("layers")))
    assert lost.damage == ("the metadata of some layers is damaged",)
    assert len(lost.layers) == len(written.layers)
