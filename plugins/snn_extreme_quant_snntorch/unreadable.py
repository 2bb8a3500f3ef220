"""snnTorch's neurons that have no exact spec, each with the reason and what to use instead."""

from __future__ import annotations

__all__ = ["UNREADABLE"]

_CONVOLUTION = (
    "its membrane potential is a convolution over time of real numbers, which a runtime may add in any order;"
    " use snntorch.Leaky(reset_mechanism='none'), the same decay computed step by step"
)
_LSTM = (
    "its gates are sigmoid and tanh of real numbers, which runtimes round differently; use snntorch.RLeaky or"
    " snntorch.RSynaptic for a recurrent layer"
)

#: By class name.
UNREADABLE: dict[str, str] = {
    "AssociativeLeaky": (
        "its memory is a cumulative product and sum over time of real numbers; use snntorch.Leaky or snntorch.Synaptic."
    ),
    "LIF": "it is a base class without a forward pass of its own; use snntorch.Leaky.",
    "LeakyParallel": (
        "it runs all steps in one torch.nn.RNN of real numbers with a ReLU on the potential, which runtimes may add in"
        " any order; use snntorch.Leaky after a torch.nn.Linear."
    ),
    "LinearLeaky": f"{_CONVOLUTION}, after a torch.nn.Linear.",
    "SConv2dLSTM": f"{_LSTM}.",
    "SLSTM": f"{_LSTM}.",
    "SpikingNeuron": "it is a base class without a forward pass of its own; use snntorch.Leaky.",
    "StateLeaky": f"{_CONVOLUTION}.",
}
