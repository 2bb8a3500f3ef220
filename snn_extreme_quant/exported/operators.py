"""The names of the operators of domain ``snn.extreme_quant``."""

from __future__ import annotations

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "KINDS",
    "LANGUAGE",
    "LANGUAGE_INTEGERS",
    "LAYER_PREFIXES",
    "TOKEN_INTEGERS",
    "is_integer_neuron",
    "is_language",
    "is_language_integer",
    "is_layer",
    "is_neuron",
    "is_token_integer",
    "is_token_neuron",
    "layout_of",
]

DOMAIN = "snn.extreme_quant"
DOMAIN_VERSION = 1

#: What operators are called after a packing layout.
KINDS = {
    "binary8": "Binary",
    "ternary4": "Ternary",
    "ternary5": "Ternary5",
    **{f"int{bits}": f"Int{bits}" for bits in range(3, 17)},
}
LAYER_PREFIXES = tuple(KINDS.values())
#: Layers of synchronous neurons in integer files of models of tokens: they give counts, or the spikes of all steps.
_TOKEN_NEURONS = ("IntCounts", "IntCountsSigned", "IntCountsWide", "IntSpikes", "IntSpikesSigned")
#: What integer files of models of tokens compute with beside integer sums.
TOKEN_INTEGERS = (
    *_TOKEN_NEURONS, "IntScale", "IntResidual", "IntShiftNorm", "IntShiftSoftmax",
    "IntProduct", "IntProductSigned", "IntProductWide",
)  # fmt: skip

#: What files of language models compute with beside packed layers and neurons.
LANGUAGE = ("ExactSigmoid", "TokenNorm", "WeightedAverage", "StepWeightedAverage", "FloatLinearRounded")
#: What integer files of language models compute with beside those of integer files of models of tokens.
LANGUAGE_INTEGERS = (
    "IntTokenNorm", "IntHalves", "IntGated", "IntSquared", "IntWeightedAverage", "StepIntWeightedAverage",
)  # fmt: skip


def is_language(operator: str) -> bool:
    """Whether an operator of our domain is one of language models.

    Example:
        >>> is_language("WeightedAverage"), is_language("TernaryLinearRounded")
        (True, False)
    """
    return operator in LANGUAGE


def is_language_integer(operator: str) -> bool:
    """Whether an operator of our domain is one of integer files of language models."""
    return operator in LANGUAGE_INTEGERS


def is_layer(operator: str) -> bool:
    """Whether an operator of our domain is a packed layer (or, of integers, a pooling)."""
    return operator.startswith((*LAYER_PREFIXES, "SumPoolInteger"))


def is_integer_neuron(operator: str) -> bool:
    """Whether an operator of our domain is a layer of fixed-point neurons."""
    return operator.startswith(("IntLIF_", "StepIntLIF_"))


def is_neuron(operator: str) -> bool:
    """Whether an operator of our domain is a layer of neurons (all steps, or one)."""
    return operator.startswith(("LIF_", "StepLIF_")) or is_integer_neuron(operator)


def is_token_integer(operator: str) -> bool:
    """Whether an operator of our domain is one of integer files of models of tokens, no integer sum.

    Example:
        >>> is_token_integer("IntShiftNorm"), is_token_integer("ShiftNorm")
        (True, False)
    """
    return operator in TOKEN_INTEGERS


def is_token_neuron(operator: str) -> bool:
    """Whether it is a layer of synchronous neurons among those."""
    return operator in _TOKEN_NEURONS


def layout_of(operator: str) -> str:
    """Return the packing layout of a packed layer's operator, known by its longest prefix; "" where nothing is packed.

    Example:
        >>> layout_of("TernaryLinear"), layout_of("Ternary5Conv")
        ('ternary4', 'ternary5')
    """
    packings = (name for name, kind in KINDS.items() if operator.startswith(kind))
    return max(packings, key=lambda name: len(KINDS[name]), default="")
