"""The verdict on one layer: whether its sums fit what float32 adds exactly, and why not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from snn_extreme_quant.deploy.recording.grid import BYTE, MANTISSA, Grid, joined
from snn_extreme_quant.quantizers.packing import LAYOUTS, unpack

__all__ = ["LayerExactness", "StoredWeight", "add_verdict", "judge"]


@dataclass(frozen=True)
class LayerExactness:
    """What is guaranteed of one quantised layer's sums or one neuron layer's spikes.

    Args:
        exact: the same bits on every runtime.
        reason: why, or why not.
        grid: the grid of a quantised layer's input, over all its calls, if it is on one.
        reach: the largest sum of magnitudes of the codes of one output.
        fan_in: how many products a sum has.
    """

    exact: bool
    reason: str
    grid: Grid | None = None
    reach: int = 0
    fan_in: int = 0

    @property
    def fits(self) -> bool:
        """Whether the layer's sums fit the 24 bits of a float32."""
        return self.grid is not None and self.reach * self.grid.units < 2**MANTISSA

    @property
    def unsigned_byte(self) -> bool:
        """Whether a layer's input is an unsigned 8-bit integer on its grid, and its sums exact."""
        return self.grid is not None and self.grid.low == 0 and self.grid.units <= BYTE and self.fits

    @property
    def signed_byte(self) -> bool:
        """Whether a layer's input is a signed 8-bit integer on its grid (without -128), and its sums exact."""
        return self.grid is not None and self.grid.units <= BYTE // 2 and self.fits


@dataclass(frozen=True)
class StoredWeight:
    """The stored codes of a layer."""

    packed: Tensor
    outputs: int
    layout: str

    @property
    def fan_in(self) -> int:
        """How many products a sum has: the rows of the packed codes."""
        return int(self.packed.shape[0])

    @property
    def reach(self) -> int:
        """The largest sum of magnitudes of the codes of one output."""
        if LAYOUTS[self.layout].largest == 1:
            return self.fan_in
        codes = unpack(self.packed.numpy(), self.outputs, self.layout)
        return int(abs(codes.astype("int64")).sum(0).max(initial=0))


def add_verdict(into: dict[str, LayerExactness], name: str, verdict: LayerExactness) -> None:
    """Add the verdict of one more call of a layer to those of the others: what holds for all of them."""
    known = into.get(name)
    if known is None:
        into[name] = verdict
        return
    worse = verdict if known.exact else known
    grid = joined([known.grid, verdict.grid])
    exact = known.exact and verdict.exact
    reason = _sums(known.fan_in, grid) if exact and grid is not None else worse.reason
    into[name] = LayerExactness(exact, reason, grid, max(known.reach, verdict.reach), known.fan_in)


def _sums(fan_in: int, grid: Grid) -> str:
    return f"sums of {fan_in} {grid}"


def judge(known: Grid | None, why_not: str, weight: StoredWeight) -> LayerExactness:
    """Return what is guaranteed of one call.

    Args:
        known: the grid of the layer's input, or None.
        why_not: why the input is not reproducible; empty if it is.
        weight: the layer's codes.
    """
    if known is None:
        reason = why_not or "sums real numbers, in an order that a runtime may choose"
        return LayerExactness(False, reason, None, weight.reach, weight.fan_in)
    verdict = LayerExactness(True, _sums(weight.fan_in, known), known, weight.reach, weight.fan_in)
    if why_not:
        return replace(verdict, exact=False, reason=why_not)
    if not verdict.fits:
        reason = f"sums {weight.fan_in} inputs, which may need more than {MANTISSA} bits"
        return replace(verdict, exact=False, reason=reason)
    return verdict
