"""Which forward modes a SpikingBert has."""

from __future__ import annotations

from typing import get_args

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models.bert.config import SpikingBertConfig
from snn_extreme_quant.neurons.equilibrium import Mode

__all__ = ["refuse_mode"]


def refuse_mode(config: SpikingBertConfig, mode: Mode) -> None:
    """Refuse a mode that a model of this configuration does not have.

    Raises:
        ConfigError: there is no such mode, or not with this schedule, profile or feedback.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"SpikingBert has no mode {mode!r}: use " + ", ".join(map(repr, get_args(Mode))) + ".")
    if mode == "surrogate" and config.schedule == "synchronous":
        raise ConfigError('The mode "surrogate" goes through time: build the model with schedule="step".')
    if mode == "equilibrium" and config.feedback and config.profile == "integer":
        raise ConfigError(
            'The mode "equilibrium" with feedback and profile="integer": softmax and norm by shifts jump, so there'
            ' may be no steady state. Use the mode "simulated", or profile="reference".'
        )
