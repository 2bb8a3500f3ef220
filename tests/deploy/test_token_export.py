"""SpikingBert as ONNX: every form, profile, schedule and precision gives the spikes of the model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import native_status, run_file, session
from snn_extreme_quant.deploy.lowering.functions import is_shift
from snn_extreme_quant.errors import ExportError, ModelFileError, SampleError, SxqError, UnsupportedModelError

from .token_models import IDS, MASK, batches, built

#: schedule and form
FORMS = [("synchronous", "counts"), ("synchronous", "sequence"), ("step", "sequence")]
#: Of each two options every pair of values; the whole product is slow.
PAIRS = [
    ("integer", True, 0, "ternary", "cls"), ("integer", False, 0, "binary", "pooled"),
    ("integer", True, 1, "binary", "pooled"), ("integer", True, 2, "ternary", "pooled"),
    ("reference", False, 1, "ternary", "cls"), ("reference", True, 0, "float", "pooled"),
    ("reference", False, 2, "binary", "cls"), ("integer", False, 1, "float", "cls"),
]  # fmt: skip


def check(path: Path, profile: str, signed: bool, form: int, weights: str, head: str) -> sxq.VerifyReport:
    schedule, name = FORMS[form]
    model = built(profile=profile, signed=signed, schedule=schedule, weights=weights, head=head)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = sxq.export_onnx(model, (IDS, MASK), path, form=name)
    found = sxq.verify(model, path, batches())
    assert found.samples == 24
    assert 0.05 < found.firing_rate < 0.95
    assert len(found.layers) == 7 + (head == "pooled")
    # What is promised holds; where nothing is, sums of real numbers may be rounded otherwise.
    assert report.exact == (profile == "integer" and weights != "float")
    assert report.exact == all(layer.exact for layer in found.layers)
    if report.exact:
        assert found.spikes_different == 0, str(found)
        assert found.ok
        assert found.answers is not None
        assert found.answers.same == found.answers.samples == 24
    else:
        assert found.spikes_different < 0.02 * found.spikes_compared, str(found)
        assert any("real numbers" in e.reason or "not known" in e.reason for e in report.layers)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.mode == "simulated"
    return found


@pytest.mark.parametrize(("profile", "signed", "form", "weights", "head"), PAIRS)
def test_the_file_gives_the_spikes_of_the_model(
    profile: str, signed: bool, form: int, weights: str, head: str, tmp_path: Path
) -> None:
    check(tmp_path / "net.onnx", profile, signed, form, weights, head)


EVERY = list(
    itertools.product(
        ("reference", "integer"), (False, True), range(3), ("ternary", "binary", "float"), ("cls", "pooled")
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "signed", "form", "weights", "head"), EVERY)
def test_every_combination(profile: str, signed: bool, form: int, weights: str, head: str, tmp_path: Path) -> None:
    check(tmp_path / "net.onnx", profile, signed, form, weights, head)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A counts file with types, packed embeddings, scales by tensor and one threshold a layer."""
    weights = sxq.PrecisionPlan({"embeddings.words": sxq.Uniform(bits=4), "encoder.*": sxq.Ternary(per="tensor")})
    model = built(profile="integer", weights=weights, threshold_per="tensor", learn_thresholds=False, T=16)
    path = tmp_path_factory.mktemp("tokens") / "net.onnx"
    sxq.export_onnx(model, given(), path, form="counts", ternary_packing="1.6bit")
    return model, path


def given(rows: int = 3) -> dict[str, torch.Tensor]:
    types = torch.arange(7).expand(rows, 7) // 4
    return {"input_ids": IDS[:rows], "attention_mask": MASK[:rows], "token_type_ids": types}


def test_what_is_in_the_file(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    assert sxq.verify(model, path, given()).ok
    assert sxq.verify(model, path, [given(1), given(2)]).samples == 3
    proto = onnx.load(str(path))
    assert [value.name for value in proto.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    for value in proto.graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["B", "S"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    operators = [node.op_type for node in proto.graph.node if node.domain]
    assert operators[0] == "Int4Embedding"
    # Norms, keys, values and the rectified layer fold into their neurons; the queries and residuals do not.
    assert operators.count("SynchronousFolded") == 6
    assert operators.count("Ternary5LinearSums") == 3
    assert operators.count("Ternary5LinearCounts") == 3
    assert sum(map(is_shift, operators)) == 4
    # No threshold is computed by the runtime, whose exponential may be another.
    assert "Exp" not in [node.op_type for node in proto.graph.node]


def test_an_ordinary_session_runs_it(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = runtime.run(None, {name: value.numpy() for name, value in given().items()})
    with torch.no_grad():
        expected = model(IDS, MASK, given()["token_type_ids"])
    torch.testing.assert_close(torch.from_numpy(logits), expected)
    assert np.ptp(logits, axis=0).max() > 1e-3  # the texts are told apart


@pytest.mark.skipif(not native_status().available, reason="the native kernels are not built here")
@pytest.mark.parametrize("schedule", ["synchronous", "step"])
def test_native_kernels_give_the_same(schedule: str, exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = exported
    inputs: Any = given()
    if schedule == "step":
        model, path, inputs = built(profile="integer", schedule="step", weights="ternary"), tmp_path / "n.onnx", IDS
        sxq.export_onnx(model, IDS, path)
    assert sxq.verify(model, path, inputs, native=True).ok
    assert session(path, native=True).get_inputs()[0].name == "input_ids"


@pytest.mark.parametrize(
    ("neurons", "signed"), [("snntorch", False), pytest.param("spikingjelly", True, marks=pytest.mark.slow)]
)
def test_neurons_of_the_frameworks(neurons: str, signed: bool, tmp_path: Path) -> None:
    """The file has our own equations, the model the framework's neurons: the spikes are the same."""
    pytest.importorskip(neurons)
    options: dict[str, Any] = {"schedule": "step", "neurons": neurons, "signed": signed, "start": 0.5}
    model = built(profile="integer", weights="ternary", **options)
    assert sxq.export_onnx(model, IDS, tmp_path / "net.onnx").exact
    assert sxq.verify(model, tmp_path / "net.onnx", batches()).ok


@pytest.mark.slow
def test_leaky_neurons(tmp_path: Path) -> None:
    model = built(profile="integer", weights="ternary", schedule="step", leak=0.9, T=6, amplitude="unit")
    assert sxq.export_onnx(model, IDS, tmp_path / "net.onnx").exact
    assert sxq.verify(model, tmp_path / "net.onnx", batches()).ok


def test_offsets(tmp_path: Path) -> None:
    """Spikes {0,1} with offsets: what silence stands for is in the biases."""
    model = built(profile="integer", weights="ternary", signed=False, offset=True)
    with torch.no_grad():
        for _, neurons in model.named_neurons():
            neurons.offset.uniform_(-0.5, 0.0)
    assert sxq.export_onnx(model, IDS, tmp_path / "net.onnx", form="counts").exact
    assert sxq.verify(model, tmp_path / "net.onnx", batches()).ok


def test_a_model_around_it(tmp_path: Path) -> None:
    class Sentiment(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = built(profile="integer", weights="ternary")

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"positive": self.bert(ids, mask).softmax(-1)[:, 1]}

    model = Sentiment()
    sxq.export_onnx(model, (IDS, MASK), tmp_path / "net.onnx", form="counts")
    assert sxq.verify(model, tmp_path / "net.onnx", batches()).ok


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[SxqError], str]] = [
    ({}, {"form": "streaming"}, ExportError, "whole text"),
    ({"schedule": "step"}, {"form": "counts"}, ExportError, "form='sequence'"),
    ({"schedule": "step", "feedback": ((1, 0),)}, {}, ExportError, "has feedback"),
    ({}, {"input": "spikes"}, ExportError, "token ids"),
    ({}, {"calling": "step"}, ExportError, "leave calling out"),
    ({}, {"sample": torch.rand(2, 3)}, SampleError, "whole numbers"),
    ({}, {"sample": torch.full((2, 3), 40)}, SampleError, "0 to 39"),
    ({}, {"sample": IDS[0]}, SampleError, r"\(B, S\)"),
    ({}, {"sample": torch.ones(1, 17, dtype=torch.long)}, SampleError, "Truncate"),
    ({}, {"sample": (IDS, MASK * 2)}, SampleError, "attention_mask.*0 to 1"),
    ({}, {"sample": (IDS, MASK[:1])}, SampleError, "attention_mask.*shape"),
    ({}, {"sample": {"ids": IDS}}, SampleError, "no 'input_ids'"),
]


@pytest.mark.parametrize(("model", "options", "error", "message"), REFUSED, ids=[case[3] for case in REFUSED])
def test_what_cannot_be_exported_is_refused(
    model: dict[str, Any], options: dict[str, Any], error: type[SxqError], message: str, tmp_path: Path
) -> None:
    given = {"sample": IDS, **options}
    with pytest.raises(error, match=message):
        sxq.export_onnx(built(**model), given.pop("sample"), tmp_path / "net.onnx", **given)
    assert not list(tmp_path.iterdir())


def test_two_encoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="one at a time"):
        sxq.export_onnx(nn.ModuleList([built(), built()]), IDS, tmp_path / "net.onnx")


def test_other_models_and_inputs_are_refused(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    with pytest.raises(ModelFileError, match="schedule"):
        sxq.verify(built(T=8), path, given())
    with pytest.raises(ModelFileError, match="is none and holds none"):
        sxq.verify(nn.Linear(2, 2), path, given())
    with pytest.raises(ModelFileError, match="neuron layers"):
        sxq.verify(built(layers=2, T=16), path, given())
    with pytest.raises(SampleError, match="token_type_ids"):
        sxq.verify(model, path, IDS)
    with pytest.raises(SampleError, match="no input"):
        sxq.verify(model, path, [])
    with pytest.raises(SampleError, match="3 inputs"):
        run_file(path, IDS)


def test_a_difference_is_found_and_named(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """A threshold that is off by a hundredth is no longer the model."""
    model, path = exported
    proto = onnx.load(str(path))
    (offset,) = (t for t in proto.graph.initializer if t.name == "encoder.0.attention.key_neurons.offset")
    values = onnx.numpy_helper.to_array(offset) + np.float32(0.4)
    offset.CopyFrom(onnx.numpy_helper.from_array(values, offset.name))
    onnx.save(proto, str(tmp_path / "edited.onnx"))
    report = sxq.verify(model, tmp_path / "edited.onnx", given(), allow_edited=True)
    assert report.spikes_different > 0
    assert report.first_difference is not None
    assert report.first_difference.layer == "encoder.0.attention.key_neurons"
    assert not report.ok
