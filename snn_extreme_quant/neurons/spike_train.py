"""T steps of spikes that stand where a tensor stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.neurons.moves import moved

__all__ = ["SpikeTrain", "check_steps"]

_MOST_STEPS = 128
#: Sums of products with weights; their arguments begin with input, weight and bias.
_PRODUCTS = (
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip


def check_steps(T: object, what: str) -> int:
    """Return T if it is a power of two up to 128.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(T, int) or isinstance(T, bool) or not 1 <= T <= _MOST_STEPS or T & (T - 1):
        raise ConfigError(
            f"{what} with T={T!r}: use 1, 2, 4, 8, 16, 32, 64 or 128. Only where T is a power of two are rates n/T and"
            " their sums exact in float32, and so counts and spikes the same."
        )
    return T


class SpikeTrain:
    """T steps of spikes (or of currents), used like the tensor of one step.

    To a model it looks like a tensor ``(B, ...)``. Products with weights (linear layers, convolutions) are summed for
    each step, then over the steps, and give their mean, a tensor; changes of shape are done to every step and give a
    train; all else reads :attr:`rates`.

    Args:
        spikes: ``(T, B, ...)``, T a power of two up to 128.

    Raises:
        ConfigError: T is another number, or ``spikes`` is no tensor with a time axis.

    Example:
        >>> train = SpikeTrain(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> train.shape, train.rates.tolist(), train.counts.tolist()
        (torch.Size([2]), [1.0, 0.5], [2.0, 1.0])
        >>> F.linear(train, torch.ones(1, 2)).tolist()
        [1.5]
        >>> train.unsqueeze(0).spikes.shape
        torch.Size([2, 1, 2])
    """

    def __init__(self, spikes: Tensor) -> None:
        """Check the number of steps."""
        given: object = spikes  # not every caller checks types
        if not isinstance(given, Tensor) or given.dim() == 0:
            raise ConfigError("SpikeTrain() takes a tensor of all steps, (T, B, ...).")
        check_steps(int(spikes.shape[0]), "SpikeTrain()")
        self.spikes = spikes

    @property
    def steps(self) -> int:
        """T, the number of time steps."""
        return int(self.spikes.shape[0])

    @property
    def counts(self) -> Tensor:
        """The sum over the steps, ``(B, ...)``."""
        return self.spikes.sum(0)

    @property
    def rates(self) -> Tensor:
        """The mean over the steps, ``(B, ...)``: the counts times 1/T, both exact."""
        return self.counts * (1.0 / self.steps)

    @property
    def shape(self) -> torch.Size:
        """The shape of one step."""
        return self.spikes.shape[1:]

    def size(self, axis: int | None = None) -> Any:
        """Return the shape of one step, or the length of one of its axes."""
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        """Return the number of axes of one step."""
        return self.spikes.dim() - 1

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation of torch on trains."""
        del types
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, cls) and func in _PRODUCTS:
            return first._product(func, tuple(args[1:]), {k: v for k, v in kwargs.items() if k != "input"})
        if isinstance(first, cls) and _does_nothing(func, args, kwargs):
            return first
        result = _moved_trains(cls, func, args, kwargs)
        return func(*_rates(args), **_rates(kwargs)) if result is None else result

    def _product(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the sums of all steps, added and divided by T; then the bias is added, once."""
        given = dict(zip(("weight", "bias"), args, strict=False))
        given |= {name: kwargs.pop(name) for name in ("weight", "bias") if name in kwargs}
        weight, bias = given["weight"], given.get("bias")
        # A convolution takes one axis of samples.
        together = func is not F.linear and self.dim() == weight.dim()
        sums = func(self.spikes.flatten(0, 1) if together else self.spikes, weight, None, *args[2:], **kwargs)
        if together:
            sums = sums.reshape(self.steps, self.spikes.shape[1], *sums.shape[1:])
        mean: Tensor = sums.sum(0) * (1.0 / self.steps)
        if bias is None:
            return mean
        shift: Tensor = bias if func is F.linear else bias.view(-1, *(1,) * (weight.dim() - 2))
        return mean + shift

    def __getattr__(self, name: str) -> Any:
        """Find what a tensor has."""
        found = None if name.startswith("__") else getattr(Tensor, name, None)
        if found is None:
            raise AttributeError(f"A SpikeTrain has no attribute {name!r}.")
        if not callable(found):
            return getattr(self.rates, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            return SpikeTrain.__torch_function__(found, (), (self, *args), kwargs)

        return method

    def __len__(self) -> int:
        """Return the length of the first axis of one step."""
        return len(self.spikes[0])

    def __getitem__(self, index: Any) -> SpikeTrain:
        """Index every step."""
        return SpikeTrain(self.spikes[(slice(None), *(index if isinstance(index, tuple) else (index,)))])

    def __repr__(self) -> str:
        """Show the shape of one step."""
        return f"SpikeTrain(T={self.steps}, shape={tuple(self.shape)})"


def _operator(name: str) -> Callable[..., Any]:
    own = getattr(Tensor, name)

    def operator(self: SpikeTrain, *args: Any) -> Any:
        return own(self.rates, *_rates(args))

    return operator


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "neg", "abs",
    "lt", "le", "gt", "ge",
):  # fmt: skip
    setattr(SpikeTrain, f"__{_name}__", _operator(f"__{_name}__"))


def _rates(value: Any) -> Any:
    """Return rates in the place of trains."""
    if isinstance(value, SpikeTrain):
        return value.rates
    if isinstance(value, (list, tuple)):
        return type(value)(_rates(v) for v in value) if type(value) in (list, tuple) else value
    return {k: _rates(v) for k, v in value.items()} if isinstance(value, dict) else value


def _does_nothing(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function is dropout outside training."""
    if "dropout" not in getattr(func, "__name__", ""):
        return False
    return kwargs.get("training", args[2] if len(args) > 2 else True) is False


def _moved_trains(cls: type[SpikeTrain], func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Change the shape of every step; None if a function does something else, or not to trains alone."""
    joins = getattr(func, "__name__", "") in ("cat", "stack", "concat", "concatenate")
    group = args[0] if args else None
    trains = group if joins else [group]
    if not isinstance(trains, (list, tuple)) or not trains or not all(isinstance(t, cls) for t in trains):
        return None
    if len({t.steps for t in trains}) > 1:
        return None
    values = [t.spikes for t in trains]
    result = moved(getattr(func, "__name__", ""), values if joins else values[0], args[1:], kwargs)
    if result is None:
        return None
    return cls(result) if isinstance(result, Tensor) else type(result)(cls(r) for r in result)
