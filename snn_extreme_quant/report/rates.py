"""Average spiking rates of a SpikingBert as they settle over its time steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikingBert

__all__ = ["KINDS", "Convergence", "convergence", "kind_of"]

#: Sub-layers by the end of their names, as figures call them.
KINDS = {
    "embeddings.neurons": "input",
    "attention.key_neurons": "key",
    "attention.value_neurons": "value",
    "attention.neurons": "attention",
    "attention_neurons": "attention output",
    "intermediate_neurons": "intermediate",
    "pooler_neurons": "pooler",
    "neurons": "output",
}
_MOST_SYNCHRONOUS = 128
#: Texts whose rates are held at a time.
_AT_A_TIME = 8


def kind_of(layer: str) -> str:
    """Return which sub-layer a layer of neurons is.

    Example:
        >>> kind_of("encoder.3.attention.neurons"), kind_of("encoder.3.neurons")
        ('attention', 'output')
    """
    return next((kind for end, kind in KINDS.items() if layer.endswith(end)), layer)


@dataclass(frozen=True)
class Convergence:
    """Average spiking rates over time steps, and how far they are from those of the most steps.

    Args:
        steps: numbers of time steps, rising; the last one, which all are compared with, is left out.
        most: that last one.
        distance: by sub-layer, the mean over its layers, neurons and tokens of the absolute difference of rates.
        output: the same of the last encoder layer at the first token.
        rate: by sub-layer, the mean absolute rate after each of ``steps`` and after ``most``.
        output_rate: the same of the last encoder layer at the first token.
    """

    steps: tuple[int, ...]
    most: int
    distance: dict[str, tuple[float, ...]]
    output: tuple[float, ...]
    rate: dict[str, tuple[float, ...]]
    output_rate: tuple[float, ...]


@torch.no_grad()
def convergence(
    model: SpikingBert, ids: Tensor, mask: Tensor, most: int | None = None, types: Tensor | None = None
) -> Convergence:
    """Measure how rates settle.

    Args:
        model: on the schedule ``"step"`` its rates after each of ``most`` steps are taken from one run; on the
            synchronous one a run is made for each T, a power of two.
        ids: token ids ``(B, S)``.
        mask: 1 for tokens, 0 for pads.
        most: the last number of steps; default 128, or the model's T on the schedule ``"step"``.
        types: 1 for tokens of a second text, ``(B, S)``; default none.

    Raises:
        ConfigError: the synchronous schedule does not take that number.
    """
    synchronous = model.config.schedule == "synchronous"
    last = most or (_MOST_SYNCHRONOUS if synchronous else model.config.T)
    if synchronous and (last < 2 or last > _MOST_SYNCHRONOUS or last & (last - 1)):
        raise ConfigError(f"{last} steps: the synchronous schedule takes 2, 4, 8, 16, 32, 64 or 128.")
    steps = tuple(2**power for power in range(last.bit_length())) if synchronous else tuple(range(1, last + 1))
    training, mode, before = model.training, model.mode, model.config.T
    model.eval()
    model.mode = "simulated" if synchronous else "surrogate"
    distances, sizes = _Total(), _Total()
    try:
        for start in range(0, len(ids), _AT_A_TIME):
            kept = mask[start : start + _AT_A_TIME]
            length = int(kept.sum(1).max())
            given = [ids, mask, *([] if types is None else [types])]
            part, kept = [value[start : start + _AT_A_TIME, :length] for value in given], kept[:, :length]
            if synchronous:
                runs = [_run(model, part, T) for T in steps]
                rates = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
            else:
                rates = _after_each_step(_run(model, part, last), model.config.leak)
            distances.add({name: (value[:-1] - value[-1:]).abs() for name, value in rates.items()}, kept)
            sizes.add({name: value.abs() for name, value in rates.items()}, kept)
    finally:
        model.set_time_steps(before)
        model.mode = mode
        model.train(training)
    return Convergence(steps[:-1], last, distances.by_kind(), distances.output(), sizes.by_kind(), sizes.output())


class _Total:
    """Sums over batches of values of neurons, by layer and number of steps, and of how many."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.first, self.firsts = torch.zeros(()), 0

    def add(self, values: dict[str, Tensor], mask: Tensor) -> None:
        """Add a batch: values ``(steps, B, S, channels)``, or ``(steps, B, channels)``."""
        last = next(name for name in reversed(values) if kind_of(name) == "output")
        for name, value in values.items():
            if name == last:
                self.first = self.first + value[:, :, 0].flatten(1).sum(1)
                self.firsts += value[0, :, 0].numel()
            tokens = (value[:, mask.bool()] if value.dim() == 4 else value).flatten(1)
            self.sums[name] = self.sums.get(name, torch.zeros(())) + tokens.sum(1)
            self.counts[name] = self.counts.get(name, 0) + tokens.shape[1]

    def by_kind(self) -> dict[str, tuple[float, ...]]:
        """Return the means of sub-layers, over their layers."""
        found: dict[str, list[Tensor]] = {}
        for name, value in self.sums.items():
            found.setdefault(kind_of(name), []).append(value / self.counts[name])
        return {kind: tuple(torch.stack(means).mean(0).tolist()) for kind, means in found.items()}

    def output(self) -> tuple[float, ...]:
        """Return the mean of the last layer at the first token."""
        return tuple((self.first / self.firsts).tolist())


def _run(model: SpikingBert, given: list[Tensor], T: int) -> dict[str, Tensor]:
    model.set_time_steps(T)
    found: dict[str, Tensor] = {}
    with _watched(model, found.__setitem__):
        model(*given)
    return found


def _after_each_step(spikes: dict[str, Tensor], leak: float) -> dict[str, Tensor]:
    """Return the rates after each step: spikes weighted by the leak, as :func:`average_rate` does it for the last."""
    rates = {}
    for name, value in spikes.items():
        total, weight, so_far = torch.zeros_like(value[0]), 0.0, []
        for step in value:
            total, weight = leak * total + step, leak * weight + 1.0
            so_far.append(total / weight)
        rates[name] = torch.stack(so_far)
    return rates


@contextmanager
def _watched(model: SpikingBert, keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, neurons in model.named_neurons():

            def hook(_: Any, __: Any, output: Tensor, name: str = name) -> None:
                keep(name, output.detach())

            stack.callback(neurons.register_forward_hook(hook).remove)
        yield
