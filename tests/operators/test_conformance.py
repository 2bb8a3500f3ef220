"""Every operator of the domain gives the same bits everywhere.

As body in two evaluators, as native kernel, in the golden model if it computes with integers, and in torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, NeuronFunction, function_body, is_layer, is_neuron
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operators
from snn_extreme_quant.deploy.shifts.functions import shift_operators
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.exported.operators import KINDS, LANGUAGE, LANGUAGE_INTEGERS, TOKEN_INTEGERS
from snn_extreme_quant.neurons import NeuronSpec
from tests.deploy.test_repacking import IDS, build
from tests.deploy.test_synchronous_networks import made
from tests.layouts import each_operator

from .cases import Case, check, kernels
from .integers import SPECS as INTEGER_SPECS
from .integers import all_neurons, all_sums, first_layout, integer_neuron_cases, integer_sum_cases, is_float_free
from .language import language_cases
from .language_integers import language_integer_cases
from .layers import layer_cases
from .neurons import SPECS, all_functions, neuron_cases
from .shifts import shift_cases
from .synchronous import all_synchronous, synchronous_cases
from .token_integers import token_integer_cases

NEURONS: dict[NeuronSpec, list[NeuronFunction]] = {}
for _function in all_functions():
    NEURONS.setdefault(_function.spec, []).append(_function)
#: Every operator of the domain, from the registries of packings, layers and neurons.
TABLE = frozenset(
    [
        *layer_operators(),
        *(function.name for forms in NEURONS.values() for function in forms),
        *all_synchronous(),
        *shift_operators(),
        *LANGUAGE,
        *LANGUAGE_INTEGERS,
        *all_sums(),
        *all_neurons(),
        *TOKEN_INTEGERS,
    ]
)


def cases(operator: str) -> Iterator[Case]:
    """All cases of an operator."""
    return layer_cases(operator) if is_layer(operator) else neuron_cases(NeuronFunction.from_name(operator))


@pytest.mark.parametrize("operator", each_operator(layer_operators()))
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


@pytest.mark.parametrize("operator", each_operator(all_synchronous()))
def test_the_synchronous_schedule(operator: str) -> None:
    ran = Counter(runtime for case in synchronous_cases(operator) for runtime in check(case))
    assert ran["onnxruntime"] == ran["onnx.reference"] >= 2
    assert (ran["native kernel"] > 0) == (operator in kernels())


@pytest.mark.parametrize("operator", shift_operators())
def test_shifts(operator: str) -> None:
    found = list(shift_cases(operator))
    ran = Counter(runtime for case in found for runtime in check(case))
    assert ran["onnxruntime"] == ran["onnx.reference"] == len(found) >= 20


@pytest.mark.parametrize("operator", LANGUAGE)
def test_language_models(operator: str) -> None:
    found = list(language_cases(operator))
    ran = Counter(runtime for case in found for runtime in check(case))
    assert ran["onnxruntime"] == ran["onnx.reference"] == len(found) >= 6
    assert (ran["native kernel"] > 0) == (operator in kernels())


@pytest.mark.parametrize("operator", LANGUAGE_INTEGERS)
def test_integers_of_language_models(operator: str) -> None:
    found = list(language_integer_cases(operator))
    ran = Counter(runtime for case in found for runtime in check(case))
    assert ran["golden model"] == ran["onnxruntime"] == ran["onnx.reference"] == len(found) >= 10
    assert (ran["native kernel"] > 0) == (operator in kernels())
    assert is_float_free(found[0])


@pytest.mark.parametrize("operator", TOKEN_INTEGERS)
def test_integers_of_tokens(operator: str) -> None:
    found = list(token_integer_cases(operator))
    ran = Counter(runtime for case in found for runtime in check(case))
    assert ran["golden model"] == ran["onnxruntime"] == ran["onnx.reference"] == len(found) >= 15
    assert (ran["native kernel"] > 0) == (operator in kernels())
    assert is_float_free(found[0])


@pytest.mark.parametrize("operator", each_operator(all_sums()))
def test_integer_sums(operator: str) -> None:
    found = list(integer_sum_cases(operator))
    ran = Counter(runtime for case in found for runtime in check(case))
    assert ran["golden model"] == ran["onnxruntime"] == ran["onnx.reference"] == len(found) >= 2
    assert (ran["native kernel"] > 0) == (operator in kernels())
    assert is_float_free(found[0])


@pytest.mark.parametrize("spec", INTEGER_SPECS, ids=lambda spec: spec.operator)
def test_fixed_point_neurons(spec: NeuronSpec) -> None:
    """A sequence with its states, one without, and a step; a recurrent layer of each packing by turns."""
    found = list(integer_neuron_cases(IntegerNeuron(spec, layout=first_layout(spec)).name))
    assert len({case.operator for case in found} & all_neurons()) == 3
    for case in found:
        ran = check(case)
        assert {"golden model", "onnxruntime", "onnx.reference"} <= set(ran)
        assert ("native kernel" in ran) == (case.operator in kernels())
        assert is_float_free(case)


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
    assert kernels() <= TABLE


def test_the_table_has_every_operator_with_a_body() -> None:
    """An exporter can write what has a body: of all names made of known parts, those that have one are in the table."""
    packings = ["", *KINDS.values()]
    kinds = ["Linear", "MatMul", "Conv", "ConvTranspose", "Embedding", "SumPool", "Synchronous", "Shift"]
    known = {name.removeprefix(max(packings, key=lambda p: len(p) * name.startswith(p))) for name in TABLE}
    endings = {ending for name in known for kind in kinds if (ending := name.removeprefix(kind)) != name} | {""}
    for name in {"".join(parts) for parts in product(packings, kinds, endings)}:
        try:
            function_body(name)
        except ConfigError:
            assert name not in TABLE
        else:
            assert name in TABLE, name


def words(**options: Any) -> Callable[[Path], object]:
    """A network with a layer of every kind."""
    return lambda path: sxq.export_onnx(build(), IDS, path, **options)


def on_counts(signed: bool, **options: Any) -> Callable[[Path], object]:
    def export(path: Path) -> object:
        net, spikes = made("perceptron", 8, signed)
        return sxq.export_onnx(net, spikes, path, input="spikes", **options)

    return export


#: By form of a file, what writes one.
FILES: dict[str, Callable[[Path], object]] = {
    "2 bit": words(),
    "1.6 bit": words(ternary_packing="1.6bit"),
    "streaming": words(form="streaming"),
    "integer": words(integer=True),
    "counts": on_counts(False, form="counts"),
    "signed counts": on_counts(True, form="counts"),
    "spike by spike": on_counts(True, form="sequence"),
}


@pytest.mark.parametrize("form", FILES)
def test_the_table_has_every_operator_of_a_file(tmp_path: Path, form: str) -> None:
    FILES[form](tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert len(used) >= 2
    assert used == {function.name for function in model.functions}
    assert used <= TABLE, "write a case for each operator"
