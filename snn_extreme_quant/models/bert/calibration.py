"""Thresholds and offsets from a teacher's currents, of which only a sample is ever kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Place", "best_range", "best_threshold", "sampled_currents"]

#: Thresholds tried, as fractions of the largest current; steps by which an end of a range is moved, each 1/32 of it;
#: how often both ends are.
_FRACTIONS, _STEPS, _ROUNDS = 32, 16, 3
#: Tokens that they are tried on, and bytes of them that are kept at a time.
_TOKENS, _BYTES = 2048, 256 * 2**20

#: Where a current is: the module that gives it, whether as its input, and how many channels it has.
Place = tuple[nn.Module, bool, int]


def best_threshold(current: Tensor, T: int, signed: bool, per_channel: bool) -> Tensor:
    r"""Return the threshold whose rates represent a current best.

    Of 32 fractions of the largest \|f\| it is the one that minimises the squared error of
    :math:`\vartheta\,\mathrm{clip}(\mathrm{round}(T f/\vartheta), 0, T) / T` (signed: from -T).

    Args:
        current: f, ``(N, channels)``.
        T: levels of a rate.
        signed: whether rates may be negative.
        per_channel: one threshold for each channel, else one.

    Returns:
        ``(channels,)``, or a scalar.

    Example:
        >>> best_threshold(torch.tensor([[0.5], [1.0]]), 2, False, True).tolist()
        [1.0]
    """
    largest = current.abs().amax(0) if signed else current.amax(0)
    largest = (largest if per_channel else largest.amax()).clamp_min(_LEAST)
    best, least = largest, torch.full_like(largest, torch.inf)
    for step in range(_FRACTIONS, 0, -1):
        threshold = largest * (step / _FRACTIONS)
        error = _error(current, threshold, T, -T if signed else 0)
        error = error if per_channel else error.sum()
        best, least = torch.where(error < least, threshold, best), torch.minimum(error, least)
    return best


_LEAST = 1e-4


def _error(current: Tensor, threshold: Tensor, T: int, lowest: int) -> Tensor:
    """Return the squared error of each channel."""
    rates = (current / threshold * T).round_().clamp_(lowest, T).mul_(threshold / T)
    return rates.sub_(current).square_().sum(0)


def best_range(current: Tensor, T: int, per_channel: bool) -> tuple[Tensor, Tensor]:
    r"""Return the offset and the threshold whose rates represent a current best: what {0,1} spikes need.

    They minimise the squared error of
    :math:`o + \vartheta\,\mathrm{clip}(\mathrm{round}(T (f - o)/\vartheta), 0, T)/T`: the ends of the range from the
    smallest to the largest current are moved inwards in turn, three times. With one threshold for all channels, it is
    a fraction of the widest range, around the middle of each channel's.

    Args:
        current: f, ``(N, channels)``.
        T: levels of a rate.
        per_channel: one threshold for each channel, else one.

    Returns:
        Offset ``(channels,)``, and threshold ``(channels,)`` or a scalar.

    Example:
        >>> offset, threshold = best_range(torch.tensor([[-1.0], [0.0], [1.0]]), 2, True)
        >>> offset.tolist(), threshold.tolist()
        ([-1.0], [2.0])
    """
    low, high = current.amin(0), current.amax(0)
    high = torch.maximum(high, low + _LEAST)
    if not per_channel:
        middle, widest = (low + high) / 2, (high - low).amax()
        return _best_around(current, middle, widest, T)
    least = _error(current - low, high - low, T, 0)
    for _ in range(_ROUNDS):
        width = (high - low) / _FRACTIONS
        for end, sign in ((low, 1.0), (high, -1.0)):
            start = end.clone()
            for step in range(1, _STEPS + 1):
                tried = start + sign * step * width
                bottom, top = (tried, high) if sign > 0 else (low, tried)
                fits = top - bottom >= width
                error = _error(current - bottom, torch.where(fits, top - bottom, width), T, 0)
                better = fits & (error < least)
                end.copy_(torch.where(better, tried, end))
                least = torch.where(better, error, least)
    return low, high - low


def _best_around(current: Tensor, middle: Tensor, widest: Tensor, T: int) -> tuple[Tensor, Tensor]:
    best, least = widest, torch.full_like(widest, torch.inf)
    for step in range(_FRACTIONS, 0, -1):
        threshold = widest * (step / _FRACTIONS)
        error = _error(current - (middle - threshold / 2), threshold, T, 0).sum()
        best, least = torch.where(error < least, threshold, best), torch.minimum(error, least)
    return middle - best / 2, best


def sampled_currents(
    trunk: Any, batches: Sequence[tuple[Tensor, Tensor, Tensor]], places: Mapping[str, Place]
) -> Iterator[tuple[str, Tensor]]:
    """Yield what a teacher computes at each place, for tokens spread evenly over all batches.

    Args:
        trunk: the teacher without its head.
        batches: token ids, masks and types.
        places: where, by name.

    Yields:
        A name, and up to 2048 tokens ``(N, channels)`` that are no pads (or as many sentences, for a current that
        each sentence has one of), in the order of ``places``. The teacher runs once for as many places as fit in
        256 MB.
    """
    group: dict[str, Place] = {}
    for name, place in places.items():
        if group and sum(size for *_, size in (*group.values(), place)) * _TOKENS * 4 > _BYTES:
            yield from _run(trunk, batches, group)
            group = {}
        group[name] = place
    yield from _run(trunk, batches, group)


def _run(
    trunk: Any, batches: Sequence[tuple[Tensor, Tensor, Tensor]], places: Mapping[str, Place]
) -> Iterator[tuple[str, Tensor]]:
    found: dict[str, list[Tensor]] = {name: [] for name in places}
    tokens = _Spread(sum(int(mask.sum()) for _, mask, _ in batches))
    sentences = _Spread(sum(len(mask) for _, mask, _ in batches))
    with ExitStack() as stack, torch.no_grad():
        for name, (module, before, _) in places.items():

            def keep(_: Any, given: Any, output: Any, name: str = name, before: bool = before) -> None:
                value = (given[0] if before else output).detach()
                rows = value[tokens.mask] if value.dim() == 3 else value
                found[name].append(rows[tokens.kept if value.dim() == 3 else sentences.kept].float())

            stack.callback(module.register_forward_hook(keep).remove)
        for ids, mask, types in batches:
            tokens.take(int(mask.sum()), mask.bool())
            sentences.take(len(mask), mask.bool())
            trunk(input_ids=ids, attention_mask=mask, token_type_ids=types)
    for name in places:
        yield name, torch.cat(found.pop(name))


class _Spread:
    """Which rows of each batch are among those spread evenly over all of them."""

    def __init__(self, count: int) -> None:
        kept = min(count, _TOKENS)
        self.places = torch.arange(kept) * count // kept
        self.start, self.kept, self.mask = 0, self.places, torch.ones(())

    def take(self, rows: int, mask: Tensor) -> None:
        """Go on by a batch of that many rows."""
        inside = (self.places >= self.start) & (self.places < self.start + rows)
        self.kept, self.mask = self.places[inside] - self.start, mask
        self.start += rows
