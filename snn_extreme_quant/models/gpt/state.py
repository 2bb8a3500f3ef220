"""What a SpikeGPT remembers of a text: tensors by name, the same for a text of any length."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_extreme_quant.checkpoints import not_finite, to_safetensors
from snn_extreme_quant.errors import CheckpointError, SampleError
from snn_extreme_quant.models.gpt.config import SpikeGPTConfig
from snn_extreme_quant.output_files import check_writable, write_whole

__all__ = ["SpikeGPTState", "given_state", "numpy_type", "state_shapes", "state_type"]

_FORMAT = "snn_extreme_quant.spike_gpt_state.1"
_ALWAYS = ("att_before", "ffn_before", "numerator", "denominator")
_BRANCHES = ("att_potential", "ffn_potential")
_READERS = (
    "att_key_potential", "att_value_potential", "att_receptance_potential", "att_output_potential",
    "ffn_key_potential", "ffn_receptance_potential",
)  # fmt: skip


def state_shapes(config: SpikeGPTConfig) -> dict[str, tuple[int, int]]:
    """Return layers and width of each tensor of a state, by its name.

    Example:
        >>> state_shapes(SpikeGPTConfig(layers=2, hidden=8, spiking=False))["numerator"]
        (2, 8)
    """
    names = (*_ALWAYS, *(_BRANCHES if config.spiking else ()))
    shapes = dict.fromkeys(names, (config.layers, config.hidden))
    if config.inputs == "spikes":
        shapes |= dict.fromkeys(_READERS, (config.layers, config.hidden))
        shapes |= {"ffn_value_potential": (config.layers, config.wide), "head_potential": (1, config.hidden)}
    return shapes


def state_type(config: SpikeGPTConfig, name: str) -> torch.dtype:
    """Return the type of a tensor of a state: float32, or whole numbers of 32 bits, and of 64 for the sums of wkv.

    Example:
        >>> state_type(SpikeGPTConfig(profile="integer"), "numerator")
        torch.int64
    """
    if config.profile == "reference":
        return torch.float32
    return torch.int64 if name in ("numerator", "denominator") else torch.int32


def numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    """Return numpy's type of a state's.

    Example:
        >>> numpy_type(torch.int64)
        dtype('int64')
    """
    return np.dtype(str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class SpikeGPTState:
    """A state; none of its tensors is ever changed.

    Args:
        tensors: each ``(layers, B, width)``, of :func:`state_type`; ``docs/spike_gpt.md`` has their names.

    Example:
        >>> state = SpikeGPTState.initial(SpikeGPTConfig(vocab=9, layers=1, hidden=4), 2)
        >>> sorted(state.tensors)[:2], state.batch
        (['att_before', 'att_potential'], 2)
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def initial(cls, config: SpikeGPTConfig, batch: int, device: torch.device | None = None) -> SpikeGPTState:
        """Return the state before a text: all 0; raises :class:`SampleError` if ``batch`` is no number from 1."""
        try:
            batch = operator.index(batch)
        except TypeError:
            batch = 0
        if batch < 1:
            raise SampleError("initial_state() takes how many sequences there are: a whole number from 1.")
        shapes = state_shapes(config).items()
        return cls(
            {
                name: torch.zeros(layers, batch, width, dtype=state_type(config, name), device=device)
                for name, (layers, width) in shapes
            }
        )

    @property
    def batch(self) -> int:
        """How many sequences."""
        return int(self._any().shape[1])

    def _any(self) -> Tensor:
        """Return the tensor that every state has."""
        if "numerator" not in self.tensors:
            raise SampleError("The state has no 'numerator', which every SpikeGPT's has: initial_state() makes one.")
        return self.tensors["numerator"]

    def rows(self, indices: Sequence[int] | Tensor) -> SpikeGPTState:
        """Return the state of some of the sequences, in that order; one may be named several times.

        Raises:
            SampleError: there are no such sequences, or none is named.
        """
        count, device = self.batch, self._any().device
        try:
            chosen = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError):
            chosen = torch.empty(0)
        if chosen.dtype == torch.bool and chosen.shape == (count,):
            chosen = chosen.nonzero()[:, 0]
        whole = chosen.dim() == 1 and chosen.numel() > 0 and chosen.dtype in (torch.int64, torch.int32)
        if not whole or int(chosen.min()) < -count or int(chosen.max()) >= count:
            raise SampleError(f"rows({indices!r}): name one sequence or more, by whole numbers from 0 to {count - 1}.")
        chosen = chosen.to(device)
        return SpikeGPTState({name: value[:, chosen] for name, value in self.tensors.items()})

    def detach(self) -> SpikeGPTState:
        """Return the state without its graph."""
        return SpikeGPTState({name: value.detach() for name, value in self.tensors.items()})

    def check(self, config: SpikeGPTConfig, batch: int) -> None:
        """Raise :class:`SampleError` if the state is not of that model and number of sequences."""
        shapes = state_shapes(config)
        for name in sorted({*shapes, *self.tensors}):
            if name not in shapes or name not in self.tensors:
                whose = "model" if name in shapes else "state"
                raise SampleError(f"The state is of another model: {name!r} is of the {whose} alone.")
            layers, width = shapes[name]
            value, dtype = self.tensors[name], state_type(config, name)
            if tuple(value.shape) != (layers, batch, width) or value.dtype != dtype:
                raise SampleError(
                    f"The state's {name!r} has shape {tuple(value.shape)} and type {value.dtype}; {batch} sequences of"
                    f" this model need {(layers, batch, width)} of {dtype}."
                )
        self._check_values()

    def _check_values(self) -> None:
        """Refuse NaN and infinity, which neurons would swallow; on the CPU alone: elsewhere a look would wait."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        name = not_finite((name, value) for name, value in self.tensors.items() if value.device.type == "cpu")
        if name is not None:
            raise SampleError(
                f"The state's {name!r} holds NaN or infinite values; begin the text anew, with initial_state(), by a"
                " model whose weights are finite."
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; raises :class:`OutputPathError` if that cannot be."""
        check_writable(Path(path))
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.tensors.items()}
        write_whole(Path(path), to_safetensors(tensors, {"format": "pt", "kind": _FORMAT}))

    @classmethod
    def load(cls, path: str | Path) -> SpikeGPTState:
        """Read what :meth:`save` wrote; raises :class:`CheckpointError` if it is something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="pt") as file:
                kind = (file.metadata() or {}).get("kind")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
        if kind != _FORMAT:
            raise CheckpointError(f"{path} is no state of a SpikeGPT of this version (SpikeGPTState.save()).")
        return cls(tensors)


def given_state(state: object, config: SpikeGPTConfig, batch: int) -> SpikeGPTState:
    """Return a state that was handed in; raises :class:`SampleError` if it is none of this model and these texts."""
    if isinstance(state, SpikeGPTState):
        state.check(config, batch)
        return state
    remedy = ""
    if isinstance(state, Mapping):
        remedy = " Make one: SpikeGPTState({name: torch.as_tensor(value) for name, value in state.items()})."
    raise SampleError(f"The state is a SpikeGPTState; got {type(state).__name__}.{remedy}")
