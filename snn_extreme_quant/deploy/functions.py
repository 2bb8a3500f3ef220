"""The operators of domain ``snn.extreme_quant`` as ONNX functions: bodies of standard operators.

The exported file carries the bodies of the operators it uses, so a runtime without our library runs them; one with
our library may run a kernel in place of a body. All bodies are of opset 18 and run on onnxruntime 1.17 and later.
"""

from __future__ import annotations

from functools import cache

from onnx import FunctionProto, parser

from .layer_functions import LAYER_PREFIXES, layer_operator, layer_text
from .neuron_functions import NeuronFunction, neuron_text

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "OPSET",
    "NeuronFunction",
    "function_body",
    "is_layer",
    "is_neuron",
    "layer_operator",
]

DOMAIN = "snn.extreme_quant"
DOMAIN_VERSION = 1
OPSET = 18


def is_layer(operator: str) -> bool:
    """Whether an operator of our domain is a packed layer."""
    return operator.startswith(LAYER_PREFIXES)


def is_neuron(operator: str) -> bool:
    """Whether an operator of our domain is a layer of neurons (all steps, or one)."""
    return operator.startswith(("LIF_", "StepLIF_"))


@cache
def function_body(operator: str) -> FunctionProto:
    """Return the function that defines ``operator`` in standard operators.

    Raises:
        ConfigError: there is no such operator.

    Example:
        >>> function_body("TernaryLinear").input
        ['x', 'packed', 'scale']
    """
    text = layer_text(operator) if is_layer(operator) else neuron_text(NeuronFunction.from_name(operator))
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{text}')
