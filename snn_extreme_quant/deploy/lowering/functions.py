"""The operators of domain ``snn.extreme_quant`` as ONNX functions: bodies of standard operators.

The exported file carries the bodies of the operators it uses, so a runtime without our library runs them; one with
our library may run a kernel in place of a body. All bodies are of opset 18 and run on onnxruntime 1.17 and later.
"""

from __future__ import annotations

from functools import cache

from onnx import FunctionProto, numpy_helper, parser

from snn_extreme_quant.deploy.integer.functions import integer_text, is_integer_layer
from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron, integer_neuron_text
from snn_extreme_quant.deploy.language.functions import language_text
from snn_extreme_quant.deploy.language.integer_functions import language_integer_text
from snn_extreme_quant.deploy.lowering.body_facts import GENERAL, BodyFacts
from snn_extreme_quant.deploy.lowering.layer_functions import layer_operator, layer_text
from snn_extreme_quant.deploy.lowering.neuron_functions import NeuronFunction, neuron_text
from snn_extreme_quant.deploy.shifts.functions import is_shift, shift_text
from snn_extreme_quant.deploy.synchronous.functions import is_synchronous, synchronous_text
from snn_extreme_quant.deploy.tokens.integer_functions import token_integer_text
from snn_extreme_quant.exported.operators import (
    DOMAIN,
    DOMAIN_VERSION,
    is_integer_neuron,
    is_language,
    is_language_integer,
    is_layer,
    is_neuron,
    is_token_integer,
    is_token_neuron,
)

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "OPSET",
    "NeuronFunction",
    "function_body",
    "is_integer_layer",
    "is_integer_neuron",
    "is_language_integer",
    "is_layer",
    "is_neuron",
    "is_shift",
    "is_synchronous",
    "is_token_integer",
    "is_token_neuron",
    "layer_operator",
]

OPSET = 18


@cache
def function_body(operator: str, facts: BodyFacts = GENERAL) -> FunctionProto:
    """Return the function that defines ``operator`` in standard operators.

    Args:
        operator: its name.
        facts: what holds for all nodes of it in the file that the body is for; the bits are the same.

    Raises:
        ConfigError: there is no such operator.

    Example:
        >>> function_body("TernaryLinear").input
        ['x', 'packed', 'scale']
    """
    body = parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{_text(operator, facts)}')
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):  # a byte for a byte; the parser takes up to ten
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t)))
    return body


def _text(operator: str, facts: BodyFacts) -> str:
    if is_integer_layer(operator):
        return integer_text(operator)
    if is_integer_neuron(operator):
        return integer_neuron_text(IntegerNeuron.from_name(operator))
    if is_synchronous(operator):
        return synchronous_text(operator)
    if is_token_integer(operator):
        return token_integer_text(operator)
    if is_language_integer(operator):
        return language_integer_text(operator)
    if is_language(operator):
        return language_text(operator)
    if is_shift(operator):
        return shift_text(operator)
    if is_layer(operator):
        return layer_text(operator, facts)
    return neuron_text(NeuronFunction.from_name(operator), facts)
