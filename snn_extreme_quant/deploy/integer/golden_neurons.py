"""Fixed-point neurons in numpy, for the golden model: the equations of docs/operators.md, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.deploy.integer.neuron_functions import IntegerNeuron
from snn_extreme_quant.errors import ModelFileError
from snn_extreme_quant.neurons import NeuronSpec
from snn_extreme_quant.neurons.fixed_point_spec import STATE_LIMIT
from snn_extreme_quant.quantizers.packing import unpack

__all__ = ["run_neurons"]

Array = npt.NDArray[Any]
_LARGEST = 2**31 - 1
_Numbers = Mapping[str, Array]


def run_neurons(neuron: IntegerNeuron, inputs: list[Array], attributes: Mapping[str, Any], where: str) -> list[Array]:
    """Run a layer of neurons over its sequence, or one step.

    Args:
        neuron: the operator.
        inputs: in the operator's order.
        attributes: of the node.
        where: the node, for messages.
    """
    spec = neuron.spec
    named = dict(zip(neuron.inputs, inputs, strict=True))
    xs = named["xs"][None] if neuron.step else named["xs"]
    states = {name: np.broadcast_to(named[f"{name}0"], xs.shape[1:]) for name in spec.states}
    parameters = {name: named[f"p_{name}"] for name in neuron.parameters}
    codes = _codes(neuron, named, attributes)
    steps: list[list[Array]] = []
    for x in xs:
        spikes, states = _step(spec, parameters, x, states, attributes, codes, where)
        steps.append([spikes, *(states[name] for name in spec.outputs[1:])])
    outputs = [np.stack(values) for values in zip(*steps, strict=True)]
    if neuron.step:
        return [values[0] for values in outputs]
    return outputs if neuron.states else outputs[:1]


def _codes(neuron: IntegerNeuron, named: _Numbers, attributes: Mapping[str, Any]) -> Array | None:
    """Return the recurrent layer's codes: ``(K, N)``, or of a convolution ``(N, C, height, width)``."""
    if not neuron.layout:
        return None
    columns = attributes["columns"][0] if neuron.spec.feedback == "conv" else named["xs"].shape[-1]
    codes = unpack(named["packed"], columns, neuron.layout).astype(np.int64)
    return codes.T.reshape(attributes["weight_shape"]) if neuron.spec.feedback == "conv" else codes


def _recurrent(s: Array, codes: Array | None, attributes: Mapping[str, Any]) -> Array:
    """Return R(s): the spikes themselves, or their integer sums."""
    s = s.astype(np.int64)
    if codes is None:
        return s
    if codes.ndim == 2:
        product: Array = s @ codes
        return product
    axes = codes.ndim - 2
    pads = attributes["pads"]
    padded = np.pad(s, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, codes.shape[2:], tuple(range(2, 2 + axes)))
    # Channels and kernel positions go; what is left is batch, places, and the codes' outputs.
    kernel = tuple(range(2 + axes, 2 + 2 * axes))
    summed = np.tensordot(windows, codes, ((1, *kernel), tuple(range(1, 2 + axes))))
    channels_second: Array = np.moveaxis(summed, -1, 1)
    return channels_second


def _leak(v: Array, decay: Array, shift: int) -> Array:
    """L(v, d): 64 bits, halves rounded up; numpy shifts to the right by rounding down."""
    exact: Array = (v.astype(np.int64) * decay + (1 << (shift - 1))) >> shift
    return exact


def _charged(spec: NeuronSpec, p: _Numbers, current: Array, state: _Numbers, shift: int) -> dict[str, Array]:
    match spec.charge:
        case "leak":
            return {"v": _leak(state["v"], p["decay"], shift) + current}
        case "integrate":
            return {"v": state["v"] + current}
        case "synaptic":
            i = _leak(state["i"], p["current_decay"], shift) + current
            return {"v": _leak(state["v"], p["decay"], shift) + i, "i": i}
        case _:
            e = _leak(state["i_exc"], p["excitation_decay"], shift) + current
            f = _leak(state["i_inh"], p["inhibition_decay"], shift) - current
            return {"v": _leak(e + f, p["potential_gain"], shift), "i_exc": e, "i_inh": f}


def _reached(spec: NeuronSpec, value: Array, threshold: Array) -> Array:
    return value > threshold if spec.comparison == "gt" else value >= threshold


def _fired(spec: NeuronSpec, p: _Numbers, h: Array, before: Array) -> Array:
    """Return the spikes s of the potential h."""
    threshold = p["threshold"]
    match spec.fire:
        case "spike":
            return _reached(spec, h, threshold).astype(np.int32)
        case "ternary":
            up, down = _reached(spec, h, threshold), _reached(spec, -h, threshold)
            return up.astype(np.int32) - down.astype(np.int32)
        case "count":
            nearest: Array = (np.maximum(h, 0) + threshold // 2) // threshold
            return np.minimum(nearest, p["levels"])
        case "change":
            return _reached(spec, abs(h - before), threshold).astype(np.int32)


def _same_step(
    spec: NeuronSpec, p: _Numbers, current: Array, state: _Numbers, shift: int
) -> tuple[Array, dict[str, Array]]:
    new = _charged(spec, p, current, state, shift)
    h = new["v"]
    s = _fired(spec, p, h, state["v"])
    match spec.reset:
        case "subtract":
            new["v"] = h - s * p["threshold"]
        case "value":
            new["v"] = np.where(s != 0, p["v_reset"], h)
        case "zero":
            new["v"] = np.where(s != 0, 0, h)
    return s, new


def _delayed(
    spec: NeuronSpec, p: _Numbers, current: Array, state: _Numbers, shift: int
) -> tuple[Array, dict[str, Array]]:
    r = _reached(spec, state["v"], p["threshold"])
    kept = {**state, "v": np.where(r, 0, state["v"])} if spec.reset == "zero" else state
    new = _charged(spec, p, current, kept, shift)
    if spec.reset == "cancel":
        new |= {name: np.where(r, 0, value) for name, value in new.items() if name == "v" or spec.charge == "alpha"}
    if spec.reset == "subtract" and spec.charge == "alpha":
        new["v"] = new["v"] + r * state["i_inh"]
        new["i_exc"] = new["i_exc"] - r * p["threshold"]
        new["i_inh"] = np.where(r, 0, new["i_inh"])
    elif spec.reset == "subtract":
        new["v"] = new["v"] - r * p["threshold"]
    h = new["v"]
    s = _reached(spec, h, p["threshold"]).astype(np.int32)
    if spec.timing == "compensated" and spec.reset != "none":
        new["v"] = h - (s - r) * (p["threshold"] if spec.reset == "subtract" else h)
    return s, new


def _step(
    spec: NeuronSpec,
    p: _Numbers,
    x: Array,
    state: _Numbers,
    attributes: Mapping[str, Any],
    codes: Array | None,
    where: str,
) -> tuple[Array, dict[str, Array]]:
    current = x.astype(np.int64) * p["gain"] + p["bias"]
    if spec.feedback != "none":
        current = current + _recurrent(state["s"], codes, attributes) * p["feedback"]
    if current.size and abs(current).max() > STATE_LIMIT:
        raise ModelFileError(f"{where}: a current leaves the limit of 2^30, for which the file was not made.")
    run = _same_step if spec.timing == "same_step" else _delayed
    exact = {name: value.astype(np.int64) for name, value in p.items()}
    before = {name: value.astype(np.int64) for name, value in state.items()}
    s, new = run(spec, exact, current, before, attributes["shift"])
    for name, value in new.items():
        if value.size and abs(value).max() > _LARGEST:
            raise ModelFileError(
                f"{where}: its state {name!r} leaves 32 bits, for which the file was not made; export it again"
                " for more steps, with --max-steps (in Python IntegerOptions(max_steps=...))."
            )
    spikes = s.astype(np.int8 if spec.fire == "ternary" else np.uint8)
    after = {name: np.clip(value, -STATE_LIMIT, STATE_LIMIT).astype(np.int32) for name, value in new.items()}
    return spikes, (after if spec.feedback == "none" else {**after, "s": spikes})
