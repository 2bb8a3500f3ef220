"""What a plugin asks before it reads a neuron: is the class known, is it unchanged, does it give plain spikes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import UnsupportedNeuronError

__all__ = ["fires_like_a_step", "readable_class"]


def readable_class(
    module: nn.Module,
    readable: Collection[type[nn.Module]],
    dynamics: Collection[str],
    reasons: Mapping[str, str] | None = None,
) -> type[nn.Module]:
    """Return the framework's own class that decides what ``module`` computes.

    Args:
        module: the neuron.
        readable: the classes that the plugin reads.
        dynamics: names of the methods that make up a neuron's forward pass and its initial state. Whoever overrides
            one, in a subclass or on the instance, computes something else.
        reasons: the framework's other neuron classes by name, each with the reason why it cannot be read.

    Raises:
        UnsupportedNeuronError: the class is not known, is one of ``reasons``, or overrides one of ``dynamics``.

    Example:
        >>> class Gate(nn.ReLU): ...
        >>> readable_class(Gate(), [nn.ReLU], ["forward"]).__name__
        'ReLU'
    """
    cls = type(module)
    names = ", ".join(c.__name__ for c in readable)
    packages = {c.__module__.partition(".")[0] for c in readable}
    for depth, base in enumerate(cls.__mro__):
        if base in readable:
            for owner in (module, *cls.__mro__[:depth]):
                changed = sorted(set(dynamics) & set(vars(owner)))
                if changed:
                    raise UnsupportedNeuronError(
                        f"{cls.__name__} overrides {changed[0]}() of {base.__name__}, so what it computes is not"
                        f" known; use {base.__name__} itself."
                    )
            return base
        reason = (reasons or {}).get(base.__name__)
        if reason is not None and base.__module__.partition(".")[0] in packages:  # not a namesake of the user's
            who = cls.__name__ if base is cls else f"{cls.__name__} (a {base.__name__})"
            raise UnsupportedNeuronError(f"{who} has no exact spec: {reason}")
    raise UnsupportedNeuronError(f"{cls.__name__} is no neuron that has an exact spec; use one of {names}.")


def fires_like_a_step(function: Callable[[Tensor], Any], *, at_zero: bool) -> bool:
    """Whether a surrogate's forward pass gives float32 1 above zero (and, if ``at_zero``, at zero), else 0.

    Example:
        >>> fires_like_a_step(lambda x: (x > 0).float(), at_zero=False)
        True
        >>> fires_like_a_step(torch.relu, at_zero=False)
        False
    """
    probe = torch.tensor([-torch.inf, -2.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 2.0, torch.inf])
    want = probe >= 0 if at_zero else probe > 0
    try:
        with torch.no_grad():
            # Twice, because what draws random numbers may be right once.
            outputs = [function(probe.clone()) for _ in range(2)]
            return all(s.dtype == torch.float32 and torch.equal(s, want.float()) for s in outputs)
    except Exception:  # a user's function may fail in any way
        return False
