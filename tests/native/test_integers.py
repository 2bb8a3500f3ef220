"""Integer operators: the kernels against numpy, and against the bodies of files that have them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET
from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack
from tests.deploy.bodies import Array
from tests.layouts import each_layout

from .running import KERNEL_LAYOUTS, assert_same, native_session

_TYPES = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def kernel_only(operator: str, inputs: dict[str, Array], constants: dict[str, Array], **attributes: Any) -> list[Array]:
    """Run a node that has no body: only the kernel can."""
    node = helper.make_node(operator, [*inputs, *constants], ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(k, _TYPES[str(v.dtype)], [None] * v.ndim) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return list(native_session(model, operator).run(None, inputs))


def codes_of(layout: str, k: int, n: int, seed: int = 0) -> Array:
    rng, most = np.random.default_rng(seed), LAYOUTS[layout].largest
    codes = rng.integers(-most, most + 1, (k, n))
    return np.where(codes < 0, -1, 1) if layout == "binary8" else codes


#: Bytes: spikes, signed spikes, counts; the largest there are.
BYTES = {
    "spikes": lambda rng, shape: (rng.random(shape) < 0.2).astype(np.uint8),
    "all ones": lambda rng, shape: np.ones(shape, np.uint8),
    "bytes": lambda rng, shape: rng.integers(0, 256, shape).astype(np.uint8),
    "signed spikes": lambda rng, shape: rng.integers(-1, 2, shape).astype(np.int8),
    "signed bytes": lambda rng, shape: rng.integers(-128, 128, shape).astype(np.int8),
}
SHAPES = [(1, 1), (7, 1), (1, 9), (15, 10), (17, 257), (130, 33), (300, 1030), (4200, 5)]


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize("kind", BYTES)
def test_sums_of_bytes(library: Any, layout: str, kind: str) -> None:
    for size, (k, n) in enumerate(SHAPES):
        codes = codes_of(layout, k, n, size)
        x = BYTES[kind](np.random.default_rng(size), (3, 2, k))
        expected = x.astype(np.int64) @ codes
        if (np.abs(x.astype(np.int64)) @ np.abs(codes)).max() >= 2**31:
            continue
        operator = KINDS[layout] + "MatMulInteger" + ("Signed" if x.dtype == np.int8 else "")
        packed = {"packed": pack(codes.astype(np.int32), layout)}
        (found,) = kernel_only(operator, {"x": x}, packed, columns=[n])
        assert found.dtype == np.int32
        assert np.array_equal(found, expected), (k, n)


def test_sums_with_each_instruction_set(instruction_set: str) -> None:
    for layout in ("binary8", "ternary4", "int4"):
        codes = codes_of(layout, 300, 257)
        packed = {"packed": pack(codes.astype(np.int32), layout)}
        for kind, make in BYTES.items():
            x = make(np.random.default_rng(1), (5, 300))
            operator = KINDS[layout] + "MatMulInteger" + ("Signed" if x.dtype == np.int8 else "")
            (found,) = kernel_only(operator, {"x": x}, packed, columns=[257])
            assert np.array_equal(found, x.astype(np.int64) @ codes), (layout, kind)


@pytest.mark.parametrize("shape", [(0, 20), (3, 0, 20), (20,), (1, 20), (200, 20)])
def test_any_number_of_rows(library: Any, shape: tuple[int, ...]) -> None:
    codes = codes_of("ternary4", 20, 6)
    x = BYTES["signed spikes"](np.random.default_rng(1), shape)
    (found,) = kernel_only("TernaryMatMulIntegerSigned", {"x": x}, {"packed": pack(codes, "ternary4")}, columns=[6])
    assert found.shape == (*shape[:-1], 6)
    assert np.array_equal(found, x.astype(np.int64) @ codes)


@pytest.mark.parametrize("layout", ["binary8", "ternary4", "ternary5", "int4"])
@pytest.mark.parametrize("grid", [1.0, 0.125])
@pytest.mark.parametrize("most", [1, 127])
def test_signed_multiples_of_a_grid(instruction_set: str, layout: str, grid: float, most: int) -> None:
    """``LinearIntegerSigned``: signed spikes, and whole multiples of the grid up to 127 of either sign."""
    for k, n in [(1, 1), (130, 33), (300, 520)]:
        codes, rng = codes_of(layout, k, n, k), np.random.default_rng(k)
        units, scale = rng.integers(-most, most + 1, (2, 3, k)), rng.random(n).astype(np.float32)
        constants = {"packed": pack(codes.astype(np.int32), layout), "scale": scale}
        x = (units * grid).astype(np.float32)
        operator = KINDS[layout] + "LinearIntegerSigned"
        (found,) = kernel_only(operator, {"x": x}, constants, grid=grid, inverse_grid=1 / grid)
        expected = ((units @ codes).astype(np.float32) * np.float32(grid)) * scale
        assert np.array_equal(found, expected), (k, n)


@pytest.mark.parametrize(
    ("columns", "x", "message"),
    [
        ([9], np.zeros((2, 20), np.uint8), "9 columns take 3 bytes a row"),
        ([6, 6], np.zeros((2, 20), np.uint8), "needs one number of columns"),
        ([6], np.zeros((2, 21), np.uint8), "last axis is 20; got 21"),
    ],
)
def test_what_does_not_fit_is_refused(library: Any, columns: list[int], x: Array, message: str) -> None:
    packed = pack(codes_of("ternary4", 20, 6), "ternary4")
    with pytest.raises(Exception, match=message):
        kernel_only("TernaryMatMulInteger", {"x": x}, {"packed": packed}, columns=columns)


def damaged(packed: Array, layout: str, row: int) -> Array:
    """Put what is no code in a row: digits that are none, or in sections a sign alone, the least code less 1."""
    columns = 10
    packed = packed.copy()
    if LAYOUTS[layout].sections:
        packed[row] = pack([[-LAYOUTS[layout].largest] * columns], layout)
        packed[row, 0] &= 0xFE
    else:
        packed[row, 0] = 255
    return packed


SECTIONS = [name for name, layout in LAYOUTS.items() if layout.sections]


@pytest.mark.parametrize("layout", ["ternary4", *SECTIONS])
def test_damaged_codes_are_refused(library: Any, layout: str) -> None:
    packed = damaged(pack(codes_of(layout, 20, 10), layout), layout, 7)
    with pytest.raises(Exception, match="MatMulInteger: a byte of the packed codes holds what is no code"):
        kernel_only(
            KINDS[layout] + "MatMulInteger", {"x": np.zeros((2, 20), np.uint8)}, {"packed": packed}, columns=[10]
        )


# Fixed-point neurons -------------------------------------------------------------------------------------------------


def integer_neuron(operator: str) -> Any:
    try:
        module = importlib.import_module("snn_extreme_quant.deploy.integer.neuron_functions")
    except ModuleNotFoundError:
        pytest.skip("this version exports no fixed-point neurons")
    return module.IntegerNeuron.from_name(operator)


def fixed_point_case(operator: str, shape: tuple[int, ...], steps: int, seed: int) -> tuple[dict[str, Array], int]:
    """Inputs of an operator, by name; potentials meet thresholds."""
    neuron, rng = integer_neuron(operator), np.random.default_rng(seed)
    shift = int(rng.integers(1, 16))
    shapes: list[tuple[int, ...]] = [(), shape, shape[-1:], (1,) * len(shape)]

    def drawn(low: int, high: int, index: int) -> Array:
        return rng.integers(low, high, shapes[(index + seed) % 4]).astype(np.int32)

    inputs = {"xs": rng.integers(-9, 13, shape if neuron.step else (steps, *shape)).astype(np.int32)}
    for index, name in enumerate(neuron.inputs[1:]):
        if name.startswith("p_"):
            ranges = {"p_threshold": (1, 40), "p_gain": (-2, 5), "p_bias": (-3, 4), "p_levels": (0, 6)}
            leaks = name.endswith("decay") or name == "p_potential_gain"
            low, high = (0, 2**shift + 1) if leaks else ranges.get(name, (-9, 10))
            inputs[name] = drawn(low, high, index)
        else:
            inputs[name] = drawn(-20, 30, index)
    return inputs, shift


def check_neuron(operator: str, shape: tuple[int, ...], steps: int, seed: int = 0) -> None:
    """The kernel gives what the body gives, states and all."""
    from snn_extreme_quant.deploy import session
    from snn_extreme_quant.deploy.lowering.functions import function_body

    inputs, shift = fixed_point_case(operator, shape, steps, seed)
    neuron = integer_neuron(operator)
    node = helper.make_node(operator, list(neuron.inputs), list(neuron.outputs), domain=DOMAIN, shift=shift)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(k, TensorProto.INT32, [None] * v.ndim) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in neuron.outputs],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, functions=[function_body(operator)], opset_imports=imports, ir_version=8)
    expected = session(model, threads=1, native=False).run(None, inputs)
    found = native_session(model, operator).run(None, inputs)
    for name, ours, theirs in zip(neuron.outputs, found, expected, strict=True):
        assert ours.dtype == theirs.dtype, f"{operator}: {name}"
        assert np.array_equal(ours, theirs), f"{operator}: {name}"


def fixed_point_operators(library: Any) -> list[str]:
    return sorted(name for name in library.operators if name.startswith(("IntLIF_", "StepIntLIF_")))


def test_fixed_point_names_are_operators(library: Any) -> None:
    names = fixed_point_operators(library)
    assert {integer_neuron(name).name for name in names} == set(names)


def test_a_fixed_point_neuron_of_every_kind(library: Any) -> None:
    """Each spec in one of its three forms; `test_every_fixed_point_neuron` runs all."""
    by_spec: dict[Any, list[str]] = {}
    for name in fixed_point_operators(library):
        by_spec.setdefault(integer_neuron(name).spec, []).append(name)
    for index, forms in enumerate(by_spec.values()):
        check_neuron(forms[index % len(forms)], (2, 3), 5, seed=index)


@pytest.mark.slow
def test_every_fixed_point_neuron(library: Any) -> None:
    for index, name in enumerate(fixed_point_operators(library)):
        check_neuron(name, (2, 3), 5, seed=index)


@pytest.mark.parametrize("shape", [(5,), (2, 0), (3, 300), (2, 3, 2, 5), (600,)])
def test_fixed_point_neurons_of_any_shape(library: Any, shape: tuple[int, ...]) -> None:
    for seed, name in enumerate(("IntLIF_leak_gt_subtract_delayed_states", "StepIntLIF_synaptic_ge_value_same_step")):
        check_neuron(name, shape, 4, seed)


@pytest.mark.parametrize(
    "operator", ["IntLIF_integrate_ge_zero_same_step_ternary", "IntLIF_alpha_gt_subtract_delayed_states"]
)
def test_fixed_point_neurons_with_each_instruction_set(instruction_set: str, operator: str) -> None:
    check_neuron(operator, (3, 300), 6)


@pytest.mark.parametrize("layout", each_layout(KERNEL_LAYOUTS))
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_integer_embedding(library: Any, layout: str, kind: type[np.signedinteger[Any]]) -> None:
    """Rows of codes times 32-bit multipliers, which wrap around."""
    for rows, columns in [(1, 1), (9, 10), (5, 130), (3, 515)]:
        codes, rng = codes_of(layout, rows, columns), np.random.default_rng(rows)
        multiplier = rng.integers(-(2**31), 2**31, rows).astype(np.int32)
        ids = rng.integers(0, rows, (2, 3)).astype(kind)
        constants = {"packed": pack(codes.astype(np.int32), layout), "multiplier": multiplier}
        (found,) = assert_same(
            KINDS[layout] + "EmbeddingInteger", {"x": ids}, constants, [3], output_type=TensorProto.INT32,
            columns=[columns],
        )  # fmt: skip
        assert found.dtype == np.int32
        with np.errstate(over="ignore"):
            assert np.array_equal(found, (codes.astype(np.int32) * multiplier[:, None])[ids])


@pytest.mark.parametrize("operator", ["Embedding", "EmbeddingInteger"])
@pytest.mark.parametrize("layout", ["ternary4", "ternary5", *SECTIONS])
def test_a_damaged_row_is_refused_when_it_is_looked_up(library: Any, layout: str, operator: str) -> None:
    packed = damaged(pack(codes_of(layout, 3, 10).astype(np.int32), layout), layout, 1)
    factor = np.ones(3, np.float32 if operator == "Embedding" else np.int32)
    constants = {"packed": packed, "factor": factor}
    kernel_only(KINDS[layout] + operator, {"x": np.array([0, 2])}, constants, columns=[10])
    with pytest.raises(Exception, match="row 1 holds what is no code"):
        kernel_only(KINDS[layout] + operator, {"x": np.array([1])}, constants, columns=[10])
    for row in (3, -1):
        with pytest.raises(Exception, match=f"there is no row {row}"):
            kernel_only(KINDS[layout] + operator, {"x": np.array([row])}, constants, columns=[10])
