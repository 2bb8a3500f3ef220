"""The step and sequence functions of :class:`~snn_extreme_quant.neurons.NeuronSpec`, in float32.

These few lines are what framework neurons, ONNX function bodies and native kernels are all tested against. Each
operation is written in the order in which the frameworks do it, because float addition is not associative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.spec import NeuronSpec

__all__ = ["neuron_sequence", "neuron_step"]


def _charge(spec: NeuronSpec, p: Mapping[str, Tensor], x: Tensor, v: Tensor) -> Tensor:
    match spec.charge:
        case "leak":
            return p["decay"] * v + x
        case "lapicque":
            return x * p["resistance"] * p["inverse_rc"] * p["time_step"] + p["decay"] * v
        case "integrate":
            return v + x
        case "relax_input":
            return v + (x - (v - p["rest"])) / p["tau"]
        case "relax":
            return v - (v - p["rest"]) / p["tau"] + x


def _fire(spec: NeuronSpec, v: Tensor, threshold: Tensor) -> Tensor:
    return (v > threshold if spec.comparison == "gt" else v >= threshold).to(v.dtype)


def neuron_step(spec: NeuronSpec, parameters: Mapping[str, Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""Advance a layer of neurons by one time step: :math:`(x_t, v_{t-1}) \mapsto (s_t, v_t)`.

    The equations are those of :class:`~snn_extreme_quant.neurons.NeuronSpec`. Exact reproduction of the frameworks'
    forward pass is the point, so there is no surrogate gradient here: train with the framework's own neuron.

    Args:
        spec: which neuron.
        parameters: one float32 tensor for each of ``spec.parameter_names``, broadcastable to ``x``.
        x: input current of one step, any shape.
        v: membrane potential before the step, shape of ``x``.

    Returns:
        Spikes (0 or 1, times the amplitude if graded) and membrane potential after the step, both of ``x``'s shape.

    Raises:
        ConfigError: a parameter is missing.

    Example:
        >>> spec = NeuronSpec("integrate", "ge", "subtract", "same_step")
        >>> spike, v = neuron_step(spec, {"threshold": torch.tensor(1.0)}, torch.tensor([1.5, 0.5]), torch.zeros(2))
        >>> spike.tolist(), v.tolist()
        ([1.0, 0.0], [0.5, 0.5])
    """
    missing = [name for name in spec.parameter_names if name not in parameters]
    if missing:
        raise ConfigError(f"{spec.operator} needs the parameter {missing[0]!r}; got {sorted(parameters)}.")
    threshold = parameters["threshold"]
    if spec.timing == "same_step":
        h = _charge(spec, parameters, x, v)
        s = _fire(spec, h, threshold)
        match spec.reset:
            case "subtract":
                v = h - s * threshold
            case "value":
                v = s * parameters["v_reset"] + (1.0 - s) * h
            case "zero":
                v = (1.0 - s) * h
            case _:
                v = h
    else:
        r = _fire(spec, v, threshold)
        match spec.reset:
            case "subtract":
                h = _charge(spec, parameters, x, v) - r * threshold
            case "zero":
                h = _charge(spec, parameters, x, (1.0 - r) * v)
            case "cancel":
                c = _charge(spec, parameters, x, v)
                h = c - r * c
            case _:
                h = _charge(spec, parameters, x, v)
        s = _fire(spec, h, threshold)
        v = h
        if spec.timing == "compensated":
            if spec.reset == "subtract":
                v = h - (s - r) * threshold
            elif spec.reset == "zero":
                v = h - (s - r) * h
    return (s * parameters["amplitude"] if spec.graded else s), v


def neuron_sequence(spec: NeuronSpec, parameters: Mapping[str, Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Run :func:`neuron_step` over the leading time axis.

    Args:
        spec: which neuron.
        parameters: as for :func:`neuron_step`.
        x: input current, shape ``(T, ...)``; T may be 0.
        v: membrane potential before the first step, broadcastable to ``x[0]``.

    Returns:
        Spikes and membrane potentials after each step, both of shape ``(T, ...)``.

    Example:
        >>> spec = NeuronSpec("leak", "gt", "subtract", "delayed")
        >>> p = {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.5)}
        >>> neuron_sequence(spec, p, torch.tensor([[1.5], [0.0], [0.0]]), torch.zeros(1))[1].flatten().tolist()
        [1.5, -0.25, -0.125]
    """
    v = v.expand(x.shape[1:])
    spikes, potentials = torch.empty_like(x), torch.empty_like(x)
    for t in range(x.shape[0]):
        spikes[t], v = neuron_step(spec, parameters, x[t], v)
        potentials[t] = v
    return spikes, potentials
