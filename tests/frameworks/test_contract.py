"""NeuronReading: what it refuses."""

import pytest
import torch

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.frameworks import NeuronReading

SPEC = NeuronSpec("leak", "gt", "subtract", "delayed")
ONE = torch.tensor(1.0)


def test_reading_holds_what_it_is_given() -> None:
    reading = NeuronReading(SPEC, {"threshold": ONE, "decay": ONE / 2}, 0.25, multi_step=True, returns_state=True)
    assert (reading.v0, reading.multi_step, reading.returns_state) == (0.25, True, True)


@pytest.mark.parametrize("parameters", [{}, {"threshold": ONE}, {"threshold": ONE, "decay": ONE, "tau": ONE}], ids=len)
def test_parameters_must_be_those_of_the_spec(parameters) -> None:
    with pytest.raises(ConfigError, match=r"LIF_leak_gt_subtract_delayed has the parameters \('threshold', 'decay'\)"):
        NeuronReading(SPEC, parameters)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.tensor(1), "torch.int64"),
        (torch.tensor(1.0, dtype=torch.float64), "torch.float64"),
        (torch.tensor(1.0, requires_grad=True), "requires_grad"),
        (0.5, "0.5"),
    ],
    ids=["int64", "float64", "attached", "number"],
)
def test_parameters_must_be_detached_float32_tensors(value, found) -> None:
    with pytest.raises(ConfigError, match=f"Parameter 'decay' must be a detached float32 tensor; got .*{found}"):
        NeuronReading(SPEC, {"threshold": ONE, "decay": value})
