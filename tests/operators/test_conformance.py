"""Every operator of the domain gives the same bits as body in two evaluators, as native kernel, and in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.functions import (
    DOMAIN,
    NeuronFunction,
    function_body,
    is_integer_layer,
    is_integer_neuron,
    is_layer,
    is_neuron,
)
from snn_extreme_quant.deploy.layer_functions import layer_operators
from snn_extreme_quant.deploy.synchronous_functions import synchronous_operators
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec
from tests.deploy.test_repacking import IDS, build

from .cases import Case, check, kernels
from .layers import layer_cases
from .neurons import SPECS, all_functions, neuron_cases

NEURONS: dict[NeuronSpec, list[NeuronFunction]] = {}
for _function in all_functions():
    NEURONS.setdefault(_function.spec, []).append(_function)
#: Every operator of the domain, from the registries of packings, layers and neurons.
TABLE = frozenset([*layer_operators(), *(function.name for forms in NEURONS.values() for function in forms)])


def cases(operator: str) -> Iterator[Case]:
    """All cases of an operator."""
    return layer_cases(operator) if is_layer(operator) else neuron_cases(NeuronFunction.from_name(operator))


@pytest.mark.parametrize("operator", layer_operators())
def test_layers(operator: str) -> None:
    ran = Counter(runtime for case in cases(operator) for runtime in check(case))
    assert ran["onnxruntime"] >= ran["onnx.reference"] >= 4
    assert (ran["native kernel"] > 0) == (operator in kernels())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_neurons(spec: NeuronSpec) -> None:
    """Each spec as sequence and as step, by turns with scalars and vectors, and of its other forms and cases."""
    turn = SPECS.index(spec)
    forms = NEURONS[spec]
    kinds: dict[tuple[bool, bool], list[NeuronFunction]] = {}
    for function in forms:
        kinds.setdefault((function.step, function.vector), []).append(function)
    wanted = ((False, bool(turn % 2)), (True, not turn % 2))
    chosen = [kinds[kind][turn // 2 % len(kinds[kind])] for kind in wanted]
    for index, function in enumerate(chosen):
        found = list(cases(function.name))
        check(found[(turn // 2 + index) % len(found)])


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.operator)
def test_every_form_of_every_neuron(spec: NeuronSpec) -> None:
    for function in NEURONS[spec]:
        for case in cases(function.name):
            check(case)


def test_names_say_all_of_an_operator() -> None:
    every = [function for forms in NEURONS.values() for function in forms]
    assert len({function.name for function in every}) == len(every)
    for function in every:
        assert NeuronFunction.from_name(function.name) == function
        assert ("_states" in function.name) == (function.states and not function.step)
        assert is_neuron(function.name) != is_layer(function.name)
    for name in layer_operators():
        assert is_layer(name) != is_neuron(name)
        assert function_body(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "LIF_odd", "TernaryFoo", "Int16LinearInteger", "Ternary6Linear", "Linear", "StepLIF_", "",
        "LIF_leak_gt_subtract_delayed_by", "LIF_leak_gt_subtract_delayed_by_ternary7",
        "LIF_leak_gt_subtract_delayed_states_vector",
    ],
)  # fmt: skip
def test_names_that_there_are_not(name: str) -> None:
    assert name not in TABLE
    with pytest.raises(ConfigError):
        function_body(name)


def test_the_table_has_every_kernel() -> None:
    # Synchronous neurons and integer operators have theirs in tests/deploy and tests/native.
    elsewhere = {name for name in kernels() if is_integer_layer(name) or is_integer_neuron(name)}
    assert kernels() <= TABLE | elsewhere | set(synchronous_operators())


@pytest.mark.parametrize("packing", ["2bit", "1.6bit"])
def test_the_table_has_every_operator_of_a_file(tmp_path: Path, packing: str) -> None:
    """A network with a layer of every kind; whatever the exporter may emit must be in the table."""
    sxq.export_onnx(build(), IDS, tmp_path / "net.onnx", ternary_packing=packing)  # type: ignore[arg-type]
    model = onnx.load(tmp_path / "net.onnx")
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert len(used) >= 6
    assert used == {function.name for function in model.functions}
    assert used <= TABLE, "write a case for each operator"
