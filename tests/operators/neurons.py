"""Cases of the neurons: every legal spec in each of its forms, with what the step functions give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.deploy.lowering.neuron_functions import NeuronFunction
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence, neuron_step
from snn_extreme_quant.neurons.spec import Charge, Comparison, Feedback, Fire, Reset, Timing
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

from .cases import Case


def all_specs() -> list[NeuronSpec]:
    """Every legal spec."""
    found = []
    for choices in product(*map(get_args, (Charge, Comparison, Reset, Timing)), (False, True), get_args(Fire)):
        for feedback in get_args(Feedback):
            try:
                found.append(NeuronSpec(*choices, feedback))
            except ConfigError:
                continue
    return found


SPECS = all_specs()
PLAIN = [spec for spec in SPECS if spec.feedback in ("none", "elementwise")]
RECURRENT = [spec for spec in SPECS if spec.feedback in ("linear", "conv")]
LAYOUTS_OF_FEEDBACK = ("binary8", "ternary4", "ternary5", "int3", "int4", "int8", "int12", "int16", "float")

#: Multiples of 1/8 where sums should meet thresholds exactly, others where roundings should show.
VALUES = {
    "threshold": 0.75, "decay": 0.9, "v_reset": -0.1, "amplitude": 2.5, "rest": -0.1, "tau": 2.3, "rate": 0.4,
    "resistance": 0.7, "inverse_rc": 0.31, "time_step": 0.5, "current_decay": 0.6, "excitation_decay": 0.8,
    "inhibition_decay": 0.7, "gain": 1.5, "levels": 4.0, "feedback": 0.3,
}  # fmt: skip


def parameters_of(spec: NeuronSpec, vector: bool, shape: tuple[int, ...] = (5,)) -> dict[str, Tensor]:
    """Numbers for a spec, scalars or one number a channel."""
    steps = torch.arange(shape[0]).reshape(shape) * 0.125
    scalars = {name: torch.tensor(VALUES[name]) for name in spec.parameter_names}
    return {name: value + steps for name, value in scalars.items()} if vector else scalars


def currents(*shape: int) -> Tensor:
    """Currents of which half are multiples of 1/4, so that potentials meet thresholds exactly."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * 1.5 + 0.4
    x[::2] = (x[::2] * 4).round() / 4
    return x


def states_of(spec: NeuronSpec, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A state to start from, with spikes where spikes belong."""
    generator = torch.Generator().manual_seed(7)
    drawn = {name: torch.randn(shape, generator=generator) for name in spec.states}
    return {name: (value > 0).float() if name == "s" else value for name, value in drawn.items()}


def arrays(values: dict[str, Tensor], prefix: str = "", suffix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}{suffix}": value.numpy() for name, value in values.items()}


def feedback_layer(spec: NeuronSpec, layout: str, biased: bool) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Constants, the layer as a function and the node's attributes; float weights are multiples of 1/8."""
    channels, kernel = 4, (3, 3) if spec.feedback == "conv" else ()
    rng = np.random.default_rng(len(layout))
    bias = torch.linspace(-0.3, 0.4, channels)
    shape = (channels, channels, *kernel)
    by_channel = (-1, *(1,) * len(kernel))
    if layout == "float":
        weight = torch.from_numpy(rng.integers(-8, 9, shape) / 8).float()
        scale, constants = torch.ones(channels), {"weight_in": weight.numpy()}
    else:
        largest = min(LAYOUTS[layout].largest, 300)
        codes = rng.integers(-largest, largest + 1, shape)
        codes = np.where(codes < 0, -1, 1) if layout == "binary8" else codes
        weight, scale = torch.from_numpy(codes).float(), torch.linspace(0.1, 1.0, channels) / largest
        packed = pack(codes.reshape(channels, -1).T, layout)
        constants = {"packed": packed, "scale": scale.numpy()}

    def recurrent(spikes: Tensor) -> Tensor:
        sums = F.conv2d(spikes, weight, padding=1) if kernel else F.linear(spikes, weight)
        fed = sums if layout == "float" else sums * scale.view(by_channel)
        return fed + bias.view(by_channel) if biased else fed

    # The runtime adds the bias of a float convolution itself: one more addition, as in torch.
    attributes = {"weight_shape": shape, "channel_shape": by_channel, "pads": (1, 1, 1, 1)} if kernel else {}
    return constants | ({"bias": bias.numpy()} if biased else {}), recurrent, attributes


def all_functions() -> list[NeuronFunction]:
    """Every operator of a neuron."""
    found = []
    for spec in SPECS:
        layouts = LAYOUTS_OF_FEEDBACK if spec in RECURRENT else ("",)
        for layout, biased, vector in product(layouts, (False, True), (False, True)):
            if biased and not layout:
                continue
            shared = {"vector": vector, "layout": layout, "biased": biased}
            found += [NeuronFunction(spec, states=states, **shared) for states in (False, True)]
            found.append(NeuronFunction(spec, step=True, **shared))
    return found


def neuron_cases(function: NeuronFunction) -> Iterator[Case]:
    """Several steps from a state of its own, and inputs at their limits: one step, thresholds met and never met."""
    shape = {"linear": (2, 4), "conv": (2, 4, 5, 3)}.get(function.spec.feedback, (3, 5))
    yield neuron_case(function, "random", shape, steps=5)
    if function.spec.feedback in ("none", "elementwise"):
        yield neuron_case(function, "at limits", (1, 4), steps=1, limits=True)


def neuron_case(
    function: NeuronFunction, what: str, shape: tuple[int, ...], *, steps: int, limits: bool = False
) -> Case:
    spec = function.spec
    constants, recurrent, attributes = {}, None, {}
    if function.layout:
        constants, recurrent, attributes = feedback_layer(spec, function.layout, function.biased)
    parameters = parameters_of(spec, function.vector, (4, 1, 1) if spec.feedback == "conv" else shape[-1:])
    if spec.feedback == "linear":
        parameters = parameters_of(spec, function.vector, (4,))
    x = currents(*shape) if function.step else currents(steps, *shape)
    state = states_of(spec, shape)
    if limits:
        parameters["threshold"] = parameters["threshold"] * 0 + 0.75
        if function.vector:
            parameters["threshold"][-1] = torch.inf
        x = torch.tensor([0.75, -0.0, 1e30, -1e-30]).expand(x.shape).contiguous()
        state = {name: value * 0 for name, value in state.items()}
    if not function.step and not function.vector and limits:
        state = {name: torch.tensor(0.0) for name in state}  # a state that is common to all
    whole = {name: value.expand(shape) for name, value in state.items()}
    run = neuron_step if function.step else neuron_sequence
    spikes, after = run(spec, parameters, x, whole, recurrent)
    expected = [spikes, *(after[name] for name in spec.outputs[1:] if function.step or function.states)]
    prefix = "p_" if function.flattened and function.vector else ""
    constants = constants | arrays(parameters, prefix=prefix)
    inputs = {"xs": x.numpy()} | (arrays(state, suffix="0") if function.step else {})
    constants |= {} if function.step else arrays(state, suffix="0")
    return Case(function.name, what, inputs, constants, expected, attributes)
