"""Readings made into snnTorch's neurons again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import NeuronReading

__all__ = ["WRITERS", "write_neuron"]


def _options(reading: NeuronReading) -> dict[str, Any]:
    return {"threshold": reading.parameters["threshold"], "init_hidden": True, "output": reading.returns_state}


def _delays(reading: NeuronReading) -> dict[str, Any]:
    return {"reset_mechanism": _reset(reading), "reset_delay": reading.spec.timing == "delayed"}


def _reset(reading: NeuronReading) -> str:
    return {"cancel": "zero"}.get(reading.spec.reset, reading.spec.reset)


def _leaky(reading: NeuronReading) -> nn.Module:
    import snntorch

    graded = reading.parameters.get("amplitude", 1.0)
    decay = reading.parameters["decay"]
    neuron: nn.Module = snntorch.Leaky(beta=decay, graded_spikes_factor=graded, **_options(reading), **_delays(reading))
    return neuron


def _synaptic(reading: NeuronReading) -> nn.Module:
    import snntorch

    alpha, beta = reading.parameters["current_decay"], reading.parameters["decay"]
    neuron: nn.Module = snntorch.Synaptic(alpha=alpha, beta=beta, **_options(reading), **_delays(reading))
    return neuron


def _capacity(resistance: Tensor, inverse_rc: Tensor, time_step: Tensor, decay: Tensor) -> Tensor:
    r"""Return a C with :math:`1/(RC)` and :math:`1 - \Delta t/(RC)` as given, to the bit, or the nearest one."""
    guess = (1.0 / (resistance.double() * inverse_rc.double())).float()
    up = down = found = guess
    for _ in range(16):
        for trial in (up, down):
            rc = resistance * trial
            fits = (1 / rc == inverse_rc) & (1 - time_step / rc == decay)
            found = torch.where(fits, trial, found)
        up = torch.nextafter(up, torch.full_like(up, torch.inf))
        down = torch.nextafter(down, torch.zeros_like(down))
    return found


def _lapicque(reading: NeuronReading) -> nn.Module:
    import snntorch

    p = reading.parameters
    # The constructor takes numbers alone; its buffers hold tensors.
    neuron: Any = snntorch.Lapicque(R=1.0, C=1.0, reset_mechanism=_reset(reading), **_options(reading))
    neuron.R, neuron.time_step = p["resistance"].clone(), p["time_step"].clone()
    neuron.C = _capacity(p["resistance"], p["inverse_rc"], p["time_step"], p["decay"])
    neuron.beta = torch.exp(-neuron.time_step / (neuron.R * neuron.C))
    return neuron  # type: ignore[no-any-return]


#: By charge and comparison: the resets and timings that a class has, and what makes it.
WRITERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[NeuronReading], nn.Module]]] = {
    "leak": (("subtract", "zero", "none"), ("delayed", "compensated"), _leaky),
    "lapicque": (("subtract", "cancel", "none"), ("delayed",), _lapicque),
    "synaptic": (("subtract", "cancel", "none"), ("delayed", "compensated"), _synaptic),
}


def write_neuron(reading: NeuronReading) -> nn.Module:
    """Make the ``Leaky``, ``Lapicque`` or ``Synaptic`` that reads as ``reading``, with its state inside.

    Raises:
        UnsupportedNeuronError: snnTorch has no such neuron.
    """
    spec = reading.spec
    resets, timings, write = WRITERS.get(spec.charge, ((), (), _leaky))
    plain = spec.comparison == "gt" and spec.fire == "spike" and spec.feedback == "none"
    graded = spec.graded and spec.charge != "leak"
    if not plain or graded or spec.reset not in resets or spec.timing not in timings:
        raise UnsupportedNeuronError(f"snnTorch has no neuron that computes {spec.operator}.")
    if reading.multi_step or any(reading.initial.values()):
        raise UnsupportedNeuronError("snnTorch's neurons take single steps and start from a potential of 0.")
    return write(reading)
