"""SpikingBERT's integer profile as files of whole numbers: equal to torch's, and without a float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import integer_bert, run_file
from snn_extreme_quant.deploy.integer.integers_only import check_integers_only
from snn_extreme_quant.deploy.tokens.integer_parts import Making
from snn_extreme_quant.deploy.tokens.token_scales import Line, scale_of, stairs_scale
from snn_extreme_quant.deploy.tokens.whole_bert import IntegerBert, in_integers
from snn_extreme_quant.errors import ExportError, ModelFileError, SampleError, UnsupportedModelError

from .token_models import IDS, MASK, batches, built

TERNARY = {"weights": "ternary", "profile": "integer"}
FORMS: list[Any] = [
    ({}, 0, {"form": "counts"}),
    pytest.param(
        {"T": 64, "head": "pooled", "amplitude": "unit"},
        4,
        {"form": "counts", "ternary_packing": "1.6bit"},
        marks=pytest.mark.slow,
    ),
    pytest.param({"T": 128, "weights": sxq.Uniform(8)}, 16, {"form": "counts"}, marks=pytest.mark.slow),
    ({"signed": False, "offset": True, "head": "pooled"}, 0, {"form": "sequence"}),
    ({"schedule": "step", "T": 5, "head": "pooled"}, 4, {"form": "sequence"}),
    pytest.param(
        {"schedule": "step", "T": 6, "signed": False, "start": 0.5, "weights": "binary"},
        0,
        {"form": "sequence"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("options", "bits", "asked"), FORMS)
def test_file_golden_model_and_torch_are_one(
    options: dict[str, Any], bits: int, asked: dict[str, Any], tmp_path: Path
) -> None:
    model = built(**{**TERNARY, **options})
    if bits:
        model.pack_embeddings(bits)
    path = tmp_path / "bert.onnx"
    types = torch.randint(2, IDS.shape, generator=torch.Generator().manual_seed(3))
    report = sxq.export_onnx(model, (IDS, MASK, types), path, integer=True, **asked)
    assert report.exact
    assert {scale.name for scale in report.scales} >= {"embeddings.neurons", "encoder.0.attention.query"}
    assert all(scale.headroom > 0 for scale in report.scales)
    given = [(ids, mask, torch.zeros_like(ids)) for ids, mask in batches(2)]
    found = sxq.verify(model, path, given)
    assert found.ok
    assert found.integer is not None
    assert found.integer.torch_compared == found.spikes_compared > 1000
    assert found.integer.agreement > 0.9
    assert found.firing_rate > 0.01


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = built(**TERNARY)
    path = tmp_path_factory.mktemp("file") / "bert.onnx"
    sxq.export_onnx(model, (IDS, MASK), path, form="counts", integer=True)
    return model, path


def test_no_float_between_ids_and_logits(exported: tuple[Any, Path]) -> None:
    """Walked through anew, without what the exporter asks: floats come behind the last neurons alone."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(exported[1]))
    floats = {v.name for v in proto.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    operators = [node.op_type for node in proto.graph.node]
    last = max(i for i, name in enumerate(operators) if name.startswith("IntCounts"))
    assert not any(floats & {*node.input, *node.output} for node in proto.graph.node[: last + 1])
    for function in proto.functions:
        assert not any(node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT for node in function.node)


def test_a_float_between_is_found(exported: tuple[Any, Path]) -> None:
    for place in ("IntShiftNorm", "TernaryMatMulIntegerSigned", "IntProductSigned"):
        proto = onnx.load(exported[1])
        node = next(node for node in proto.graph.node if node.op_type == place)
        index = list(proto.graph.node).index(node)
        kind = TensorProto.INT8 if place.startswith("Ternary") else TensorProto.INT32
        added = [
            helper.make_node("Cast", [node.input[0]], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["real"], ["whole"], to=kind),
        ]
        node.input[0] = "whole"
        for offset, new in enumerate(added):
            proto.graph.node.insert(index + offset, new)
        with pytest.raises(ExportError, match="real"):
            check_integers_only(proto, encodes=False)


def test_another_constant_is_found(exported: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = exported
    proto = onnx.load(path)
    tensor = next(t for t in proto.graph.initializer if t.name == "encoder.0.intermediate_neurons.gain")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    edited = tmp_path / "edited.onnx"
    onnx.save(proto, edited)
    report = sxq.verify(model, edited, [(IDS, MASK)], allow_edited=True)
    assert not report.ok
    assert report.first_difference is not None
    assert report.first_difference.layer == "encoder.0.intermediate_neurons"
    with pytest.raises(ModelFileError, match="another model"):
        sxq.verify(built(**TERNARY, layers=2), path, [(IDS, MASK)])


def test_a_model_that_was_trained_on_is_found(exported: tuple[Any, Path]) -> None:
    model = built(**TERNARY)
    with torch.no_grad():
        model.encoder[0].output.weight.neg_()
    report = sxq.verify(model, exported[1], [(IDS, MASK)])
    assert not report.ok
    assert report.integer is not None
    assert report.integer.torch_different > 0


def test_the_model_in_whole_numbers_is_called_as_the_model_is() -> None:
    model = built(**TERNARY, head="pooled")
    for form in ("counts", "sequence"):
        whole = integer_bert(model, form)  # type: ignore[arg-type]
        assert torch.allclose(whole(IDS, MASK), model(IDS, MASK), atol=1e-5)
        assert torch.equal(whole(IDS), whole(IDS, torch.ones_like(IDS)))
    assert isinstance(model, sxq.models.SpikingBert)


def test_a_module_around_one(tmp_path: Path) -> None:
    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = built(**TERNARY)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.bert(ids, mask).softmax(-1)

    model = Probabilities().eval()
    sxq.export_onnx(model, (IDS, MASK), tmp_path / "bert.onnx", form="counts", integer=True)
    report = sxq.verify(model, tmp_path / "bert.onnx", batches(1))
    assert report.ok
    assert report.layers[0].name == "bert.embeddings.neurons"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"profile": "reference"}, "profile='integer'"),
        ({"weights": "float"}, "'encoder.0.attention.query' has float weights"),
        ({"weights": sxq.Ternary(per="group", group_size=8)}, "scales for groups"),
        ({"schedule": "step", "leak": 0.9}, "leak=0.9"),
    ],
)
def test_refusals(options: dict[str, Any], names: str, tmp_path: Path) -> None:
    model = built(**{**TERNARY, **options})
    with pytest.raises(UnsupportedModelError, match=names):
        sxq.export_onnx(model, (IDS, MASK), tmp_path / "bert.onnx", integer=True)
    assert not (tmp_path / "bert.onnx").exists()


def test_constants_out_of_all_bounds(tmp_path: Path) -> None:
    model = built(**TERNARY)
    with torch.no_grad():
        model.encoder[0].output.weight.mul_(1e8)
    with pytest.raises(UnsupportedModelError, match=r"'encoder.0.output': a residual sum"):
        sxq.export_onnx(model, (IDS, MASK), tmp_path / "bert.onnx", form="counts", integer=True)


@pytest.mark.parametrize("bits", [0, 4, 16])
@pytest.mark.parametrize("scale", [1.0, 3e4], ids=["small", "near the limit"])
def test_sums_of_tables_are_below_2_to_30(bits: int, scale: float) -> None:
    """The report tells the largest sum that three rows can have, with what rounding them adds."""
    model = built(**TERNARY)
    with torch.no_grad():
        for table in (model.embeddings.words, model.embeddings.positions, model.embeddings.token_types):
            table.weight.mul_(scale)
    if bits:
        model.pack_embeddings(bits)
    _, whole = in_integers(model, model, "counts")
    tables = (whole.embeddings.words, whole.embeddings.positions, whole.embeddings.token_types)
    sizes = (model.config.vocab, model.config.positions, model.config.types)
    found = sum(int(table(torch.arange(size)).abs().max()) for table, size in zip(tables, sizes, strict=True))
    reports = {report.name: report for report in _reports(model)}
    told = reports["embeddings (sum)"]
    assert found <= told.sums < 2**30
    assert told.sums - found <= 3 * 2**15  # a bound that is near what there is
    assert told.product < 2**30


def _reports(model: Any) -> list[Any]:
    names = {module: name for name, module in model.named_modules()}
    making = Making(model, "counts", "2bit", names, [], {})
    IntegerBert(making)
    return making.reports


def test_stairs_of_every_sum_are_kept() -> None:
    """Folded or counted as changed: gain and offset give the count of each sum there is, rounded as floats are."""
    rng = np.random.default_rng(0)
    width, T = 400, 16
    slope = np.exp(rng.normal(-4, 2, width)) * rng.choice([-1, 1], width)
    scale, bias = slope.astype(np.float32), rng.normal(0, 1, width).astype(np.float32)
    sums = np.arange(-3000, 3001)[:, None]

    def counts(x: Any) -> Any:
        return np.clip(np.floor((x.astype(np.float32) * scale + bias) * np.float32(T) + np.float32(0.5)), -T, T)

    line = Line(
        slope * T, bias * T + 0.5, np.full(width, sums.min()), np.full(width, sums.max()), -T, T
    )  # fmt: skip
    folded = stairs_scale(line, counts, "n")
    given = np.clip((sums * folded.gain + folded.offset) >> folded.shift, folded.low, folded.high)
    wrong = (given != counts(sums)).any(0)
    assert int(wrong.sum()) == folded.changed <= width // 50
    # Without looking for stairs far more are lost.
    plain = scale_of(line, "n")
    assert (np.clip((sums * plain.gain + plain.offset) >> plain.shift, -T, T) != counts(sums)).any(
        0
    ).sum() >= wrong.sum()


def test_run_file_takes_inputs_by_name(exported: tuple[Any, Path]) -> None:
    model, path = exported
    named = {"input_ids": IDS.numpy(), "attention_mask": MASK.numpy().astype(np.int32)}
    found = run_file(path, named, spikes=True, native=False)
    assert np.allclose(found.outputs["output"], model(IDS, MASK).detach().numpy(), atol=1e-5)
    assert found.counted_steps == model.config.T
    assert found.spikes["encoder.0.neurons"].min() < 0 < found.firing_rate("encoder.0.neurons")
    assert set(found.spikes) == {name for name, _ in model.named_neurons()}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (IDS.numpy(), "takes 2 inputs"),
        ({"input_ids": IDS}, "'attention_mask' is missing"),
        ({"input_id": IDS, "attention_mask": MASK}, "Did you mean 'input_ids'"),
        ({"input_ids": IDS + 0.5, "attention_mask": MASK}, "without loss"),
        ({"input_ids": IDS, "attention_mask": MASK[:2]}, "of one batch"),
        ({"input_ids": IDS[0], "attention_mask": MASK}, "shape"),
        ({"input_ids": IDS + 40, "attention_mask": MASK}, "0 to 39"),
        ({"input_ids": IDS, "attention_mask": MASK + 1}, "0 to 1"),
        ({"input_ids": torch.ones(1, 17).long(), "attention_mask": torch.ones(1, 17).long()}, "Truncate"),
        ({"input_ids": "words", "attention_mask": MASK}, "array of numbers"),
    ],
)
def test_what_run_file_refuses(exported: tuple[Any, Path], given: Any, says: str) -> None:
    with pytest.raises(SampleError, match=says):
        run_file(exported[1], given, native=False)


def test_native_or_stock_is_one(exported: tuple[Any, Path]) -> None:
    report = sxq.verify(exported[0], exported[1], batches(1), native="auto")
    assert report.ok
