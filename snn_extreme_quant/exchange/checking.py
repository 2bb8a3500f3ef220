"""Whether a graph gives the spikes of the model that it was made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import SampleError, UnsupportedModelError, UnsupportedNeuronError
from snn_extreme_quant.exchange.nir_reading import from_nir
from snn_extreme_quant.exchange.tracing import undisturbed
from snn_extreme_quant.frameworks import neurons_of, reset

__all__ = ["check_spikes"]

#: Calls in a row: a state shows from the second on, a delayed reset from the third.
_CALLS = 4


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def check_spikes(model: nn.Module, graph: Any, sample: Tensor, fires: bool) -> None:
    """Call the model and what :func:`from_nir` makes of the graph with ``sample``, a few times in a row.

    Nothing is checked where no such model can be made: where the framework's plugin makes no such neurons, or the
    neurons are of several frameworks.

    Args:
        model: what the graph was made from.
        graph: a ``nir.NIRGraph``.
        sample: one call's input.
        fires: whether the output is spikes, which must be equal; currents may differ by rounding.

    Raises:
        UnsupportedModelError: the outputs differ.
        SampleError: the model cannot be called with the sample alone.
    """
    neurons = neurons_of(model)
    if len({neuron.framework.name for neuron in neurons}) > 1:
        return
    with undisturbed(model, neurons):  # also the framework's list of neurons, to which from_nir() adds
        try:
            again = from_nir(graph)
        except UnsupportedNeuronError:
            return
        again = again.eval().to(sample.device, sample.dtype if sample.is_floating_point() else None)
        reset(again)
        for call in range(1, _CALLS + 1):
            try:
                want = _first(model(sample))
            except Exception as error:  # torch raises many types for input that does not fit
                raise SampleError(f"The model fails in call {call} with the sample: {error}.") from error
            have = _first(again(sample))
            differs = have != want if fires else ~torch.isclose(have, want, rtol=1e-4, atol=1e-5, equal_nan=True)
            if bool(differs.any()):
                raise UnsupportedModelError(
                    f"The graph does not give what {type(model).__name__} gives: {int(differs.sum())} of"
                    f" {differs.numel()} values differ in call {call} with the sample. Its forward() does what no layer"
                    " or neuron says; keep it to calls of layers and neurons, + and flatten."
                )
