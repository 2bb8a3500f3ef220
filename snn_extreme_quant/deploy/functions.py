"""The operators of domain ``snn.extreme_quant`` as ONNX functions: bodies of standard operators.

The exported file carries the bodies of the operators it uses, so a runtime without our library runs them; one with
our library may run a kernel in place of a body. All bodies are of opset 18 and run on onnxruntime 1.17 and later.
"""

from __future__ import annotations

from functools import cache

from onnx import FunctionProto, numpy_helper, parser

from snn_extreme_quant.exported.operators import DOMAIN, DOMAIN_VERSION, is_integer_neuron, is_layer, is_neuron

from .integer_functions import integer_text, is_integer_layer
from .integer_neuron_functions import IntegerNeuron, integer_neuron_text
from .layer_functions import layer_operator, layer_text
from .neuron_functions import NeuronFunction, neuron_text
from .synchronous_functions import is_synchronous, synchronous_text

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "OPSET",
    "NeuronFunction",
    "function_body",
    "is_integer_layer",
    "is_integer_neuron",
    "is_layer",
    "is_neuron",
    "is_synchronous",
    "layer_operator",
]

OPSET = 18


@cache
def function_body(operator: str) -> FunctionProto:
    """Return the function that defines ``operator`` in standard operators.

    Raises:
        ConfigError: there is no such operator.

    Example:
        >>> function_body("TernaryLinear").input
        ['x', 'packed', 'scale']
    """
    body = parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{_text(operator)}')
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):  # a byte for a byte; the parser takes up to ten
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t)))
    return body


def _text(operator: str) -> str:
    if is_integer_layer(operator):
        return integer_text(operator)
    if is_integer_neuron(operator):
        return integer_neuron_text(IntegerNeuron.from_name(operator))
    if is_synchronous(operator):
        return synchronous_text(operator)
    return layer_text(operator) if is_layer(operator) else neuron_text(NeuronFunction.from_name(operator))
