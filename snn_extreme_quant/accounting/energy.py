"""An estimate of the energy of one pass of a SpikingBERT, from the spikes that were counted in it.

``docs/spiking_bert.md`` says what is counted and what is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn_extreme_quant.errors import ConfigError

__all__ = ["CONSTANTS", "BertSizes", "Energy", "Operations", "spiking_bert_energy"]

#: Joules an operation: 32-bit float in 45 nm, as SpikingBERT (Bal & Sengupta 2024, arXiv:2308.10873) takes them.
CONSTANTS = {"accumulation": 0.9e-12, "multiply_accumulate": 4.6e-12}


@dataclass(frozen=True)
class Operations:
    """Operations of a pass.

    Args:
        accumulations: additions of a weight, query or probability, one for each spike and target.
        macs: multiply-accumulates.
    """

    accumulations: int = 0
    macs: int = 0

    @property
    def joules(self) -> float:
        """Their energy by :data:`CONSTANTS`."""
        return self.accumulations * CONSTANTS["accumulation"] + self.macs * CONSTANTS["multiply_accumulate"]

    def __add__(self, other: Operations) -> Operations:
        """Add up."""
        return Operations(self.accumulations + other.accumulations, self.macs + other.macs)


@dataclass(frozen=True)
class Energy:
    """What a spiking pass takes, and a float BERT of the same sizes on the same texts.

    Args:
        spiking: operations of the spiking network.
        dense: of the float one.
    """

    spiking: Operations
    dense: Operations

    @property
    def ratio(self) -> float:
        """Energy relative to the float network."""
        return self.spiking.joules / self.dense.joules

    def __add__(self, other: Energy) -> Energy:
        """Add up."""
        return Energy(self.spiking + other.spiking, self.dense + other.dense)


@dataclass(frozen=True)
class BertSizes:
    """Sizes of a BERT, as :class:`~snn_extreme_quant.models.SpikingBertConfig` has them.

    Example:
        >>> BertSizes(layers=1, hidden=4, ffn=8, classes=2, pooled=False).dense(tokens=3).macs
        464
    """

    layers: int
    hidden: int
    ffn: int
    classes: int
    pooled: bool

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> BertSizes:
        """Read them from a configuration's dictionary.

        Raises:
            ConfigError: it lacks one.
        """
        try:
            sizes = {name: int(config[name]) for name in ("layers", "hidden", "ffn", "classes")}
            return cls(**sizes, pooled=config["head"] == "pooled")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"The configuration of a SpikingBert lacks {error}; save the model again.") from error

    def dense(self, tokens: int) -> Operations:
        """Return the operations of a float BERT on one text."""
        d, f = self.hidden, self.ffn
        encoder = self.layers * (tokens * (4 * d * d + 2 * d * f) + 2 * tokens * tokens * d)
        return Operations(macs=encoder + self.pooled * d * d + d * self.classes)


def spiking_bert_energy(
    sizes: BertSizes, tokens: int, spikes: Mapping[str, int], first: int = 0, passes: int = 1
) -> Energy:
    """Estimate the energy of one text.

    Args:
        sizes: of the network.
        tokens: of the text, without pads.
        spikes: by layer of neurons, how many spikes (of either sign) it gave in all time steps and tokens.
        first: those of the last layer at the first token, which the pooler reads.
        passes: how often scales and biases are applied: once on the synchronous schedule, T times step by step.

    Raises:
        ConfigError: a layer of neurons is missing in ``spikes``.

    Example:
        >>> sizes = BertSizes(layers=1, hidden=4, ffn=8, classes=2, pooled=False)
        >>> names = ("attention.key_neurons", "attention.value_neurons", "attention.neurons", "attention_neurons",
        ...          "intermediate_neurons", "neurons")
        >>> none = {"embeddings.neurons": 0, **{f"encoder.0.{name}": 0 for name in names}}
        >>> energy = spiking_bert_energy(sizes, 3, none)
        >>> energy.spiking.accumulations, energy.spiking.macs, energy.dense.macs
        (0, 92, 464)
    """
    d, f = sizes.hidden, sizes.ffn
    total, below = Operations(), "embeddings.neurons"
    try:
        for index in range(sizes.layers):
            layer = f"encoder.{index}."
            keys, values = spikes[f"{layer}attention.key_neurons"], spikes[f"{layer}attention.value_neurons"]
            accumulations = (
                3 * d * spikes[below]
                + tokens * (keys + values)
                + d * spikes[f"{layer}attention.neurons"]
                + f * spikes[f"{layer}attention_neurons"]
                + d * spikes[f"{layer}intermediate_neurons"]
            )
            total += Operations(accumulations, passes * tokens * (5 * d + f))
            below = f"{layer}neurons"
    except KeyError as error:
        raise ConfigError(f"The spikes of layer {error} are needed for an estimate of the energy.") from error
    if sizes.pooled:
        total += Operations(d * first, passes * d)
    return Energy(total + Operations(macs=d * sizes.classes), sizes.dense(tokens))
