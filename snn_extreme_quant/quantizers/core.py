r"""What all weight quantisers share: codes and scales apart, one gradient, scales that can be learned or fixed.

A quantiser here has two faces. :meth:`WeightQuant.integer` gives codes and scale apart, which is what an
integer-first layer needs: :math:`y = (x \cdot c)\,\gamma`. :meth:`WeightQuant.forward` gives what Brevitas expects of
a ``tensor_quant``: the product, scale, zero point and bit width.

Gradient: :math:`\partial L/\partial W := \partial L/\partial \hat W` with :math:`\hat W = \gamma c` and the scale
(and the mean, where there is one) taken as constants, as BitNet trains. The stock Brevitas binary and ternary classes
multiply it by the scale and add the scale's own gradient. Learned scales follow LSQ (see ``gradients``).

Scales come from float64 sums, rounded once to the weight's type: they do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.gradients import learned_scale, straight_through
from snn_extreme_quant.quantizers.granularity import Granularity

__all__ = ["Options", "WeightQuant"]

#: The least scale where nothing else is said: it keeps an all-zero channel finite.
LEAST_SCALE = 1e-5


class Options(NamedTuple):
    """How a quantiser finds its scales.

    Args:
        per: ``"tensor"``, ``"channel"`` or ``"group"``.
        group_size: inputs in a group.
        scale: name of the statistic, or ``"learned"``.
        least: the least scale.
        output_axis: the weight's output axis in the Brevitas layer (1 for its transposed convolutions).
        weights: the weight parameters, whose shape a learned scale takes its own from.
    """

    per: str
    group_size: int | None = None
    scale: str = ""
    least: float = LEAST_SCALE
    output_axis: int = 0
    weights: Sequence[Tensor] = ()


class WeightQuant(nn.Module):
    r"""Base of the weight quantisers; a subclass says how statistic and codes are computed.

    Weights are *canonical*: output axis first, ``(N, K, ...)``.
    """

    bits: int
    #: The largest code, and the name of the layout in which codes are packed.
    largest: int = 1
    layout: str
    #: Used instead of the statistic once :meth:`fix_scale` was called; in the state dict from then on.
    fixed_scale: Tensor | None
    #: The trained parameter of a learned scale.
    scaling: nn.Parameter | None
    #: The shapes ``(R, G)`` and ``(N, G)`` that scales may have, once :meth:`reset_scale` told the weight.
    _shapes: tuple[tuple[int, int], ...] = ()

    def __init__(self, options: Options) -> None:
        """Remember how scales are found; create the parameter of a learned one."""
        super().__init__()
        self.granularity = Granularity(options.per, options.group_size)
        self.scale = options.scale
        self.scaling_min_val = options.least
        self.output_axis = options.output_axis
        self.register_buffer("fixed_scale", None)
        self.register_parameter("scaling", None)
        if options.scale == "learned":
            if not options.weights:
                raise ConfigError("A learned scale needs the weight it starts from: give weights=[weight].")
            self.reset_scale(options.weights[0].movedim(options.output_axis, 0))

    # To be given by a scheme.

    def statistic(self, weight: Tensor) -> Tensor:
        """Return the scale of each block, ``(R, G)``, positive or 0, computed in float64."""
        raise NotImplementedError

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the codes of ``weight``, in its shape and dtype, for a scale that broadcasts to it."""
        raise NotImplementedError

    def inside(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        """Return where a learned scale has the gradient of rounding; None if nowhere."""
        return None

    # Scales.

    def _allowed(self, weight: Tensor) -> tuple[tuple[int, int], ...]:
        rows, groups = self.granularity.shape(weight)
        return (rows, groups), (weight.shape[0], groups)

    def _bounded(self, statistic: Tensor, weight: Tensor) -> Tensor:
        return statistic.to(weight.dtype).clamp_min(self.scaling_min_val)

    def _scale(self, weight: Tensor) -> Tensor:
        """Return the scale in force, ``(R, G)`` or ``(N, G)``."""
        if self.fixed_scale is not None:
            return self.fixed_scale.to(weight.dtype)
        if self.scaling is not None:
            counts = self.granularity.counts(weight)
            return learned_scale(self.scaling.to(weight.dtype), self.scaling_min_val, counts, self.largest)
        with torch.no_grad():
            return self._bounded(self.statistic(weight), weight)

    @torch.no_grad()
    def reset_scale(self, weight: Tensor) -> None:
        """Start a learned scale from the statistic of ``weight`` (canonical), and hold fixed ones to its shape."""
        self._shapes = self._allowed(weight)
        if self.scale != "learned":
            return
        if weight.is_meta:
            value = torch.empty(self.granularity.shape(weight), dtype=weight.dtype, device="meta")
        else:
            value = self._bounded(self.statistic(weight), weight)
        if self.scaling is None or self.scaling.device != value.device or self.scaling.shape != value.shape:
            self.scaling = nn.Parameter(value)
        else:
            self.scaling.copy_(value)

    def fix_scale(self, scale: Tensor | None) -> None:
        """Use ``scale`` from now on, whatever the weight becomes; ``None`` returns to the statistic.

        Args:
            scale: ``(N, G)`` or, for one group, ``(N,)``; positive. ``(1, 1)`` or ``(1,)`` does for ``per="tensor"``.

        Raises:
            ConfigError: a scale that is not positive and finite, or of another shape. A quantiser outside of a layer
                learns the weight's shape at its first use, and raises then.

        Example:
            >>> from snn_extreme_quant.quantizers.ternary import TernaryWeightQuant
            >>> quantizer = TernaryWeightQuant("channel")
            >>> quantizer.fix_scale(torch.tensor([0.5]))
            >>> [x.tolist() for x in quantizer.integer(torch.tensor([[0.3, 9.0, -0.1]]))]
            [[[1.0, 1.0, 0.0]], [[0.5]]]
        """
        if scale is None:
            self.fixed_scale = None
            return
        if not isinstance(scale, Tensor):
            raise ConfigError(f"fix_scale() takes a tensor or None; got {type(scale).__name__}.")
        value = scale.detach().clone()
        value = value.unsqueeze(1) if value.dim() == 1 else value
        if value.dim() != 2 or not torch.isfinite(value).all() or not (value > 0).all():
            raise ConfigError(
                f"fix_scale() takes positive scales of shape (N,) or (N, groups); got shape {tuple(scale.shape)}"
                + (", not all positive and finite." if value.dim() == 2 else ".")
            )
        if self._shapes and tuple(value.shape) not in self._shapes:
            rows, groups = self._shapes[1]
            raise ConfigError(
                f"fix_scale() got a scale of shape {tuple(scale.shape)}; this layer has {rows} outputs and {groups}"
                f" scales for each, so give one of shape {(rows, groups)}{f' or {(rows,)}' if groups == 1 else ''}."
            )
        self.fixed_scale = value

    def sources(self) -> tuple[Tensor, ...]:
        """Return the tensors besides the weight that codes and scales depend on."""
        return tuple(t for t in (self.fixed_scale, self.scaling) if t is not None)

    # The two faces.

    def _quantise(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, the scale in force, and that scale in a shape that broadcasts to the codes."""
        scale = self._scale(weight)
        allowed = self._allowed(weight)
        if scale.shape not in allowed:
            raise ConfigError(
                f"The scale has shape {tuple(scale.shape)}, but a weight of shape {tuple(weight.shape)} needs"
                f" {allowed[1]}; fix_scale(None) returns to the statistic."
            )
        spread = self.granularity.spread(scale, weight)
        with torch.no_grad():
            codes = self.codes(weight, spread)
            inside = self.inside(weight, spread) if spread.requires_grad else None
        return straight_through(weight, spread, codes, inside), scale, spread

    def integer(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return codes :math:`c` and scale :math:`\gamma`.

        The codes carry the straight-through gradient; a scale carries one only where it is learned.

        Args:
            weight: canonical, ``(N, K, ...)``.

        Returns:
            Whole numbers in shape and dtype of ``weight``, and positive scales of shape ``(N, G)``, where G is 1 but
            for ``per="group"``: :math:`\lceil K / \mathrm{group\_size} \rceil`.
        """
        codes, scale, _ = self._quantise(weight)
        return codes, scale.expand(weight.shape[0], -1)

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the dequantised weight, scale, zero point (0) and bit width, as Brevitas expects.

        The scale is a scalar (per tensor), one number an output channel, or one a weight (per group).
        """
        codes, scale, spread = self._quantise(weight.movedim(self.output_axis, 0))
        value = (codes * spread).movedim(0, self.output_axis)
        shown = scale.view(()) if scale.numel() == 1 and self.granularity.per == "tensor" else spread
        if shown.dim():
            shown = (shown.expand_as(codes) if shown.shape[1] > 1 else shown).movedim(0, self.output_axis)
        return value, shown, shown.new_zeros(()), shown.new_tensor(float(self.bits))

    # Checkpoints.

    def complete(self, state: dict[str, Any], prefix: str, weight: Tensor | None) -> None:
        """Make the entries of a checkpoint fit: what it lacks about the scale follows from the weight.

        Args:
            state: the checkpoint, which is changed.
            prefix: of this module's entries.
            weight: the weight that was loaded from it (canonical), or None if it holds none.
        """
        if prefix + "fixed_scale" not in state and self.fixed_scale is not None:
            if weight is None:
                state[prefix + "fixed_scale"] = self.fixed_scale
            else:
                self.fix_scale(None)
        if self.scaling is not None and prefix + "scaling" not in state:
            if weight is not None:
                self.reset_scale(weight)
            state[prefix + "scaling"] = self.scaling.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fixed = state_dict.get(prefix + "fixed_scale")
        if fixed is not None and self._shapes and tuple(fixed.shape) not in self._shapes:
            errors: list[str] = args[-1]
            errors.append(
                f"size mismatch for {prefix}fixed_scale: {tuple(fixed.shape)} in the checkpoint, {self._shapes[1]}"
                " here."
            )
            return
        if fixed is not None and (self.fixed_scale is None or self.fixed_scale.shape != fixed.shape):
            self.fixed_scale = torch.empty_like(fixed, device=self._device(fixed))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _device(self, default: Tensor) -> torch.device:
        return next((t.device for t in self.sources()), default.device)
