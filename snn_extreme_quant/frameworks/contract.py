"""The contract between this package and a plugin for a spiking framework.

A plugin is an object that satisfies :class:`Framework`, published by its distribution under the entry-point group
``snn_extreme_quant.frameworks``. It must be importable without its framework: import the framework inside methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons import NeuronSpec

__all__ = ["API_VERSION", "Framework", "NeuronReading"]

#: The version of this contract. A plugin states the version it was written for; only equal versions load.
API_VERSION = 2


@dataclass(frozen=True)
class NeuronReading:
    """A framework's neuron, read: what it computes, with which numbers, and how it is called.

    Args:
        spec: what it computes.
        parameters: float32 tensors for ``spec.parameter_names``, each of a shape that broadcasts to one step's input.
        initial: value of each state after a reset; 0 for those not named.
        multi_step: a call takes a whole sequence ``(T, ...)``; else one step.
        returns_state: a call gives ``(spikes, *states)``; else spikes alone.
        arguments: names of the states in the order in which a call takes them after the input, and returns them after
            the spikes (there without ``s``, which are the spikes); by default ``spec.states``. The name
            ``v_before`` stands for the membrane potential before the step, which is returned and not needed.
        grouped: the states are passed and returned as one tuple.
        recurrent: the layer inside the neuron that carries its spikes back (``spec.feedback`` linear or conv).
        attributes: by state, the neuron's attribute that holds it after a call, for models that read it there; the name
            ``v_sequence`` stands for the potentials after all steps of a multi-step call.

    Raises:
        ConfigError: parameters, states or layer and spec do not fit.
    """

    spec: NeuronSpec
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    multi_step: bool = False
    returns_state: bool = False
    arguments: tuple[str, ...] = ()
    grouped: bool = False
    recurrent: nn.Module | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.parameters) != set(self.spec.parameter_names):
            raise ConfigError(
                f"{self.spec.operator} has the parameters {self.spec.parameter_names}; got {tuple(self.parameters)}."
            )
        values: Mapping[str, Any] = self.parameters  # a plugin's: not checked by mypy
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.requires_grad:
                found = (
                    f"{value.dtype}, requires_grad={value.requires_grad}" if isinstance(value, Tensor) else repr(value)
                )
                raise ConfigError(f"Parameter {name!r} must be a detached float32 tensor; got {found}.")
        if not self.arguments:
            object.__setattr__(self, "arguments", self.spec.states)
        if {*self.arguments} - {"v_before"} != {*self.spec.states}:
            raise ConfigError(f"{self.spec.operator} has the states {self.spec.states}; got {self.arguments}.")
        if {*self.initial} - {*self.spec.states}:
            raise ConfigError(f"{self.spec.operator} has the states {self.spec.states}; got {tuple(self.initial)}.")
        unknown = {*self.attributes} - {*self.spec.states, "v_before", "v_sequence"}
        if unknown:
            raise ConfigError(f"{self.spec.operator} has the states {self.spec.states}; not {min(unknown)!r}.")
        if (self.recurrent is not None) != (self.spec.feedback in ("linear", "conv")):
            raise ConfigError(f"{self.spec.operator} and a recurrent layer {self.recurrent!r} do not go together.")

    @property
    def returned(self) -> tuple[str, ...]:
        """Names of the states that a call returns after the spikes."""
        return tuple(name for name in self.arguments if name != "s")

    def initial_state(self) -> dict[str, Tensor]:
        """Return the state after a reset, a scalar for each of ``spec.states``."""
        return {name: torch.full((), float(self.initial.get(name, 0.0))) for name in self.spec.states}


@runtime_checkable
class Framework(Protocol):
    """A spiking framework, as this package sees it."""

    #: Short lower-case name (``"snntorch"``); also the extra that installs it.
    name: str
    #: The :data:`API_VERSION` the plugin was written for.
    api_version: int
    #: What must be installed, as a requirement string (``"snntorch>=1.0,<2"``).
    requirement: str
    #: The command that installs it.
    install: str
    #: Names of the methods by which the framework's neurons are reset.
    reset_methods: Sequence[str]

    def is_available(self) -> bool:
        """Whether the framework can be imported. Must not raise."""

    def neuron_classes(self) -> Sequence[type[nn.Module]]:
        """The classes :meth:`read_neuron` can read."""

    def unreadable_neurons(self) -> Mapping[str, str]:
        """Names of the framework's other neuron classes, each with the reason why it cannot be read."""

    def is_neuron(self, module: nn.Module) -> bool:
        """Whether ``module`` is a neuron of this framework, readable or not."""

    def read_neuron(self, module: nn.Module) -> NeuronReading:
        """Read a neuron.

        Raises:
            UnsupportedNeuronError: the class, or an option it is built with, has no exact spec; the message says which
                and what to use instead.
        """

    def layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Float layer classes of the framework's own, each with the quantised class that takes its place.

        The quantised classes derive from :class:`snn_extreme_quant.layers.IntegerFirst`.
        """

    def inner_layers(self, module: nn.Module) -> Sequence[str]:
        """Names of the layers inside a neuron that it calls as modules, so that they can be swapped like others."""

    def reset(self, model: nn.Module) -> None:
        """Put every neuron of this framework in ``model``, however deeply nested, into its initial state."""

    def get_state(self, module: nn.Module) -> Any:
        """Return the state of one neuron, for :meth:`set_state`."""

    def set_state(self, module: nn.Module, state: Any) -> None:
        """Put one neuron back into a state that :meth:`get_state` gave."""

    def after_swap(self, model: nn.Module) -> None:
        """Do what the framework needs after modules of ``model`` were replaced (clear its caches)."""

    def capturing(self) -> AbstractContextManager[object]:
        """Return a context in which a model's forward can be traced without side effects on the framework."""
