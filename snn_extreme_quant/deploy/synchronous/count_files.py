"""What goes into a file of synchronous neurons, and what its neurons' tensors stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.exported.operators import is_token_neuron

__all__ = ["checked_rates", "counts_of", "rates_of_train"]

Array = npt.NDArray[Any]


def rates_of_train(train: Array, steps: int, path: Path) -> Array:
    """Return the rates n / T of a spike train ``(T, B, ...)``: multiples of 1/T, which float32 holds exactly.

    Args:
        train: spikes.
        steps: T.
        path: the file that takes the rates.

    Raises:
        SampleError: it is no train of T steps.
    """
    if train.shape[0] != steps:
        raise SampleError(f"{path} counts the spikes of {steps} steps; the input has {train.shape[0]}.")
    if not bool(((train == 0) | (train == 1)).all()):
        raise SampleError(f"{path} was exported with input='spikes'; this input is not 0 and 1 only.")
    rates: Array = train.sum(0, dtype=np.int64) / np.float32(steps)
    return rates.astype(np.float32)


def checked_rates(rates: Array, steps: int, path: Path) -> Array:
    """Return rates as they are, if they are multiples of 1/T from 0 to 1.

    Raises:
        SampleError: they are not.
    """
    counts = rates.astype(np.float64) * steps
    if not bool(((counts == np.floor(counts)) & (counts >= 0) & (counts <= steps)).all()):
        raise SampleError(
            f"{path} takes rates of spikes, multiples of 1/{steps} from 0 to 1, or the spikes themselves with the"
            f" {steps} steps as the first axis; this input is neither."
        )
    return rates


def counts_of(node: onnx.NodeProto, value: Array, steps: int) -> Array:
    """Return what a synchronous neuron layer's tensor stands for.

    Args:
        node: the layer's node.
        value: what it gave.
        steps: T.

    Returns:
        The spikes of all steps where the tensor holds them; else the number of spikes, -T to T, as int16.
    """
    if node.op_type == "SynchronousSpikes" or node.op_type.startswith("IntSpikes"):
        return value
    if is_token_neuron(node.op_type):
        return value.astype(np.int16)
    if node.op_type == "SynchronousRates":
        return (value * steps).astype(np.int16)
    top = next((attribute.f or attribute.i for attribute in node.attribute if attribute.name == "top"), steps)
    shift = steps if node.op_type == "SynchronousCounts_signed" or top > steps else 0
    return value.astype(np.int16) - np.int16(shift)
