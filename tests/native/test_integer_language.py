"""What integer files of language models compute with: kernels, bodies and numbers without a width are the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_body
from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.exported.operators import LANGUAGE_INTEGERS
from snn_extreme_quant.exported.token_tables import MOST_DECAY
from tests.deploy.bodies import Array

INT8, UINT8, INT32, INT64 = (getattr(onnx.TensorProto, name) for name in ("INT8", "UINT8", "INT32", "INT64"))
_TYPES = {INT32: np.dtype(np.int32), INT64: np.dtype(np.int64)}
_ANY = {kind: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for kind, dtype in _TYPES.items()}
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Input:
    """An input: its type, its limits, and whether it is of channels, of sums or of the whole shape."""

    kind: int
    least: int
    most: int
    of: str = "all"


def _about(kind: int, most: int, of: str = "all") -> Input:
    return Input(kind, -most, most, of)


@dataclass(frozen=True)
class Operator:
    """What an operator reads within its limits, and the shifts that go with them."""

    inputs: tuple[Input, ...]
    outputs: tuple[int, ...] = (INT32,)
    shifts: tuple[int, ...] = ()
    limits: tuple[int, ...] = ()
    axes: tuple[int, ...] = (1, 2, 3)
    single: bool = False  # whether constants of channels may be one number
    attributes: tuple[str, ...] = field(default=("shift", "most"))


_SUMS = (_about(INT64, 2**61 - 1, "sums"), Input(INT64, 0, 2**47 - 1, "sums"))
_AVERAGE = Operator(
    (
        _about(INT32, 5000), _about(INT32, 2**15 - 1), Input(INT64, 0, MOST_DECAY, "channels"),
        _about(INT32, 7387, "channels"), *_SUMS,
    ), (INT32, INT64, INT64), axes=(3,), attributes=(),
)  # fmt: skip
_OPERATORS = {
    # What is shifted is below 2^31: gains of 24 bits are for 20 places.
    "IntTokenNorm": Operator(
        (_about(INT32, 2**20), _about(INT64, 2**24, "channels"), _about(INT64, 2**40, "channels")),
        shifts=(16, 20), limits=(2**19 - 1, 700), single=True,
    ),
    "IntHalves": Operator((Input(INT32, -(2**15), 2**15 - 1),), (INT8, UINT8), attributes=()),
    "IntGated": Operator((_about(INT32, 5000), _about(INT32, 2**22 - 1)), shifts=(8, 15, 40), limits=(2**22 - 1, 0)),
    "IntSquared": Operator((_about(INT32, 2**15 - 1),), shifts=(0, 11, 30), limits=(2**15 - 1, _MOST)),
    "IntWeightedAverage": _AVERAGE,
    "StepIntWeightedAverage": _AVERAGE,
    "IntScale": Operator(
        (
            _about(INT32, 2**30), _about(INT64, 2**28, "channels"), _about(INT64, 2**38, "channels"),
            Input(INT32, -(2**31), 0, "channels"), Input(INT32, 0, _MOST, "channels"),
        ), shifts=(29, 40), single=True, attributes=("shift",),
    ),
    "IntResidual": Operator(
        (
            _about(INT32, 2**19), _about(INT32, 2**19), _about(INT64, 2**17, "channels"),
            _about(INT64, 2**17, "channels"), _about(INT64, 2**20, "channels"),
        ), shifts=(8, 17, 40), single=True, attributes=("shift",),
    ),
}  # fmt: skip


def model(name: str, ranks: tuple[int, ...], attributes: dict[str, int], kept: int = 3) -> onnx.ModelProto:
    """A model of one node, all of whose inputs are read when it runs.

    Args:
        name: of the operator.
        ranks: of the inputs.
        attributes: of the node.
        kept: how many outputs there are.
    """
    operator, body = _OPERATORS[name], function_body(name)
    node = helper.make_node(name, list(body.input), list(body.output), domain=DOMAIN, **attributes)
    inputs = [
        helper.make_tensor_value_info(value, each.kind, [None] * rank)
        for value, each, rank in zip(body.input, operator.inputs, ranks, strict=True)
    ]
    outputs = [
        helper.make_tensor_value_info(value, kind, [None] * ranks[0])
        for value, kind in zip(body.output, operator.outputs, strict=True)
    ]
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    graph = helper.make_graph([node], "g", inputs, outputs[-kept:])
    return helper.make_model(graph, functions=[body], opset_imports=imports, ir_version=8)


@cache
def _session(
    name: str, ranks: tuple[int, ...], attributes: tuple[tuple[str, int], ...], native: bool, threads: int
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if native:
        assert native_library().register(options, [name]) == [name]
    made = model(name, ranks, dict(attributes)).SerializeToString()
    return onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])


def run(name: str, inputs: list[Array], attributes: dict[str, int], *, native: bool, threads: int = 1) -> list[Array]:
    ranks, given = tuple(value.ndim for value in inputs), dict(zip(function_body(name).input, inputs, strict=True))
    found: list[Array] = _session(name, ranks, tuple(attributes.items()), native, threads).run(None, given)
    return found


def assert_equal(name: str, found: list[Array], wanted: list[Array]) -> None:
    assert len(found) == len(wanted), name
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert np.array_equal(ours, theirs), name


def _shape(name: str, each: Input, shape: tuple[int, ...], single: bool) -> tuple[int, ...]:
    if each.of == "channels":
        return (1,) if single else shape[-1:]
    return (1, *shape[1:]) if each.of == "sums" else shape


@st.composite
def cases(draw: st.DrawFn, name: str, *, wild: bool = False) -> tuple[list[Array], dict[str, int]]:
    """Inputs and attributes of an operator: within its limits, or any there are."""
    operator = _OPERATORS[name]
    # In the body of a norm an axis without channels is divided by, and onnxruntime does not reduce what is empty.
    # A Scan of no tokens is an error.
    least = int(name in ("IntTokenNorm", "IntWeightedAverage"))
    sizes = [st.integers(least, 3)] * (draw(st.sampled_from(operator.axes)) - 1)
    shape = tuple(draw(size) for size in [*sizes, st.integers(1, 40)])
    shape = (1, *shape[1:]) if name.startswith("Step") else shape
    inputs = []
    for each in operator.inputs:
        least, most = _ANY[each.kind] if wild else (each.least, each.most)
        if wild and each.least == 0 and each.kind == INT64:
            least, most = 0, 2**62 if each.of == "sums" else 2**16  # what is divided by stays above 0
        single = operator.single and draw(st.booleans())
        elements = st.one_of(st.integers(least, most), st.sampled_from(sorted({least, most, max(least, min(0, most))})))
        inputs.append(draw(arrays(_TYPES[each.kind], _shape(name, each, shape, single), elements=elements)))
    if operator is _AVERAGE and not wild:
        *_, numerator, denominator = inputs  # whose quotient is a value
        np.clip(numerator, -denominator * (2**14 - 1), denominator * (2**14 - 1), out=numerator)
    attributes: dict[str, int] = {}
    if operator.shifts:
        attributes["shift"] = draw(st.sampled_from((0, 1, 31, 33, 62) if wild else operator.shifts))
    if operator.limits:
        attributes["most"] = draw(st.sampled_from((0, 1, 2**15, _MOST) if wild else operator.limits))
    return inputs, attributes


_SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", _OPERATORS)
@given(data=st.data())
@_SETTINGS
def test_within_the_limits(library: Any, name: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(cases(name))
    found = run(name, inputs, attributes, native=True)
    assert_equal(name, found, run(name, inputs, attributes, native=False))
    ranks = tuple(value.ndim for value in inputs)
    if inputs[0].size:
        whole = golden_run(model(name, ranks, attributes), dict(zip(function_body(name).input, inputs, strict=True)))
        assert_equal(name, found, list(whole.outputs.values()))


@pytest.mark.parametrize("name", _OPERATORS)
@given(data=st.data())
@_SETTINGS
def test_beyond_the_limits_numbers_wrap_around_as_in_the_body(library: Any, name: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(cases(name, wild=True))
    found = run(name, inputs, attributes, native=True)
    assert_equal(name, found, run(name, inputs, attributes, native=False))


def _large(name: str, shape: tuple[int, ...]) -> tuple[list[Array], dict[str, int]]:
    """Numbers of more than one task."""
    rng, operator = np.random.default_rng(3), _OPERATORS[name]
    shape = (1, *shape[1:]) if name.startswith("Step") else shape
    inputs = [
        rng.integers(each.least, each.most, _shape(name, each, shape, False), endpoint=True, dtype=_TYPES[each.kind])
        for each in operator.inputs
    ]
    values = {"shift": operator.shifts[:1], "most": operator.limits[:1]}
    return inputs, {key: found[0] for key, found in values.items() if found}


@pytest.mark.parametrize("name", _OPERATORS)
@pytest.mark.parametrize("shape", [(5, 2, 768), (2, 3, 4096), (130, 1, 257)])
def test_each_instruction_set_with_threads(instruction_set: str, name: str, shape: tuple[int, ...]) -> None:
    inputs, attributes = _large(name, shape)
    wanted = run(name, inputs, attributes, native=False)
    _session.cache_clear()  # which instructions are used is chosen when a session is made
    for threads in (1, 2):
        assert_equal(name, run(name, inputs, attributes, native=True, threads=threads), wanted)
    _session.cache_clear()


@pytest.mark.parametrize("name", ["IntHalves", "IntWeightedAverage", "StepIntWeightedAverage"])
def test_outputs_that_nothing_reads(library: Any, name: str) -> None:
    inputs, attributes = _large(name, (3, 2, 33))
    made = model(name, tuple(value.ndim for value in inputs), attributes, kept=1)
    options = onnxruntime.SessionOptions()
    native_library().register(options, [name])
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, dict(zip(function_body(name).input, inputs, strict=True)))
    assert_equal(name, found, run(name, inputs, attributes, native=False)[-1:])


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (4, 0)])
def test_norms_of_nothing(library: Any, shape: tuple[int, ...]) -> None:
    constants = [np.zeros(shape[-1], np.int64)] * 2
    (found,) = run("IntTokenNorm", [np.zeros(shape, np.int32), *constants], {"shift": 20, "most": 9}, native=True)
    assert (found.shape, found.dtype) == (shape, np.int32)


def test_averages_of_nothing(library: Any) -> None:
    """The sums stay as they are."""
    nothing, sums = np.zeros((0, 2, 3), np.int32), np.arange(6).reshape(1, 2, 3)
    each = np.ones(3, np.int64)
    found = run("IntWeightedAverage", [nothing, nothing, each, each.astype(np.int32), sums, sums * 7], {}, native=True)
    assert_equal("IntWeightedAverage", found, [nothing, sums, sums * 7])


def _refused(name: str, why: str, attributes: dict[str, int] | None = None, **others: Array) -> None:
    inputs, own = _large(name, (2, 3, 8))
    inputs = [others.get(value, given) for value, given in zip(function_body(name).input, inputs, strict=True)]
    with pytest.raises(Exception, match=why):
        run(name, inputs, own | (attributes or {}), native=True)


def test_what_is_refused(library: Any) -> None:
    three = np.zeros(3, np.int64)
    wide = np.zeros((1, 1, 4097), np.int32)
    one = np.zeros(1, np.int64)
    _refused("IntTokenNorm", "up to 4096 channels; got 4097", x=wide, gain=one, offset=one)
    _refused("IntTokenNorm", "works along the last axis", x=np.array(3, np.int32))
    _refused("IntTokenNorm", "constants for each of the 8 channels, or one for all; input 1 has 3", gain=three)
    _refused("IntScale", "IntScale takes constants for each of the 8 channels.*input 4", high=three.astype(np.int32))
    _refused("IntScale", "a shift of 64; it is 0 to 63", {"shift": 64})
    _refused("IntResidual", "x and counts of one shape", counts=np.zeros((2, 8), np.int32))
    _refused("IntGated", "gates and values of one shape", value=np.zeros((2, 3, 9), np.int32))
    _refused("IntSquared", "a limit of -1; it is 0 to 2147483647", {"most": -1})
    _refused("IntWeightedAverage", "do not fit each other", decay=three)


@pytest.mark.parametrize("below", [0, -1])
def test_what_cannot_be_divided_by_is_refused(library: Any, below: int) -> None:
    """Where a body's division would end the process."""
    shape, each = (1, 1, 2), np.zeros(2, np.int64)
    key = np.full(shape, -3839, np.int32)  # whose power is 8
    numerator = np.full(shape, -(2**63), np.int64)
    inputs = [key, key * 0, each, each.astype(np.int32), numerator, np.full(shape, below - 8, np.int64)]
    with pytest.raises(Exception, match="beyond its limits, 0 to 2"):
        run("IntWeightedAverage", inputs, {}, native=True)


def test_every_operator_has_a_kernel(library: Any) -> None:
    assert {*LANGUAGE_INTEGERS, "IntScale", "IntResidual"} == set(_OPERATORS) <= library.operators
