"""Readings made into SpikingJelly's neurons again, and torch's layers into its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading

__all__ = ["WRITERS", "write_layer", "write_neuron"]


def _number(reading: NeuronReading, name: str) -> float:
    values = set(reading.parameters[name].flatten().tolist())
    if len(values) != 1:
        raise UnsupportedNeuronError(f"SpikingJelly's neurons of a layer have one {name}; these have several.")
    return float(values.pop())


def _options(reading: NeuronReading) -> dict[str, Any]:
    v_reset = None if reading.spec.reset == "subtract" else _number(reading, "v_reset")
    if "rest" in reading.parameters and _number(reading, "rest") != (v_reset or 0.0):
        raise UnsupportedNeuronError("SpikingJelly's neurons leak towards the potential they are reset to.")
    return {"v_threshold": _number(reading, "threshold"), "v_reset": v_reset}


def _integrate(reading: NeuronReading) -> Any:
    from spikingjelly.activation_based import neuron

    make = neuron.TernaryIFNode if reading.spec.fire == "ternary" else neuron.IFNode
    return make(**_options(reading))


def _relax(reading: NeuronReading) -> Any:
    from spikingjelly.activation_based import neuron

    tau, decay_input = _number(reading, "tau"), reading.spec.charge == "relax_input"
    if tau <= 1.0:
        raise UnsupportedNeuronError(f"SpikingJelly's LIFNode takes tau above 1, in steps; got {tau}.")
    return neuron.LIFNode(tau=tau, decay_input=decay_input, **_options(reading))


def _logit(rate: Tensor) -> Tensor:
    """Return a w with sigmoid(w) as given, to the bit, or the nearest one."""
    value = float(rate)
    guess = torch.tensor(math.log(value / (1.0 - value)), dtype=torch.float32)
    up = down = guess
    for _ in range(64):
        for trial in (up, down):
            if bool(trial.sigmoid() == rate):
                return trial
        up, down = (torch.nextafter(w, torch.full((), end)) for w, end in ((up, torch.inf), (down, -torch.inf)))
    return guess


def _rate(reading: NeuronReading) -> Any:
    from spikingjelly.activation_based import neuron

    rate = _number(reading, "rate")
    if not 0.0 < rate < 1.0:
        raise UnsupportedNeuronError(f"SpikingJelly's ParametricLIFNode leaks a part between 0 and 1; got {rate}.")
    node: Any = neuron.ParametricLIFNode(decay_input=reading.spec.charge == "rate_input", **_options(reading))
    with torch.no_grad():
        node.w.copy_(_logit(torch.tensor(rate)))
    return node


def _synaptic(reading: NeuronReading) -> Any:
    from spikingjelly.activation_based import neuron

    current, decay = _number(reading, "current_decay"), _number(reading, "decay")
    return neuron.CUBALIFNode(c_decay=current, v_decay=decay, **_options(reading))


#: By charge, what makes the neuron.
WRITERS: dict[str, Callable[[NeuronReading], Any]] = {
    "integrate": _integrate,
    "relax_input": _relax,
    "relax": _relax,
    "rate_input": _rate,
    "rate": _rate,
    "synaptic": _synaptic,
}


def write_neuron(reading: NeuronReading) -> nn.Module:
    """Make the neuron that reads as ``reading``.

    It is an ``IFNode``, ``TernaryIFNode``, ``LIFNode``, ``ParametricLIFNode`` or ``CUBALIFNode``.

    Raises:
        UnsupportedNeuronError: SpikingJelly has no such neuron.
    """
    spec = reading.spec
    fires = spec.fire == "spike" or (spec.fire == "ternary" and spec.charge == "integrate")
    plain = fires and spec.feedback == "none" and not spec.graded
    fits = plain and spec.comparison == "ge" and spec.timing == "same_step"
    write = WRITERS.get(spec.charge)
    if write is None or not fits or spec.reset not in ("subtract", "value"):
        raise UnsupportedNeuronError(f"SpikingJelly has no neuron that computes {spec.operator}.")
    if reading.returns_state:
        raise UnsupportedNeuronError("SpikingJelly's neurons give spikes alone, no membrane potential.")
    node: nn.Module = write(reading)
    start: Any = node
    start.step_mode = "m" if reading.multi_step else "s"
    for name, value in reading.initial.items():
        start.set_reset_value(name, value)
    start.reset()
    return node


def write_layer(module: nn.Module, multi_step: bool) -> nn.Module:
    """Make torch's layer into SpikingJelly's of the same name, with the same Parameters."""
    from spikingjelly.activation_based import layer

    mode, old = "m" if multi_step else "s", _Fields(module)
    made: Any
    match type(module).__name__:
        case "Linear":
            made = layer.Linear(*old("in_features", "out_features"), module.bias is not None, mode)
        case "Conv1d" | "Conv2d" as cls:
            geometry = old("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
            made = getattr(layer, cls)(*geometry, module.bias is not None, step_mode=mode)
        case "AvgPool2d":
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            made = layer.AvgPool2d(*old(*names), step_mode=mode)
        case "Flatten":
            made = layer.Flatten(*old("start_dim", "end_dim"), step_mode=mode)
        case _:
            return module
    for name, parameter in module.named_parameters():
        setattr(made, name, parameter)
    return made  # type: ignore[no-any-return]


class _Fields:
    """Reads several attributes of a layer at once."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, *names: str) -> tuple[Any, ...]:
        return tuple(getattr(self.module, name) for name in names)
