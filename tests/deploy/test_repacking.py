"""Ternary codes in 1.6 bit: the same network in fewer bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from onnx import numpy_helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import session
from snn_extreme_quant.errors import ExportError
from snn_extreme_quant.quantizers.packing import unpack


class Everything(nn.Module):
    """A layer of every kind: looked up, linear (called twice), convolved both ways, recurrent; one of them binary."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 12)
        self.twice = nn.Linear(12, 12)
        self.conv, self.back = nn.Conv1d(1, 7, 3, padding=1), nn.ConvTranspose1d(7, 1, 3, padding=1)
        self.binary = nn.Linear(12, 6)
        self.first, self.second, self.third, self.fourth = (
            snn.Leaky(0.5, threshold=t, init_hidden=True) for t in (0.2, 0.3, 0.2, 0.2)
        )
        self.recurrent = snn.RLeaky(0.9, linear_features=6, threshold=0.2, init_hidden=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        spikes = self.first(self.table(ids))
        spikes = self.second(self.twice(spikes) + self.twice(spikes.flip(-1)))
        spikes = self.fourth(self.back(self.third(self.conv(spikes.unsqueeze(1)))).squeeze(1))
        return self.recurrent(self.binary(spikes))


def build(per: str = "channel") -> nn.Module:
    torch.manual_seed(0)
    model = Everything()
    config: Any = sxq.Ternary() if per == "channel" else sxq.Ternary(per="group", group_size=5)
    recurrent = ("recurrent.*", sxq.Ternary())
    sxq.quantize_(model, sxq.PrecisionPlan([("binary", sxq.Binary()), recurrent], default=config))
    return model


def constants(path: Path) -> dict[str, Any]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


IDS = torch.arange(5 * 3).reshape(5, 3) % 9


@pytest.mark.parametrize("per", ["channel", "group"])
def test_the_same_network_in_fewer_bytes(tmp_path: Path, per: str) -> None:
    model = build(per)
    two = sxq.export_onnx(model, IDS, tmp_path / "two.onnx")
    small = sxq.export_onnx(model, IDS, tmp_path / "small.onnx", ternary_packing="1.6bit")
    assert [layer.exact for layer in small.layers] == [layer.exact for layer in two.layers]
    # An operator's name begins with its packing, a neuron's ends with that of its recurrent layer.
    renamed = [e.operator.replace("Ternary", "Ternary5").replace("by_ternary", "by_ternary5") for e in two.layers]
    assert [e.operator for e in small.layers] == renamed
    report = sxq.verify(model, small.path, IDS)
    assert report.ok, str(report)
    assert report.firing_rate > 0.02
    outputs = [session(path, native=False).run(None, {"input": IDS.numpy()})[0] for path in (two.path, small.path)]
    assert np.array_equal(*outputs)
    # Native kernels, which there are not of every operator of this packing, leave the functions in their place.
    assert np.array_equal(session(small.path, native="auto").run(None, {"input": IDS.numpy()})[0], outputs[0])
    for path, said in ((two.path, None), (small.path, "1.6bit")):
        entries = {e.key: e.value for e in onnx.load(path).metadata_props}
        assert json.loads(entries["snn_extreme_quant"]).get("ternary_packing") == said

    theirs, ours = constants(two.path), constants(small.path)
    assert set(ours) == set(theirs)
    ternary = [name for name in ours if ".packed" in name and not name.startswith("binary")]
    assert len(ternary) == (5 if per == "channel" else 10)
    for name in ours:
        if name not in ternary:
            assert np.array_equal(ours[name], theirs[name])
            continue
        columns = ours[name.replace("packed", "scale")].size
        if name.startswith("table"):  # has a scale for each row
            columns = 12 if per == "channel" else {"table.packed.2": 2}.get(name, 5)
        assert ours[name].shape == (theirs[name].shape[0], -(-columns // 5))
        assert np.array_equal(unpack(ours[name], columns, "ternary5"), unpack(theirs[name], columns, "ternary4"))


def test_a_model_without_ternary_codes_is_the_same_but_for_what_it_says(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), snn.Leaky(0.9, init_hidden=True))
    sxq.quantize_(model, sxq.Binary())
    for packing in ("2bit", "1.6bit"):
        sxq.export_onnx(model, torch.ones(3, 2, 6), tmp_path / f"{packing}.onnx", ternary_packing=packing)  # type: ignore[arg-type]
    graphs = [onnx.load(tmp_path / f"{packing}.onnx").graph for packing in ("2bit", "1.6bit")]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("packing", ["1.6 bit", "ternary5", 2, None])
def test_unknown_packings_are_refused(tmp_path: Path, packing: Any) -> None:
    with pytest.raises(ExportError, match=r"ternary_packing=.*1.6bit"):
        sxq.export_onnx(build(), IDS, tmp_path / "net.onnx", ternary_packing=packing)
    assert not list(tmp_path.iterdir())
