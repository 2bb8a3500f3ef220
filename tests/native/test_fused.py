"""A product and its neurons as one node: the same bits as the two functions, for every neuron that has a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import session
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, NeuronFunction, function_body
from snn_extreme_quant.deploy.lowering.layer_functions import KINDS
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import NativeChoice, choose_kernels
from snn_extreme_quant.deploy.runtime.native_fusion import FUSED
from snn_extreme_quant.quantizers.packing import pack
from tests.deploy.bodies import Array, bits
from tests.deploy.test_model_forms import FORMS, quantised
from tests.deploy.test_model_forms import spikes as drawn_spikes

from .test_integers import BYTES, codes_of, fixed_point_case, fixed_point_operators, integer_neuron
from .test_neurons import FLOAT, values

_TYPE = {np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in ("f4", "u1", "i1", "i4", "i8")}


def made(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Array],
    constants: dict[str, Array],
    outputs: Iterable[str],
) -> onnx.ModelProto:
    """A model of some nodes, with the bodies of ours."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, _TYPE[v.dtype], [None] * v.ndim) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = [function_body(name) for name in sorted({node.op_type for node in nodes if node.domain == DOMAIN})]
    return helper.make_model(graph, functions=bodies, opset_imports=imports, ir_version=8)


def fused(model: onnx.ModelProto, threads: int = 1) -> tuple[Any, list[str]]:
    """A session in which all operators run natively, fused where they can be; and its graph's operators."""
    names = frozenset(function.name for function in model.functions)
    changed, registered = NativeChoice(names, frozenset()).applied(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    assert set(native_library().register(options, registered)) == registered
    opened = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened, [node.op_type for node in changed.graph.node]


def check(model: onnx.ModelProto, inputs: dict[str, Array], *, threads: int = 1, nodes: int = 1) -> list[Array]:
    """The fused nodes give what the functions give, bit for bit."""
    expected = session(model, threads=1, native=False).run(None, inputs)
    opened, operators = fused(model, threads)
    assert sum(name.startswith(FUSED) for name in operators) == nodes, operators
    found: list[Array] = opened.run(None, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        same = np.array_equal(bits(ours), bits(theirs)) if ours.dtype == np.float32 else np.array_equal(ours, theirs)
        assert same, operators
    return found


def float_case(
    operator: str,
    shape: tuple[int, ...],
    inputs: int = 20,
    columns: int = 7,
    layout: str = "ternary4",
    bias: bool = False,
    reshape: tuple[int, ...] | None = None,
    spikes: str = "spikes",
    seed: int = 0,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """``shape`` is that of the product's input, but for its last axis."""
    function, rng = NeuronFunction.from_name(operator), np.random.default_rng(seed)
    kind = "LinearInteger" + ("Signed" if spikes.startswith("signed") else "")
    x = BYTES[spikes](rng, (*shape, inputs)).astype(np.float32)
    codes = codes_of(layout, inputs, columns, seed)
    # Multiples of 1/8: membrane potentials meet thresholds exactly, too.
    constants = {"packed": pack(codes.astype(np.int32), layout), "scale": rng.choice([0.125, 0.25], columns)}
    nodes = [
        helper.make_node(
            KINDS[layout] + kind, ["x", "packed", "scale"], ["sums"], domain=DOMAIN, grid=1.0, inverse_grid=1.0
        )
    ]
    value = "sums"
    if bias:
        constants["b"] = rng.integers(-3, 4, columns) * 0.125
        nodes.append(helper.make_node("Add", ["b", value] if seed % 2 else [value, "b"], ["biased"]))
        value = "biased"
    constants = {name: v if v.dtype == np.uint8 else v.astype(np.float32) for name, v in constants.items()}
    currents = (*shape, columns)
    if reshape is not None:
        constants["wanted"] = np.array(reshape, np.int64)
        nodes.append(helper.make_node("Reshape", [value, "wanted"], ["moved"]))
        value = "moved"
        currents = (
            np.zeros(currents).reshape([n or c for n, c in zip(reshape, (*currents, 1, 1, 1), strict=False)]).shape
        )
    step = currents if function.step else currents[1:]
    forms = [step, (), step[-1:]]
    parameters = function.inputs[1 + len(function.spec.states) :]
    given = [f"{s}0" for s in function.spec.states]
    for index, name in enumerate((*given, *parameters)):
        form = forms[(index + seed) % 3] if name in given or function.vector else ()
        constants[name] = values(name.removeprefix("p_"), form, rng)
    outputs = list(function.outputs)
    nodes.append(helper.make_node(operator, [value, *given, *parameters], outputs, domain=DOMAIN))
    return made(nodes, {"x": x}, constants, outputs), {"x": x}


def float_operators(library: Any) -> list[str]:
    return sorted(name for name in library.operators if name.startswith(FLOAT))


def check_float(operator: str, seed: int) -> None:
    model, inputs = float_case(operator, (3, 2) if seed % 3 else (4,), bias=bool(seed % 2), seed=seed)
    check(model, inputs)


def test_neurons_of_every_kind(library: Any) -> None:
    """Each charge, way to fire, reset and timing, in some form; `test_every_neuron` runs all."""
    kinds: dict[Any, list[str]] = {}
    for name in float_operators(library):
        spec = NeuronFunction.from_name(name).spec
        kinds.setdefault((spec.charge, spec.fire), []).append(name)
        kinds.setdefault((spec.reset, spec.timing, spec.fire), []).append(name)
    for index, names in enumerate(kinds.values()):
        check_float(names[7 * index % len(names)], index)


@pytest.mark.slow
def test_every_neuron(library: Any) -> None:
    for index, name in enumerate(float_operators(library)):
        check_float(name, index)


def integer_model(operator: str, shape: tuple[int, ...], seed: int = 0) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """``shape`` is that of one step's currents."""
    values_of, shift = fixed_point_case(operator, shape, 5, seed)
    neuron = integer_neuron(operator)
    currents = values_of.pop("xs")
    layout, kind = ("ternary4", "binary8")[seed % 2], ("spikes", "signed spikes")[seed // 2 % 2]
    x = BYTES[kind](np.random.default_rng(seed), (*currents.shape[:-1], 20))
    columns = currents.shape[-1]
    constants = {**values_of, "packed": pack(codes_of(layout, 20, columns, seed).astype(np.int32), layout)}
    product = KINDS[layout] + "MatMulInteger" + ("Signed" if x.dtype == np.int8 else "")
    nodes = [
        helper.make_node(product, ["x", "packed"], ["xs"], domain=DOMAIN, columns=[columns]),
        helper.make_node(operator, list(neuron.inputs), list(neuron.outputs), domain=DOMAIN, shift=shift),
    ]
    return made(nodes, {"x": x}, constants, neuron.outputs), {"x": x}


def test_fixed_point_neurons_of_every_kind(library: Any) -> None:
    by_spec: dict[Any, list[str]] = {}
    for name in fixed_point_operators(library):
        by_spec.setdefault(integer_neuron(name).spec, []).append(name)
    for index, forms in enumerate(by_spec.values()):
        check(*integer_model(forms[index % len(forms)], (2, 3), index))


@pytest.mark.slow
def test_every_fixed_point_neuron(library: Any) -> None:
    for index, name in enumerate(fixed_point_operators(library)):
        check(*integer_model(name, (2, 3), index))


LIF = "LIF_relax_ge_subtract_same_step"
#: Leading axes of the input; inputs; columns: one, odd, many steps, many rows, more columns than a tile, many inputs.
SHAPES = [
    ((1, 1), 1, 1), ((3,), 7, 9), ((5, 0), 7, 9), ((70, 1), 17, 257), ((3, 45), 33, 530), ((100, 3), 20, 1030),
    ((2, 2, 3), 300, 520), ((2, 1), 4200, 5), ((33, 2), 9000, 3), ((40, 1), 1100, 1025),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "inputs", "columns"), SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_shapes(library: Any, shape: tuple[int, ...], inputs: int, columns: int, threads: int) -> None:
    check(*float_case(f"{LIF}_vector_states", shape, inputs, columns, bias=True), threads=threads)
    integer, x = integer_model("IntLIF_synaptic_gt_zero_same_step_states", (*shape[1:], columns), 3)
    check(integer, x, threads=threads)


@pytest.mark.parametrize("layout", ["binary8", "ternary4", "ternary5", "int4", "int8"])
@pytest.mark.parametrize("spikes", ["spikes", "all ones", "bytes", "signed spikes"])
def test_layouts_and_inputs(instruction_set: str, layout: str, spikes: str) -> None:
    """Of inputs that are no spikes the product is computed first, and then the neurons."""
    if spikes == "signed spikes" and layout == "int8":
        pytest.skip("there is no such operator")
    for shape, inputs, columns in [((4, 3), 20, 7), ((40, 1), 130, 530)]:
        check(*float_case(f"{LIF}_states", shape, inputs, columns, layout, bias=True, spikes=spikes))


@pytest.mark.parametrize(
    ("shape", "reshape"),
    [
        ((6, 5), (6, 5, 7)), ((30,), (6, 5, 7)), ((30,), (6, -1, 7)), ((6, 5), (0, -1)), ((6, 5), (3, 70)),
        ((30,), (5, 6, 1, 7)), ((6, 5), (7, 30)), ((2, 3), (42,)), ((6, 5), (-1,)),
    ],
)  # fmt: skip
def test_a_reshape_between(library: Any, shape: tuple[int, ...], reshape: tuple[int, ...]) -> None:
    """Also one whose steps are not made of whole rows of the product."""
    for seed in (0, 1):
        check(*float_case(f"{LIF}_states", shape, reshape=reshape, bias=bool(seed), seed=seed))


def test_a_reshape_that_cannot_be(library: Any) -> None:
    model, inputs = float_case(LIF, (6, 5), reshape=(6, 5, 7))
    opened, _ = fused(model)
    with pytest.raises(Exception, match="70 currents are not 210"):
        opened.run(None, {"x": inputs["x"][:2]})


def test_steps_and_rows_change_from_run_to_run(library: Any) -> None:
    model, _ = float_case("LIF_leak_gt_subtract_delayed", (4, 3))
    opened, _ = fused(model)
    body = session(model, threads=1, native=False)
    rng = np.random.default_rng(0)
    for shape in [(1, 3), (50, 3), (7, 3)]:
        x = BYTES["spikes"](rng, (*shape, 20)).astype(np.float32)
        assert np.array_equal(opened.run(None, {"x": x})[0], body.run(None, {"x": x})[0])
    with pytest.raises(Exception, match="at least one time step"):
        opened.run(None, {"x": np.zeros((0, 3, 20), np.float32)})
    with pytest.raises(Exception, match="last axis is 20; got 21"):
        opened.run(None, {"x": np.zeros((1, 3, 21), np.float32)})


def two_layers(between: list[onnx.NodeProto], second: str = "y1", fire: str = "") -> tuple[Any, dict[str, Array]]:
    """Two products, each with its neurons; ``between`` leads from ``s1`` to ``second``."""
    first, inputs = float_case(LIF + fire, (4, 3), columns=12, spikes="spikes")
    second_model, _ = float_case(LIF, (4, 3), inputs=12, spikes="signed spikes" if fire else "spikes")
    constants, nodes = {}, []
    for mark, model in (("1", first), ("2", second_model)):
        for tensor in model.graph.initializer:
            constants[tensor.name + mark] = numpy_helper.to_array(tensor)
        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for names in (copy.input, copy.output):
                names[:] = [name if name == "x" and mark == "1" else name + mark for name in names]
            copy.input[:] = [second if name == "x2" else name for name in copy.input]
            nodes.append(copy)
        nodes += between if mark == "1" else []
    return made(nodes, inputs, constants, ["spikes2"]), inputs


def spike_types(model: onnx.ModelProto) -> list[str]:
    return [name.removeprefix(f"{FUSED}_") for name in fused(model)[1] if name.startswith(FUSED)]


@pytest.mark.parametrize(
    ("between", "second", "expected"),
    [
        ([], "spikes1", "bytes"),
        ([helper.make_node("Identity", ["spikes1"], ["m"])], "m", "bytes"),
        ([helper.make_node("Transpose", ["spikes1"], ["m"], perm=[0, 1, 2])], "m", "bytes"),
        ([helper.make_node("Mul", ["spikes1", "spikes1"], ["m"])], "m", "float"),
        ([helper.make_node("Relu", ["spikes1"], ["m"])], "m", "float"),
    ],
)
def test_spikes_are_bytes_where_only_fused_nodes_read_them(
    library: Any, between: list[onnx.NodeProto], second: str, expected: str
) -> None:
    model, inputs = two_layers(between, second)
    assert spike_types(model) == [expected, "float"]  # the last ones are the model's output
    check(model, inputs, nodes=2)


def test_signed_spikes_are_signed_bytes(library: Any) -> None:
    model, inputs = two_layers([], "spikes1", "_ternary")
    assert spike_types(model) == ["signed", "float"]
    assert check(model, inputs, nodes=2)[0].any()


def test_spikes_that_the_caller_reads_stay_floats(library: Any) -> None:
    model, inputs = two_layers([], "spikes1")
    model.graph.output.append(onnx.ValueInfoProto(name="spikes1"))
    assert spike_types(model) == ["float", "float"]
    check(model, inputs, nodes=2)


@pytest.mark.parametrize("change", ["output", "second reader", "no constant", "recurrent", "subgraph"])
def test_what_is_not_fused(library: Any, change: str) -> None:
    """A value that something else reads, too, has to be there."""
    model, _ = float_case(LIF, (4, 3), bias=True)
    graph = model.graph
    if change == "output":
        graph.output.append(onnx.ValueInfoProto(name="sums"))
    elif change == "second reader":
        graph.node.append(helper.make_node("Neg", ["biased"], ["also"]))
    elif change == "no constant":
        graph.node.insert(0, helper.make_node("Identity", ["b"], ["b_copy"]))
        graph.node[2].input[:] = ["sums", "b_copy"]
    elif change == "recurrent":
        graph.node[-1].op_type = "LIF_leak_gt_subtract_delayed_fed_elementwise"
    else:
        inner = helper.make_graph(
            [helper.make_node("Neg", ["biased"], ["n"])], "inner", [], [onnx.ValueInfoProto(name="n")]
        )
        graph.node.append(helper.make_node("If", ["c"], ["n2"], then_branch=inner, else_branch=inner))
    before = [node.op_type for node in model.graph.node]
    changed, _ = NativeChoice(frozenset(f.name for f in model.functions), frozenset()).applied(model)
    assert not any(node.op_type.startswith(FUSED) for node in changed.graph.node)
    assert [node.op_type for node in model.graph.node] == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer", "TernaryConv", "are not fused"),
        ("layer", "Nothing", "there is no kernel for Nothing"),
        ("neuron", "IntLIF_leak_gt_zero_same_step", "are not fused"),
        ("neuron", f"{LIF}_states", "are not fused"),
        ("neuron", "x" * 200, "not large enough"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(library: Any, name: str, value: str, message: str) -> None:
    model, _ = float_case(LIF, (4, 3))
    changed, registered = NativeChoice(frozenset(f.name for f in model.functions), frozenset()).applied(model)
    (attribute,) = (a for a in changed.graph.node[0].attribute if a.name == name)
    attribute.s = value.encode()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    native_library().register(options, registered)
    with pytest.raises(Exception, match=message):
        onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_callers_model_stays_as_it_is(library: Any) -> None:
    model, inputs = float_case(LIF, (4, 3))
    before = model.SerializeToString(deterministic=True)
    session(model, native=True).run(None, inputs)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("form", ["sequence", "streaming"])
@pytest.mark.parametrize(
    ("name", "integer", "layers"),
    [("explicit loop", False, 2), ("explicit loop", True, 1), ("in-place mean", False, 1)],
)
def test_exported_networks_run_fused(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: Any, integer: bool, layers: int
) -> None:
    """Of both frameworks: verified, and shown by the profile of a run. A product of encoded inputs is not fused."""
    build, shape, other, _ = FORMS[name]
    model, path = quantised(build, sxq.Ternary()), tmp_path / "net.onnx"
    sxq.export_onnx(model, drawn_spikes(*shape), path, input="spikes", form=form, integer=integer)
    assert sxq.verify(model, path, drawn_spikes(*other), native=True).ok
    changed, _ = choose_kernels(onnx.load(path)).applied(onnx.load(path))
    expected = sorted(node.op_type for node in changed.graph.node if node.op_type.startswith(FUSED))
    assert len(expected) == layers

    plain = onnxruntime.SessionOptions

    def profiled() -> Any:
        options = plain()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)
    opened = session(path, native=True)
    feeds = {
        value.name: np.zeros([n if isinstance(n, int) else 2 for n in value.shape], _NUMPY[value.type])
        for value in opened.get_inputs()
    }
    opened.run(None, feeds)
    events = json.loads(Path(opened.end_profiling()).read_text())
    ran = [e["args"]["op_name"] for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    assert sorted(operator for operator in ran if operator.startswith(FUSED)) == expected
    assert integer or not any("LIF" in operator or operator.startswith("Ternary") for operator in ran)


_NUMPY = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32}
