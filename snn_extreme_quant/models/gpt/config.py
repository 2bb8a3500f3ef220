"""What a SpikeGPT is made of: one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from snn_extreme_quant.config import Binary, Float, PrecisionPlan, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models.config import WEIGHTS, ModelConfig, Weights, weights_from_data

__all__ = ["SpikeGPTConfig", "check_signs"]

_MOST_WIDTH = 4096
#: Currents of 22 bits, times this, are potentials of less than 2^30.
_MOST_TAU = 128.0


def check_signs(given: WeightConfig) -> None:
    """Raise :class:`ConfigError` if a precision changes signs, which are all that a binarised embedding has."""
    if not (isinstance(given, Float) or (isinstance(given, Binary) and not given.center)):
        raise ConfigError(
            f"The layer 'emb' has {given!r}, which changes signs, and of a binarised embedding only the signs matter: a"
            " code of 0 counts as positive. Give it Binary() or Float(), or build the model with"
            " binary_embedding=False; set_weights('ternary') does that by itself."
        )


@dataclass(frozen=True)
class SpikeGPTConfig(ModelConfig):
    """Sizes, neurons, head and weights of a :class:`~snn_extreme_quant.models.SpikeGPT`.

    ``docs/spike_gpt.md`` says what each field means.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing; the message names the field.

    Example:
        >>> config = SpikeGPTConfig(vocab=64, layers=2, hidden=32, weights="ternary")
        >>> SpikeGPTConfig.from_dict(config.to_dict()) == config
        True
    """

    vocab: int = 50277
    layers: int = 18
    hidden: int = 768
    ffn: int = 0
    head: Literal["tokens", "mean", "last"] = "tokens"
    classes: int = 2
    tied: bool = False
    binary_embedding: bool | None = None
    spiking: bool = True
    inputs: Literal["norms", "spikes"] = "norms"
    input_threshold: float = 0.5
    tau: float = 2.0
    detach_reset: bool = False
    neurons: str | None = None
    dropout: float = 0.03
    norm_eps: float = 1e-5
    weights: Weights = "float"
    profile: Literal["reference", "integer"] = "reference"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        self._check_types()
        for name, least in (("vocab", 1), ("layers", 1), ("hidden", 2), ("ffn", 0), ("classes", 1)):
            if getattr(self, name) < least:
                self._refuse(name, f"use {least} or more")
        if self.hidden > _MOST_WIDTH:
            self._refuse("hidden", f"use at most {_MOST_WIDTH}: norms of wider ones are not exact")
        if not 0.0 <= self.dropout < 1.0:
            self._refuse("dropout", "use a number from 0 to below 1")
        if not 0.0 < self.norm_eps < float("inf"):
            self._refuse("norm_eps", "use a positive number")
        if not 0.0 < self.input_threshold < float("inf"):
            self._refuse("input_threshold", "use a positive number")
        if not 1.0 < self.tau < float("inf"):
            self._refuse("tau", "use a number above 1, in tokens")
        self._check_neurons()
        self._check_embedding()
        self._check_profile()

    def _check_types(self) -> None:
        super()._check_types()
        if self.binary_embedding is not None and type(self.binary_embedding) is not bool:
            self._refuse("binary_embedding", "use None, True or False")

    def _check_neurons(self) -> None:
        if not self.spiking:
            for name, default in (("inputs", "norms"), ("neurons", None), ("detach_reset", False)):
                if getattr(self, name) != default:
                    self._refuse(name, f"spiking=False has no neurons; leave it {default!r}")
        if self.neurons is not None and self.tau != 2.0:
            self._refuse(
                "tau", f"the frameworks round other leaks differently; use tau=2 with neurons={self.neurons!r}"
            )
        if self.neurons is not None and self.detach_reset:
            self._refuse("detach_reset", "a framework's neuron has a gradient of its own; leave it False")

    def _check_embedding(self) -> None:
        if self.tied and self.head != "tokens":
            self._refuse("tied", f"only head='tokens' has a row for each token, not head={self.head!r}")
        weights = weights_from_data(self.weights)
        if self.binarised and isinstance(weights, PrecisionPlan):
            check_signs(weights.config_for("emb"))

    def _check_profile(self) -> None:
        """Refuse what has no form in whole numbers."""
        if self.profile == "reference":
            return
        for name, wanted in (("spiking", True), ("inputs", "norms"), ("neurons", None)):
            if getattr(self, name) != wanted:
                self._refuse(name, f"profile='integer' is for {name}={wanted!r}; use that, or profile='reference'")
        if not self.binarised:
            self._refuse("binary_embedding", "profile='integer' reads the bits of a binarised embedding; leave it out")
        if self.tau > _MOST_TAU:
            self._refuse("tau", f"potentials of profile='integer' fit 32 bits up to tau={_MOST_TAU:g}")

    @property
    def binarised(self) -> bool:
        """Whether the embedding goes through the unit step."""
        return self.spiking if self.binary_embedding is None else self.binary_embedding

    @property
    def fixed_precisions(self) -> dict[str, tuple[WeightConfig, str]]:
        """By layer the precision that it gets whatever is asked for, and why; for the search of precisions."""
        why = "only the signs of a binarised embedding are read: Binary() loses nothing"
        return {"emb": (Binary(), why)} if self.binarised else {}

    @property
    def wide(self) -> int:
        """The width within SRFFN."""
        return self.ffn or 4 * self.hidden

    @property
    def outputs(self) -> int:
        """Rows of the head."""
        return self.vocab if self.head == "tokens" else self.classes

    @property
    def plan(self) -> PrecisionPlan:
        """The precisions as a plan over the names of layers."""
        weights = weights_from_data(self.weights)
        if isinstance(weights, PrecisionPlan):
            return weights
        config = WEIGHTS[weights] if isinstance(weights, str) else weights
        if isinstance(config, Float):
            return PrecisionPlan()
        return PrecisionPlan({"emb": Binary() if self.binarised else config, "blocks.*": config, "head": config})
