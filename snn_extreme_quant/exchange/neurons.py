r"""Neurons as NIR nodes, and NIR nodes as neurons.

NIR's neurons are differential equations: LIF :math:`\tau \dot v = (v_\text{leak} - v) + R I`, IF
:math:`\dot v = R I`, CubaLIF the same LIF behind :math:`\tau_\text{syn} \dot I = -I + w_\text{in} S`; a spike where
:math:`v > \theta` sets :math:`v` to :math:`v_\text{reset}`. One step of the forward Euler method with time step
:math:`\Delta t` makes

.. math:: v \leftarrow v + \tfrac{\Delta t}{\tau} (v_\text{leak} - v) + \tfrac{R \Delta t}{\tau} I

which is a :class:`~snn_extreme_quant.neurons.NeuronSpec`'s way of charging, solved below for :math:`\tau`, :math:`R`
and :math:`v_\text{leak}`. Source: Pedersen et al., "Neuromorphic intermediate representation: A unified
instruction set for interoperable brain-inspired computing", Nature Communications 15 (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snn_extreme_quant.errors import ModelFileError, UnsupportedNeuronError
from snn_extreme_quant.exchange.metadata import about
from snn_extreme_quant.frameworks import NeuronReading
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["NODES", "candidates", "fields_of", "losses_of", "nir_losses"]

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, Array]


def _membrane(decay: Array, gain: Array, dt: float, rest: Array | None = None) -> tuple[str, dict[str, Array]]:
    r"""Fields of a membrane that keeps ``decay`` of its potential in a step and takes ``gain`` of its input.

    :math:`\tau = \Delta t / (1 - \beta)` and :math:`R = g \tau / \Delta t`; where nothing leaks, an IF with
    :math:`R = g / \Delta t`.
    """
    leaks = decay != 1.0
    if not leaks.any():
        return "IF", {"r": gain / dt}
    if not leaks.all():
        raise UnsupportedNeuronError(
            "Some of its neurons leak and some do not (decay 1): NIR has a LIF for the first, an IF for the others."
            " Use two layers, or a decay below 1."
        )
    tau = dt / (1.0 - decay)
    leak = np.zeros_like(tau) if rest is None else rest
    return "LIF", {"tau": tau, "r": gain * tau / dt, "v_leak": leak}


def _leak(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return _membrane(p["decay"], np.ones_like(p["decay"]), dt)


def _lapicque(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return _membrane(p["decay"], p["resistance"] * p["inverse_rc"] * p["time_step"], dt)


def _integrate(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return "IF", {"r": np.full_like(p["threshold"], 1.0 / dt)}


def _relax_input(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return "LIF", {"tau": p["tau"] * dt, "r": np.ones_like(p["tau"]), "v_leak": p["rest"]}


def _relax(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return "LIF", {"tau": p["tau"] * dt, "r": p["tau"], "v_leak": p["rest"]}


def _rate_input(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return _relax_input({**p, "tau": 1.0 / p["rate"]}, dt)


def _rate(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    return _relax({**p, "tau": 1.0 / p["rate"]}, dt)


def _synaptic(p: Parameters, dt: float) -> tuple[str, dict[str, Array]]:
    if (p["decay"] == 1.0).any() or (p["current_decay"] == 1.0).any():
        raise UnsupportedNeuronError("A decay of 1 has no finite time constant in NIR's CubaLIF; use one below 1.")
    tau, synapse = dt / (1.0 - p["decay"]), dt / (1.0 - p["current_decay"])
    return "CubaLIF", {
        "tau_mem": tau,
        "tau_syn": synapse,
        "r": tau / dt,
        "v_leak": np.zeros_like(tau),
        "w_in": synapse / dt,
    }


#: For each way of charging, the NIR node it is one Euler step of, and the node's fields.
NODES: dict[str, Callable[[Parameters, float], tuple[str, dict[str, Array]]]] = {
    "leak": _leak,
    "lapicque": _lapicque,
    "integrate": _integrate,
    "relax_input": _relax_input,
    "relax": _relax,
    "rate_input": _rate_input,
    "rate": _rate,
    "synaptic": _synaptic,
}


def fields_of(reading: NeuronReading, shape: tuple[int, ...], dt: float) -> tuple[str, dict[str, Array]]:
    """Return the NIR node type of a neuron, and its fields as arrays of ``shape``.

    Every field is an array of the full shape: readers infer the layer's width from it.

    Raises:
        UnsupportedNeuronError: NIR has no node that comes near what the neuron does.
    """
    spec = reading.spec
    impossible = {
        f"charging by {spec.charge!r}": spec.charge not in NODES,
        "no reset (its LIF and IF always reset)": spec.reset == "none",
        "graded spikes; fold the factor into the next layer's weight": spec.graded,
        f"spikes by {spec.fire!r}": spec.fire != "spike",
        "spikes fed back inside the neuron": spec.feedback != "none",
    }
    for what in (what for what, found in impossible.items() if found):
        raise UnsupportedNeuronError(f"NIR has no neuron node with {what}.")
    parameters = {
        name: np.broadcast_to(value.cpu().double().numpy(), shape).copy() for name, value in reading.parameters.items()
    }
    kind, fields = NODES[spec.charge](parameters, dt)
    fields["v_threshold"] = parameters["threshold"]
    fields["v_reset"] = parameters.get("v_reset", np.zeros(shape))
    return kind, fields


def losses_of(reading: NeuronReading) -> list[str]:
    """Return what a reader of the NIR node that ignores our metadata does not learn of a neuron."""
    spec = reading.spec
    lost = []
    if spec.reset == "subtract":
        lost.append("reset by subtraction: NIR resets to v_reset, written as 0")
    if spec.timing == "delayed":
        lost.append("the reset comes in the step after the spike: NIR resets at the spike")
    if spec.comparison == "ge":
        lost.append("a potential equal to the threshold fires: in NIR it does not")
    if any(reading.initial.get(name, 0.0) != 0.0 for name in spec.states):
        lost.append("the initial state: NIR has none")
    return lost


def nir_losses(graph: Any) -> dict[str, list[str]]:
    """Return, by node, what readers that ignore the metadata of :func:`~snn_extreme_quant.exchange.to_nir` lose.

    Args:
        graph: a ``nir.NIRGraph`` that ``to_nir`` made.

    Returns:
        Node names with reasons; nodes that lose nothing are left out.
    """
    found = {name: (about(node) or {}).get("losses", []) for name, node in graph.nodes.items()}
    return {name: reasons for name, reasons in found.items() if reasons}


def _one(value: Any) -> Array:
    """Return an array of no axes if all values are equal: a neuron of any width then."""
    array = np.asarray(value, np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ModelFileError("a parameter is empty, NaN or infinite")
    return array.reshape(-1)[0].reshape(()) if (array == array.reshape(-1)[0]).all() else array


def _same(a: Array, b: Array | float) -> bool:
    return bool(np.allclose(a, b, rtol=1e-6, atol=1e-12))


def _reading(charge: str, comparison: str, reset: str, timing: str, **parameters: Array) -> NeuronReading:
    spec = NeuronSpec(charge, comparison, reset, timing)  # type: ignore[arg-type]
    values = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in parameters.items()}
    # NIR says nothing of the first potential; neurons with a reset potential start from it.
    initial = {"v": float(np.unique(parameters["v_reset"])[0])} if reset == "value" else {}
    return NeuronReading(spec, values, initial)


def _from_if(node: Any, dt: float) -> Iterable[NeuronReading]:
    gain, threshold, reset = _one(node.r) * dt, _one(node.v_threshold), _one(node.v_reset)
    if _same(gain, 1.0):
        yield _reading("integrate", "ge", "value", "same_step", threshold=threshold, v_reset=reset)
    if _same(reset, 0.0):
        scaled = _one(threshold / gain)
        yield _reading("leak", "gt", "zero", "compensated", threshold=scaled, decay=np.ones(()))
        yield _reading("integrate", "ge", "value", "same_step", threshold=scaled, v_reset=np.zeros(()))


def _from_lif(node: Any, dt: float) -> Iterable[NeuronReading]:
    tau, r, rest = _one(node.tau) / dt, _one(node.r), _one(node.v_leak)
    threshold, reset = _one(node.v_threshold), _one(node.v_reset)
    relaxing = {"tau": tau, "rest": rest, "threshold": threshold, "v_reset": reset}
    if _same(r, 1.0):
        yield _reading("relax_input", "ge", "value", "same_step", **relaxing)
    elif _same(r, tau):
        yield _reading("relax", "ge", "value", "same_step", **relaxing)
    if _same(rest, 0.0) and _same(reset, 0.0):
        # With everything relative to 0, dividing the threshold is multiplying the input.
        scaled = _one(threshold if _same(r, tau) else threshold * tau / r)
        yield _reading("leak", "gt", "zero", "compensated", threshold=scaled, decay=_one(1.0 - 1.0 / tau))
        yield _reading("relax", "ge", "value", "same_step", **{**relaxing, "threshold": scaled})


def _from_cuba_lif(node: Any, dt: float) -> Iterable[NeuronReading]:
    membrane, synapse = _one(node.tau_mem) / dt, _one(node.tau_syn) / dt
    if not _same(_one(node.v_leak), 0.0):
        return
    gain = _one(node.r) / membrane * _one(node.w_in) / synapse
    reset = _one(node.v_reset)
    shared = {"decay": _one(1.0 - 1.0 / membrane), "current_decay": _one(1.0 - 1.0 / synapse)}
    threshold = _one(node.v_threshold) if _same(gain, 1.0) else _one(_one(node.v_threshold) / gain)
    if _same(reset, 0.0):
        yield _reading("synaptic", "gt", "cancel", "compensated", threshold=threshold, **shared)
    if _same(gain, 1.0) or _same(reset, 0.0):
        yield _reading("synaptic", "ge", "value", "same_step", threshold=threshold, v_reset=reset, **shared)


_READERS: dict[str, Callable[[Any, float], Iterable[NeuronReading]]] = {
    "IF": _from_if,
    "LIF": _from_lif,
    "CubaLIF": _from_cuba_lif,
}


def candidates(name: str, node: Any, dt: float) -> list[NeuronReading] | None:
    """Return the neurons that a NIR node of any program may be, or None if it is no neuron.

    They differ in what NIR leaves open or a framework cannot do: at equality with the threshold, some fire.

    Raises:
        ModelFileError: the parameters are no finite numbers.
    """
    reader = _READERS.get(type(node).__name__)
    if reader is None:
        return None
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return list(reader(node, dt))
    except ModelFileError as error:
        raise ModelFileError(f"The neuron of node {name!r}: {error}.") from error
