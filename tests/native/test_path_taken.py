"""Which of the two ran: shown by the graph that onnxruntime has made of the file, and by its profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.errors import ConfigError, ModelFileError, NativeLibraryError
from tests.deploy.bodies import Array, model_of
from tests.native.running import native_session
from tests.operators.layers import stored

X = {"x": np.ones((2, 20), np.float32)}


def model_with(packed: Array, scale: Array, kind: str = "Ternary", grid: float = 1.0) -> onnx.ModelProto:
    constants = {"packed": packed, "scale": scale}
    return model_of(f"{kind}LinearInteger", X, constants, [2], grid=grid, inverse_grid=1 / grid)


def small_model(**options: Any) -> onnx.ModelProto:
    return model_with(*stored("ternary4", 20, 6)[1:], **options)


def operators_of(path: Path) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in onnx.load(path).graph.node}


def optimised(model: onnx.ModelProto, path: Path, library: Any, operators: list[str]) -> set[tuple[str, str]]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    library.register(options, operators)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return operators_of(path)


def test_the_kernel_takes_the_place_of_the_body(library: Any, tmp_path: Path) -> None:
    model = small_model()
    assert optimised(model, tmp_path / "native.onnx", library, ["TernaryLinearInteger"]) == {
        (DOMAIN, "TernaryLinearInteger")
    }
    body = optimised(model, tmp_path / "body.onnx", library, [])
    assert ("com.microsoft", "MatMulIntegerToFloat") in body
    assert not any(domain == DOMAIN for domain, _ in body)


@pytest.mark.parametrize(("operator", "kind"), [("Embedding", 1), ("EmbeddingInteger", 6)])
@pytest.mark.parametrize("packing", ["Binary", "Ternary5", "Int16"])
def test_embeddings_are_chosen(library: Any, packing: str, operator: str, kind: int) -> None:
    layout = {"Binary": "binary8", "Ternary5": "ternary5", "Int16": "int16"}[packing]
    _, packed, scale = stored(layout, 9, 10)
    factor = {"scale": scale[:1].repeat(9)} if operator == "Embedding" else {"multiplier": np.arange(9, dtype=np.int32)}
    ids = {"x": np.array([3, 0])}
    model = model_of(packing + operator, ids, {"packed": packed, **factor}, [2], output_type=kind, columns=[10])
    assert choose_kernels(model).operators == {packing + operator} <= library.operators


def test_an_operator_without_a_kernel_keeps_its_body(library: Any, tmp_path: Path) -> None:
    found = optimised(small_model(), tmp_path / "other.onnx", library, ["BinaryLinearInteger"])
    assert ("com.microsoft", "MatMulIntegerToFloat") in found
    assert library.register(onnxruntime.SessionOptions(), ["BinaryConvTranspose", "Nothing"]) == []


@pytest.mark.parametrize(("native", "runs"), [(True, True), ("auto", True), (False, False)])
def test_session_runs_what_is_asked_for(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: Any, runs: bool
) -> None:
    """The profile of a run names the operators that ran."""
    plain = onnxruntime.SessionOptions

    def profiled() -> Any:
        options = plain()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)
    onnx.save(small_model(), tmp_path / "m.onnx")
    made = session(tmp_path / "m.onnx", native=native)
    made.run(None, X)
    events = json.loads(Path(made.end_profiling()).read_text())
    ran = {event["args"]["op_name"] for event in events if event.get("cat") == "Node" and "op_name" in event["args"]}
    assert ("TernaryLinearInteger" in ran) is runs
    assert ("MatMulIntegerToFloat" in ran) is not runs


def test_sessions_side_by_side(library: Any) -> None:
    """Each session keeps its own choice, also after others were made with other operators."""
    first = session(small_model(), native=True)
    second = session(model_with(*stored("binary8", 20, 6)[1:], kind="Binary"), native=True)
    third = session(small_model(), native=False)
    assert np.array_equal(first.run(None, X)[0], third.run(None, X)[0])
    assert second.run(None, X)[0].shape == (2, 6)


def test_kernels_are_taken_where_they_are_faster() -> None:
    """Products of spikes, but not of fixed-point numbers, real numbers or wide codes."""
    assert choose_kernels(small_model()).operators == {"TernaryLinearInteger"}
    assert choose_kernels(small_model(grid=0.25)).operators == set()
    assert choose_kernels(model_with(*stored("int8", 20, 6)[1:], kind="Int8")).operators == set()
    constants = dict(zip(("packed", "scale"), stored("ternary4", 20, 6)[1:], strict=True))
    assert choose_kernels(model_of("TernaryLinear", X, constants, [2])).operators == set()


@pytest.mark.parametrize(
    ("neuron", "carrier", "taken"),
    [
        ("IntLIF_leak_gt_subtract_delayed", "Flatten", True),
        ("StepIntLIF_leak_gt_zero_same_step", "Identity", True),
        ("IntLIF_leak_gt_subtract_same_step_count", "Flatten", False),
        ("IntLIF_leak_gt_subtract_delayed", "Add", False),
        ("Cast", "Identity", False),
    ],
)
def test_integer_products_are_taken_where_they_read_spikes(neuron: str, carrier: str, taken: bool) -> None:
    """Counts and encoded inputs are bytes too."""
    domain = "" if neuron == "Cast" else DOMAIN
    nodes = [
        onnx.helper.make_node(neuron, ["x"], ["s"], domain=domain),
        onnx.helper.make_node(carrier, ["s", "s"] if carrier == "Add" else ["s"], ["t"]),
        onnx.helper.make_node("TernaryMatMulInteger", ["t", "packed"], ["y"], domain=DOMAIN),
    ]
    functions = [
        onnx.helper.make_function(DOMAIN, name, [], [], [], [onnx.helper.make_opsetid("", 18)])
        for name in ("TernaryMatMulInteger", *([neuron] if domain else []))
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []), functions=functions)
    chosen = choose_kernels(model).operators
    assert ("TernaryMatMulInteger" in chosen) is taken
    assert (neuron in chosen) is bool(domain)


def test_choices_that_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="True, False or 'auto'"):
        session(small_model(), native="yes")  # type: ignore[arg-type]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ConfigError, match="for the CPU"):
        session(small_model(), native=True, providers=["CUDAExecutionProvider"])


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from snn_extreme_quant.deploy import native_status

    monkeypatch.setenv("SXQ_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.delenv("SXQ_NATIVE_LIBRARY", raising=False)
    with pytest.raises(NativeLibraryError, match="no-such-compiler is not a program"):
        session(small_model(), native=True)
    assert session(small_model(), native="auto").run(None, X)[0].shape == (2, 6)
    status = native_status()
    assert not status.available
    assert "native=False" in str(status)


def test_a_library_that_onnxruntime_refuses(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "auto" the functions run, and a warning says why."""
    from snn_extreme_quant.deploy import native_status

    monkeypatch.setattr(library, "path", Path("no-such-library.so"))
    with pytest.warns(RuntimeWarning, match=r"does not take the native library.*functions in the file run"):
        refused = session(small_model(), native="auto")
    assert np.array_equal(refused.run(None, X)[0], session(small_model(), native=False).run(None, X)[0])
    with pytest.raises(NativeLibraryError, match="does not take the native library"):
        session(small_model(), native=True)
    assert not native_status().available
    assert "no-such-library.so" in str(native_status())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from snn_extreme_quant.deploy.runtime import native

    monkeypatch.setattr(native, "_PACKAGE", "snn_extreme_quant_absent")
    with pytest.raises(NativeLibraryError, match="is not installed"):
        session(small_model(), native=True)
    assert not native.native_status().available


@pytest.mark.parametrize("damage", ["shape", "codes"])
def test_damaged_weights_are_refused(library: Any, damage: str) -> None:
    _, packed, scale = stored("ternary4", 20, 6)
    packed = packed[:, :1] if damage == "shape" else np.where(np.arange(20)[:, None] == 7, 255, packed).astype(np.uint8)
    model = model_with(packed, scale)
    if damage == "shape":
        with pytest.raises(ModelFileError, match=r"TernaryLinearInteger.*Export the model again"):
            session(model, native=True)
        return
    with pytest.raises(ModelFileError, match=r"hold what is no code.*Export the model again"):
        session(model, native=True)
    with pytest.raises(Exception, match=r"TernaryLinearInteger: a byte of the packed codes holds what is no code"):
        native_session(model, "TernaryLinearInteger")


def test_wrong_input_is_refused(library: Any) -> None:
    with pytest.raises(Exception, match="last axis is 20; got 21"):
        session(small_model(), native=True).run(None, {"x": np.zeros((2, 21), np.float32)})
