"""SpikingJelly's neurons and stateful layers that have no exact spec, each with the reason and what to use instead."""

from __future__ import annotations

__all__ = ["UNREADABLE"]

_BASE = "it is a base class without a charge of its own; use IFNode or LIFNode."
_DSR = "it gives spikes of its trainable threshold's height, and is trained on rates; use {} with a fixed threshold."
_FEW = "it spends a fixed number of inner steps, with a table of thresholds, on each value; use IFNode or LIFNode."
_ILC = "it feeds spikes back through a grouped convolution over populations, into its own input; use {}."
_MPBN = "it normalises the membrane potential by a batch norm inside the neuron; use LIFNode after a batch norm."
_NOISY = "it adds random noise to potentials and spikes; use {} for the noise-free neuron."
_POTENTIAL = (
    "it gives membrane potentials and no spikes; take the mean or the last step of the layer before it in the model's"
    " own forward()."
)
_PSN = "it has no membrane potential from step to step, but sums all steps with learned weights; use ParametricLIFNode."
_QUADRATIC = "its charge is {} in the membrane potential, which runtimes round differently; use LIFNode."
_RECURRENT = (
    "it feeds the output of the modules inside it back through {}; call the layers and the neuron in a loop over time"
    " in the model's own forward()."
)
_TIME_NORM = "it has a batch norm for each time step and counts the steps; use the BatchNorm of spikingjelly's layer."

#: By class name: first the neurons, then the layers that keep state over time.
UNREADABLE: dict[str, str] = {
    "ActivationAwareIFNode": "it adds an offset to each channel before firing; use IFNode, with a bias in its layer.",
    "AdaptBaseNode": _BASE,
    "BaseNode": _BASE,
    "ComplementaryLIFNode": "its reset passes through a sigmoid, which runtimes round differently; use LIFNode.",
    "DSRIFNode": _DSR.format("IFNode"),
    "DSRLIFNode": _DSR.format("LIFNode"),
    "EIFNode": _QUADRATIC.format("exponential"),
    "FewSpikeNode": _FEW,
    "FlexSN": "it runs a function of yours, which no spec describes; use one of the neurons that have one.",
    "GatedLIFNode": "its gates mix several leaks and resets, with weights that differ in each step; use LIFNode.",
    "HGNode": _FEW,
    "ILCBaseNode": _BASE,
    "ILCCUBALIFNode": _ILC.format("CUBALIFNode"),
    "ILCIFNode": _ILC.format("IFNode"),
    "ILCLIFNode": _ILC.format("LIFNode"),
    "IzhikevichNode": _QUADRATIC.format("quadratic"),
    "KLIFNode": "it scales the potential by a trained factor and cuts it off below 0 (ReLU); use ParametricLIFNode.",
    "LIAFNode": "it gives real activations, not spikes, to the next layer; use LIFNode.",
    "MPBNBaseNode": _BASE,
    "MPBNLIFNode": _MPBN,
    "MaskedPSN": _PSN,
    "NoisyBaseNode": _BASE,
    "NoisyCUBALIFNode": _NOISY.format("CUBALIFNode"),
    "NoisyILCBaseNode": _BASE,
    "NoisyILCCUBALIFNode": _NOISY.format("CUBALIFNode"),
    "NoisyNonSpikingBaseNode": _BASE,
    "NoisyNonSpikingIFNode": f"it adds random noise, and {_POTENTIAL}",
    "NonSpikingBaseNode": _BASE,
    "NonSpikingIFNode": _POTENTIAL,
    "NonSpikingLIFNode": _POTENTIAL,
    "OutlierAwareThresholdNode": _FEW,
    "PSN": _PSN,
    "QIFNode": _QUADRATIC.format("quadratic"),
    "RAFNode": "it oscillates between two coupled potentials, a charge that no spec describes; use CUBALIFNode.",
    "STBIFNode": "it gives signed spikes of a quantiser's step, limited by a running count; use TernaryIFNode.",
    "SimpleBaseNode": _BASE,
    "SlidingPSN": _PSN,
    "BatchNormThroughTime1d": _TIME_NORM,
    "BatchNormThroughTime2d": _TIME_NORM,
    "BatchNormThroughTime3d": _TIME_NORM,
    "Delay": "it keeps the inputs of earlier steps; delay the data, or keep them in a loop over time in forward().",
    "DropConnectLinear": "it draws random samples in evaluation too; use layer.Linear, with layer.Dropout before it.",
    "ElementWiseRecurrentContainer": _RECURRENT.format("a function of yours"),
    "LinearRecurrentContainer": _RECURRENT.format("its layer rc"),
    "NeuNorm": "it subtracts a running average of all channels; use a batch norm.",
    "SynapseFilter": "it filters spikes into a current that leaks, and fires none itself; use CUBALIFNode.",
}
