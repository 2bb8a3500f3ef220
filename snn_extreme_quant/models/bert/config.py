"""What a SpikingBERT is made of: one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from snn_extreme_quant.config import PrecisionPlan
from snn_extreme_quant.models.config import WEIGHTS, ModelConfig, Weights, weights_from_data
from snn_extreme_quant.neurons.equilibrium_steps import GRID
from snn_extreme_quant.neurons.fixed_point_solvers import Failure, Method, Solver

__all__ = ["SpikingBertConfig"]

_MOST_SYNCHRONOUS, _MOST_STEPS = 128, 1024


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(type(layer) is int for layer in value)


@dataclass(frozen=True)
class SpikingBertConfig(ModelConfig):
    """Sizes, neurons, weights and profile of a :class:`~snn_extreme_quant.models.SpikingBert`.

    ``docs/spiking_bert.md`` says what each field means.

    Raises:
        ConfigError: a value, or a combination of values, that means nothing; the message names the field.

    Example:
        >>> config = SpikingBertConfig(layers=2, hidden=64, heads=4, ffn=128, weights="ternary")
        >>> SpikingBertConfig.from_dict(config.to_dict()) == config
        True
    """

    vocab: int = 30522
    positions: int = 512
    types: int = 2
    layers: int = 4
    hidden: int = 768
    heads: int = 12
    ffn: int = 3072
    classes: int = 2
    head: Literal["cls", "pooled"] = "cls"
    dropout: float = 0.1
    norm_eps: float = 1e-12
    T: int = 16
    schedule: Literal["synchronous", "step"] = "synchronous"
    signed: bool = True
    threshold: float = 1.0
    threshold_per: Literal["channel", "tensor"] = "channel"
    learn_thresholds: bool = True
    amplitude: Literal["threshold", "unit"] = "threshold"
    offset: bool = False
    leak: float = 1.0
    start: float = 0.0
    neurons: str | None = None
    feedback: tuple[tuple[int, int], ...] = ()
    solver: Method = "iteration"
    solver_tolerance: float = 1e-4
    solver_evaluations: int = 100
    solver_failure: Failure = "error"
    weights: Weights = "float"
    profile: Literal["reference", "integer"] = "reference"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        self._check_types()
        for name in ("vocab", "positions", "types", "layers", "hidden", "heads", "ffn", "classes", "T"):
            if getattr(self, name) < 1:
                self._refuse(name, "use 1 or more")
        if self.hidden % self.heads:
            self._refuse("heads", f"use a divisor of hidden={self.hidden}")
        if not 0.0 <= self.dropout < 1.0:
            self._refuse("dropout", "use a number from 0 to below 1")
        if self.norm_eps < 0.0:
            self._refuse("norm_eps", "use a number from 0")
        if not 0.0 < self.threshold < float("inf"):
            self._refuse("threshold", "use a positive number")
        if self.offset and (self.signed or self.amplitude == "unit"):
            self._refuse(
                "offset", "it is for {0,1} spikes that carry their threshold: signed=False, amplitude='threshold'"
            )
        weights_from_data(self.weights)
        self._check_schedule()
        self._check_feedback()

    def _check_schedule(self) -> None:
        if self.schedule == "synchronous":
            if self.T > _MOST_SYNCHRONOUS or self.T & (self.T - 1):
                self._refuse("T", "the synchronous schedule takes 1, 2, 4, 8, 16, 32, 64 or 128")
            for name, default in (("leak", 1.0), ("start", 0.0), ("neurons", None)):
                if getattr(self, name) != default:
                    self._refuse(name, f"only schedule='step' has it; leave it {default}, or use schedule='step'")
            if self.feedback:
                self._refuse(
                    "feedback",
                    "use schedule='step'; on the synchronous schedule a layer emits after it has taken in all steps of"
                    " its input, so layers in a cycle would wait for each other",
                )
            return
        if self.T > _MOST_STEPS:
            self._refuse("T", f"use at most {_MOST_STEPS}")
        if not 0.0 < self.leak <= 1.0:
            self._refuse("leak", "use a number above 0 and up to 1; 1 is no leak")
        if not (-1.0 < self.start < 1.0 and self.start * GRID == round(self.start * GRID)):
            self._refuse("start", f"use a multiple of 1/{GRID:.0f} between -1 and 1, such as 0.5")
        if self.neurons is not None and self.leak != 1.0:
            self._refuse("leak", f"the frameworks round leaks differently; use leak=1 with neurons={self.neurons!r}")
        if self.neurons == "snntorch" and self.signed:
            self._refuse("signed", "snnTorch has no signed neuron; use signed=False, or neurons=None or 'spikingjelly'")

    def _check_feedback(self) -> None:
        pairs: object = self.feedback
        if not isinstance(pairs, (tuple, list)) or not all(_is_pair(pair) for pair in pairs):
            self._refuse("feedback", "use pairs (from, to) of layers, such as ((6, 0),)")
        object.__setattr__(self, "feedback", tuple((int(source), int(target)) for source, target in self.feedback))
        for source, target in self.feedback:
            if not 0 <= target < source <= self.layers:
                self._refuse("feedback", f"use pairs (from, to) with from > to, from 0 to layers={self.layers}")
        if len(set(self.feedback)) < len(self.feedback):
            self._refuse("feedback", "name each pair once")
        if not 0.0 < self.solver_tolerance < float("inf"):
            self._refuse("solver_tolerance", "use a positive number")
        if self.solver_evaluations < 1:
            self._refuse("solver_evaluations", "use 1 or more")
        if self.feedback:
            return
        for field in fields(self):
            if field.name.startswith("solver") and getattr(self, field.name) != field.default:
                self._refuse(field.name, f"only feedback needs a solver; leave it {field.default!r}, or give feedback")

    @property
    def implicit_solver(self) -> Solver:
        """How the steady state with feedback is found."""
        tolerance, most = float(self.solver_tolerance), self.solver_evaluations
        return Solver(self.solver, tolerance, most, failure=self.solver_failure)

    @property
    def plan(self) -> PrecisionPlan:
        """The precisions as a plan over the names of layers."""
        weights = weights_from_data(self.weights)
        if isinstance(weights, PrecisionPlan):
            return weights
        config = WEIGHTS[weights] if isinstance(weights, str) else weights
        present = {"encoder.*": True, "pooler": self.head == "pooled", "feedback.*": bool(self.feedback)}
        return PrecisionPlan({name: config for name, there in present.items() if there})
