"""The operators of our domain by name."""

from __future__ import annotations

import pytest

from snn_extreme_quant.deploy.lowering import functions
from snn_extreme_quant.deploy.lowering.functions import NeuronFunction
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec

SPEC = NeuronSpec("leak", "gt", "subtract", "delayed")


@pytest.mark.parametrize("kind", ["Linear", "Conv", "ConvTranspose", "Embedding"])
@pytest.mark.parametrize("layout", ["binary8", "ternary4", "ternary5", "int4", "int6", "int8", "int10", "int16"])
def test_layers(kind: str, layout: str) -> None:
    name = functions.layer_operator(kind, layout)
    assert functions.is_layer(name)
    assert not functions.is_neuron(name)
    assert functions.function_body(name).name == name


@pytest.mark.parametrize("step", [False, True])
def test_neurons(step: bool) -> None:
    name = NeuronFunction(SPEC, step=step).name
    assert functions.is_neuron(name)
    assert not functions.is_layer(name)
    assert list(functions.function_body(name).input) == ["xs", "v0", "threshold", "decay"]


def test_unknown_operator() -> None:
    with pytest.raises(ConfigError, match="LIF_odd"):
        functions.function_body("LIF_odd")
