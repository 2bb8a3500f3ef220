"""An estimate of the energy that a SpikeGPT takes for some tokens, from the spikes that were counted in them.

``docs/spike_gpt.md`` (Energy, estimated) says what is counted and what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from snn_extreme_quant.accounting.energy import CONSTANTS, Operations
from snn_extreme_quant.errors import ConfigError

__all__ = ["Elementwise", "GptEnergy", "GptSizes", "spike_gpt_energy"]

#: Joules: a multiply-accumulate is a multiplication and an addition.
_MULTIPLICATION = CONSTANTS["multiply_accumulate"] - CONSTANTS["accumulation"]


@dataclass(frozen=True)
class Elementwise:
    """Operations on single numbers, which are no matrix products.

    Args:
        multiplications: of two numbers.
        additions: of two numbers; subtractions too.
        divisions: of two numbers.
        exponentials: e^x.
        roots: square roots.
    """

    multiplications: int = 0
    additions: int = 0
    divisions: int = 0
    exponentials: int = 0
    roots: int = 0

    @property
    def joules(self) -> float:
        """The energy of multiplications and additions; the constants' source has none of the other operations."""
        return self.multiplications * _MULTIPLICATION + self.additions * CONSTANTS["accumulation"]

    def times(self, count: int) -> Elementwise:
        """Return as many for each of ``count`` places."""
        return Elementwise(*(count * number for number in self._numbers()))

    def __add__(self, other: Elementwise) -> Elementwise:
        """Add up."""
        return Elementwise(*(a + b for a, b in zip(self._numbers(), other._numbers(), strict=True)))

    def _numbers(self) -> tuple[int, ...]:
        return (self.multiplications, self.additions, self.divisions, self.exponentials, self.roots)


@dataclass(frozen=True)
class GptEnergy:
    """What a SpikeGPT takes for some tokens.

    Args:
        products: operations of its matrix products.
        dense: of those of a float RWKV of the same sizes, which multiplies everything.
        elementwise: all other operations, by part.
    """

    products: Operations
    dense: Operations
    elementwise: Mapping[str, Elementwise]

    @property
    def ratio(self) -> float:
        """Energy of the products relative to the float network's products."""
        return self.products.joules / self.dense.joules


@dataclass(frozen=True)
class GptSizes:
    """Sizes of a SpikeGPT that is a language model, as :class:`~snn_extreme_quant.models.SpikeGPTConfig` has them.

    Example:
        >>> GptSizes(vocab=10, layers=1, hidden=4, ffn=16, spiking=True, inputs="norms").dense(tokens=2).macs
        496
    """

    vocab: int
    layers: int
    hidden: int
    ffn: int
    spiking: bool
    inputs: str

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> GptSizes:
        """Read them from a configuration's dictionary, ``model.config.to_dict()``.

        Raises:
            ConfigError: it lacks one, or is a classifier's.
        """
        try:
            if config["head"] != "tokens":
                raise ConfigError(
                    f"The estimate is for language models, with a row of the head for each token; this SpikeGPT has"
                    f" head={config['head']!r}."
                )
            sizes = {name: int(config[name]) for name in ("vocab", "layers", "hidden", "ffn")}
            sizes["ffn"] = sizes["ffn"] or 4 * sizes["hidden"]
            return cls(**sizes, spiking=bool(config["spiking"]), inputs=str(config["inputs"]))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"The configuration of a SpikeGPT lacks {error}; save the model again.") from error

    def products(self) -> Iterator[tuple[str, int, int]]:
        """Yield each matrix product of a token: the neurons that it reads of ``inputs="spikes"``, inputs, outputs."""
        d, f = self.hidden, self.ffn
        for layer in range(self.layers):
            for name in ("key", "value", "receptance", "output"):
                yield f"blocks.{layer}.att.readers.{name}", d, d
            for name, inputs, outputs in (("key", d, f), ("receptance", d, d), ("value", f, d)):
                yield f"blocks.{layer}.ffn.readers.{name}", inputs, outputs
        yield "head_neurons", d, self.vocab

    def dense(self, tokens: int) -> Operations:
        """Return the operations of the products of a float network."""
        return Operations(macs=tokens * sum(inputs * outputs for _, inputs, outputs in self.products()))

    def elementwise(self, tokens: int) -> dict[str, Elementwise]:
        """Return all operations but the products', by part."""
        places, norms = tokens * self.layers, tokens * (2 * self.layers + 2)
        d, f = self.hidden, self.ffn
        neurons = 2 * d * self.layers * self.spiking
        if self.inputs == "spikes":
            neurons += sum(inputs for _, inputs, _ in self.products())
        return {
            "token shift": Elementwise(multiplications=2, additions=1).times(places * 5 * d),
            "wkv": Elementwise(5, 4, 1, 1).times(places * d),
            "gates": Elementwise(1, 1, 1, 1).times(places * 2 * d),
            "squares": Elementwise(multiplications=1).times(places * f),
            "norms": Elementwise(3, 4).times(norms * d) + Elementwise(divisions=1, roots=1).times(norms),
            "stream": Elementwise(additions=2).times(places * d),
            "neurons": Elementwise(multiplications=2, additions=1).times(tokens * neurons),
        }


def spike_gpt_energy(sizes: GptSizes, tokens: int = 1, spikes: Mapping[str, float] | None = None) -> GptEnergy:
    """Estimate the energy of some tokens of one text.

    Args:
        sizes: of the model.
        tokens: how many; each takes the same but for its spikes.
        spikes: of ``inputs="spikes"``: by layer of neurons before a product, how many spikes it gave in these tokens.
            ``inputs="norms"`` needs none: its products read real numbers.

    Raises:
        ConfigError: a layer of neurons is missing in ``spikes``, or ``tokens`` is no number from 1.

    Example:
        >>> sizes = GptSizes(vocab=10, layers=1, hidden=4, ffn=16, spiking=True, inputs="spikes")
        >>> spikes = {name: 3 for name, _, _ in sizes.products()}
        >>> energy = spike_gpt_energy(sizes, 2, spikes)
        >>> energy.products.accumulations, energy.products.macs, energy.dense.macs
        (150, 0, 496)
    """
    if tokens < 1:
        raise ConfigError(f"spike_gpt_energy(tokens={tokens}): use a number from 1.")
    dense = sizes.dense(tokens)
    if sizes.inputs != "spikes":
        return GptEnergy(dense, dense, sizes.elementwise(tokens))
    try:
        added = sum((spikes or {})[name] * outputs for name, _, outputs in sizes.products())
    except KeyError as error:
        raise ConfigError(f"The spikes of layer {error} are needed for an estimate of the energy.") from error
    return GptEnergy(Operations(accumulations=round(added)), dense, sizes.elementwise(tokens))
