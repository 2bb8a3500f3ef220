"""Cases of the operators of integer files: sums of every packing, lookups, poolings, fixed-point neurons."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from snn_extreme_quant.deploy.integer.functions import IntegerLayer
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.deploy.lowering.functions import is_integer_layer, is_language_integer, is_token_integer
from snn_extreme_quant.exported.operators import KINDS
from snn_extreme_quant.neurons import NeuronSpec
from tests.deploy import integer_cases
from tests.deploy.integer_bodies import FLOATS, data_types
from tests.deploy.integer_cases import INPUTS, SPECS

from .cases import Case

__all__ = [
    "SPECS",
    "all_neurons",
    "all_sums",
    "first_layout",
    "integer_neuron_cases",
    "integer_sum_cases",
    "is_float_free",
]


def _case(case: integer_cases.Case) -> Case:
    constants = {name: case.inputs[name] for name in case.constants}
    inputs = {name: value for name, value in case.inputs.items() if name not in constants}
    shapes = ", ".join(f"{value.dtype} {value.shape}" for value in inputs.values())
    expected = [torch.from_numpy(value) for value in case.expected]
    return Case(case.node.operator, shapes, inputs, constants, expected, dict(case.node.attributes))


def all_sums() -> list[str]:
    """The names of all integer sums."""
    kinds = [("MatMul", *INPUTS), ("Conv", *INPUTS), ("ConvTranspose", *INPUTS), ("Embedding", "uint8")]
    names = [IntegerLayer(kind, layout, x).name for layout in KINDS for kind, *inputs in kinds for x in inputs]
    return [*names, *(IntegerLayer("SumPool", "", x).name for x in INPUTS)]


_SUMS: dict[str, list[integer_cases.Case]] = {name: [] for name in all_sums()}
for _found in integer_cases.layer_cases():
    _SUMS[str(_found)].append(_found)


def integer_sum_cases(operator: str) -> Iterator[Case]:
    """Cases of one operator: single inputs and outputs, empty batches, extremes of each type."""
    return map(_case, _SUMS[operator])


def all_neurons() -> set[str]:
    """The names of all fixed-point neurons: sequences with and without their states, and steps, which have them."""
    return {
        IntegerNeuron(spec, step=step, states=states, layout=layout).name
        for spec in SPECS
        for step, states in ((False, False), (False, True), (True, True))
        for layout in (KINDS if spec.feedback in ("linear", "conv") else ("",))
    }


def first_layout(spec: NeuronSpec) -> str:
    """A packing of a neuron's recurrent layer; "" if it has none."""
    return "ternary4" if spec.feedback in ("linear", "conv") else ""


def integer_neuron_cases(operator: str) -> Iterator[Case]:
    """Cases of a neuron's spec, of which one is of this form."""
    return map(_case, integer_cases.neuron_cases(IntegerNeuron.from_name(operator).spec))


def is_float_free(case: Case) -> bool:
    """Whether the body of an operator names no type of floating point."""
    body = case.model().functions[0]
    kinds = (is_integer_layer, is_token_integer, is_language_integer)
    assert any(found(case.operator) for found in kinds) or case.operator in all_neurons()
    return "float" not in str(body).lower() and not FLOATS & set(data_types(body.node))
