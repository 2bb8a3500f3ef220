"""Files of SpikeGPT's integer profile hold no float, and are the model: text, spikes, logits and integer state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.deploy import GptFile, Stream, export_gpt, native_status
from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import ExportError, SampleError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.exported.operators import LANGUAGE_INTEGERS
from snn_extreme_quant.models import SpikeGPT, SpikeGPTState
from tests.deploy.test_language_files import build, prompts

MIXED = sxq.PrecisionPlan({"blocks.0.*": sxq.Uniform(4), "blocks.*": sxq.Uniform(8), "head": sxq.Binary()})
MODELS: dict[str, dict[str, Any]] = {
    "ternary": {"weights": "ternary"},
    "binary, tied, tau 3": {"weights": "binary", "tied": True, "tau": 3.0},
    "mixed": {"weights": MIXED, "hidden": 70, "ffn": 600},
    "one scale": {"weights": sxq.Ternary(per="tensor", scale="absmean"), "layers": 1},
}
NATIVE = [False, *([True] if native_status().available else [])]


def integer(**options: Any) -> SpikeGPT:
    return build(profile="integer", **options)


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpikeGPT, Path]:
    path = tmp_path_factory.mktemp("gpt") / "gpt.onnx"
    model = integer(weights="ternary")
    export_gpt(model, path, logits="all", tokens=TextTokens.of("characters", "abcdefghijklmnopqrstuvw"))
    return model, path


@pytest.mark.parametrize("form", ["sequence", "streaming"])
@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_the_model(tmp_path: Path, name: str, form: Any) -> None:
    model = integer(**MODELS[name])
    report = sxq.export_onnx(model, None, tmp_path / "gpt.onnx", form=form, integer=True, ternary_packing="1.6bit")
    assert report.exact
    for native in NATIVE:
        found = sxq.verify(model, tmp_path / "gpt.onnx", prompts(), tokens=12, native=native)
        assert found.ok, str(found)
        assert found.text is not None
        assert (found.text.different_tokens, found.text.different_values, found.text.different_whole_values) == (
            0,
            0,
            0,
        )
        assert found.spikes_compared > 1000
        assert found.spikes_different == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sequence", "streaming"])
def test_a_thousand_tokens(tmp_path: Path, form: Any) -> None:
    model = integer(weights="ternary")
    export_gpt(model, tmp_path / "gpt.onnx", form=form)
    for native in NATIVE:
        assert sxq.verify(model, tmp_path / "gpt.onnx", prompts(1), tokens=1000, native=native).ok


def test_nothing_is_float_but_the_logits(ternary: tuple[SpikeGPT, Path]) -> None:
    proto, facts = read_model(ternary[1])
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    decoding = [node.op_type for node in proto.graph.node if any(kinds.get(name) in floats for name in node.input)]
    assert decoding in (["Mul", "Transpose"], ["Mul", "Squeeze"])
    assert sum(tensor.data_type in floats for tensor in proto.graph.initializer) == 1  # the unit of a logit
    outputs = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    assert [name for name, kind in outputs.items() if kind in floats] == ["logits"]
    assert facts["integer"] is True
    assert {state["name"]: state["dtype"] for state in facts["states"]}["numerator"] == "int64"


def test_the_golden_model_gives_the_same(ternary: tuple[SpikeGPT, Path]) -> None:
    """Python's own whole numbers, which neither wrap around nor round."""
    model, path = ternary
    proto, _ = read_model(path)
    ids = prompts(2, 6)
    state = model.eval().initial_state(2)
    for piece in ids.split(3, 1):
        feed = {name: value.numpy() for name, value in state.tensors.items()}
        found = golden_run(proto, {"ids": piece.numpy(), **feed})
        with torch.no_grad():
            logits, state = model.run(piece, state)
        assert np.array_equal(found.outputs["logits"], logits.numpy())
        for name, value in state.tensors.items():
            assert found.outputs[f"{name}.next"].dtype == value.numpy().dtype
            assert np.array_equal(found.outputs[f"{name}.next"], value.numpy()), name
        assert all(0 < spikes.mean() < 1 for spikes in found.spikes.values())
        assert len(found.spikes) == 4


def test_kernels_compute_every_node(ternary: tuple[SpikeGPT, Path]) -> None:
    status = native_status()
    if not status.available:
        pytest.skip(status.reason)
    proto, _ = read_model(ternary[1])
    opened = open_session(ternary[1], native=True)
    number, total = (int(word) for word in opened.detail.split(" compute ")[1].split(" nodes")[0].split(" of "))
    # In plain C the functions multiply faster.
    left = [
        node for node in proto.graph.node if "MatMulInteger" in node.op_type and status.instruction_set == "portable"
    ]
    assert number == total - len(left) > 20
    expected = {*LANGUAGE_INTEGERS, "IntScale", "IntResidual"} - {"StepIntWeightedAverage"}
    assert choose_kernels(proto).operators >= expected


def test_states_go_from_file_to_model_and_back(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    ids = prompts(2, 9)
    file = GptFile(path, native=False)
    file.run(ids[:, :4])
    state = SpikeGPTState({name: torch.from_numpy(value) for name, value in file.state.items()})
    with torch.no_grad():
        wanted, _ = model.eval().run(ids[:, 4:], state)
    other = GptFile(path, native=False)
    other.state = file.state
    assert np.array_equal(other.run(ids[:, 4:].numpy()), wanted.numpy())
    with pytest.raises(SampleError, match=r"'att_before' is int32 .*, not float32"):
        other.state = {name: value.astype(np.float32) for name, value in file.state.items()}
    assert list(other.generate([1, 2], 8, 0.8, 0.9, 3)) == list(file.generate([1, 2], 8, 0.8, 0.9, 3))


def test_streams_run_streaming_files(tmp_path: Path) -> None:
    model = integer(weights="ternary", layers=1)
    export_gpt(model, tmp_path / "gpt.onnx", form="streaming")
    stream, state = Stream(tmp_path / "gpt.onnx", native=False), model.eval().initial_state(2)
    for token in prompts().T:
        found = stream.step(token)["logits"]
        with torch.no_grad():
            wanted, state = model.step(token, state)
        assert np.array_equal(found, wanted.numpy())


def test_large_weights_leave_no_type(tmp_path: Path) -> None:
    """Everything is at its limits, and the file still is the model."""
    model = integer(weights="ternary", layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(-300.0, 300.0))
    for form in ("sequence", "streaming"):
        export_gpt(model, tmp_path / "gpt.onnx", form=form)  # type: ignore[arg-type]
        # Sums whose results would leave 32 bits are limited before.
        assert "Max" in {node.op_type for node in onnx.load(tmp_path / "gpt.onnx").graph.node}
        assert sxq.verify(model, tmp_path / "gpt.onnx", prompts(), tokens=20, native=False).ok


def test_a_difference_is_found(ternary: tuple[SpikeGPT, Path]) -> None:
    _, path = ternary
    changed = integer(weights="ternary")
    with torch.no_grad():
        changed.blocks[1].att.time_decay.sub_(0.25)
    report = sxq.verify(changed, path, prompts(), tokens=8)
    assert not report.ok
    assert report.text is not None
    assert report.text.different_values > 0


def test_what_is_refused(tmp_path: Path, ternary: tuple[SpikeGPT, Path]) -> None:
    out = tmp_path / "gpt.onnx"
    with pytest.raises(ExportError, match=r"'blocks\.0\.att\.key' has no codes of up to 8 bit"):
        export_gpt(integer(), out)
    wide = sxq.PrecisionPlan({"blocks.*": sxq.Ternary(), "head": sxq.Uniform(12)})
    with pytest.raises(ExportError, match="'head' has no codes of up to 8 bit"):
        export_gpt(integer(weights=wide), out)
    groups = sxq.PrecisionPlan({"blocks.*": sxq.Uniform(4, per="group", group_size=8), "head": sxq.Ternary()})
    with pytest.raises(ExportError, match=r"'blocks\.0\.att\.key' has scales for groups"):
        export_gpt(integer(weights=groups), out)
    with pytest.raises(ExportError, match="leave the other options out"):
        sxq.export_onnx(ternary[0], None, out, integer=sxq.deploy.IntegerOptions(decay_bits=8))
    assert not out.exists()


def test_a_reference_model_goes_into_a_file_of_integers(tmp_path: Path) -> None:
    reference = build(weights="ternary")
    model = SpikeGPT(replace(reference.config, profile="integer"))
    model.load_state_dict(reference.state_dict())
    export_gpt(model, tmp_path / "integers.onnx")
    export_gpt(reference, tmp_path / "floats.onnx")
    ids = prompts(4, 60).numpy()
    ours, theirs = (GptFile(tmp_path / f"{name}.onnx", native=False).run(ids) for name in ("integers", "floats"))
    assert 0 < np.abs(ours - theirs).mean() < 0.3 * theirs.std()
