"""Stops a run whose numbers are no longer numbers, and names the parameter.

The loss alone does not tell: a spiking neuron does not fire at a current of NaN, so a network with such a parameter
may have a finite loss, and finite logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from snn_extreme_quant.checkpoints import not_finite
from snn_extreme_quant.errors import TrainingError

__all__ = ["Named", "check_parameters", "clip_finite"]

#: Parameters with their names.
Named = Sequence[tuple[str, nn.Parameter]]
_KEPT = "What the run wrote before, checkpoint.pt and best/, is kept"


def check_parameters(named: Named, where: str) -> None:
    """Raise :class:`TrainingError` if a parameter is NaN or infinite.

    Args:
        named: what is trained.
        where: the stage and step, for the message.
    """
    name = not_finite(named)
    if name is not None:
        raise TrainingError(f"{where}: {name!r} holds NaN or infinite values; lower lr. {_KEPT}.")


def clip_finite(named: Named, most: float, loss: float, where: str) -> None:
    """Clip the norm of all gradients together.

    Args:
        named: what is trained.
        most: the norm that the gradients get if theirs is larger.
        loss: of the batch.
        where: the stage and step, for the message.

    Raises:
        TrainingError: the loss or a gradient is NaN or infinite; the parameters are as they were before the step.
    """
    norm = get_total_norm([value.grad for _, value in named if value.grad is not None])
    # The norm of finite gradients may still be infinite: they are then clipped to 0, which harms nothing.
    if not math.isfinite(loss) or not math.isfinite(float(norm)):
        _check_step(named, loss, where)
    clip_grads_with_norm_([value for _, value in named], most, norm)


def _check_step(named: Named, loss: float, where: str) -> None:
    wrong = [] if math.isfinite(loss) else [f"the loss is {loss}"]
    parameter = not_finite(named)
    gradient = not_finite((name, value.grad) for name, value in named if value.grad is not None)
    if parameter is not None:
        wrong.append(f"{parameter!r} holds NaN or infinite values")
    elif gradient is not None:
        wrong.append(f"the gradient of {gradient!r} is NaN or infinite")
    if wrong:
        raise TrainingError(f"{where}: {', '.join(wrong)}; lower lr. {_KEPT}.")
