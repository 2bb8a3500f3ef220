r"""What all quantised layers share: integer codes first, one multiplication by the scale after.

.. math:: y = (x * c)\,\gamma + b

Brevitas' own layers compute :math:`x * (\gamma c)`, which rounds in every term; two runtimes that add in a different
order then disagree on spikes. Here the sum over spikes is over integers, exact in float32 up to
:math:`2^{24}` in any order, and the only roundings are one product and one sum for each output.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from snn_extreme_quant.config import WeightConfig
    from snn_extreme_quant.quantizers.core import WeightQuant

__all__ = ["IntegerFirst"]

#: Where torch keeps a module's hooks; the same dictionaries are handed on, so handles stay valid.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_non_full_backward_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class _CodeCache:
    """The codes of the weight as it last was; copies of a layer start with an empty one."""

    __slots__ = ("key", "value")

    def __init__(self) -> None:
        self.key: tuple[Any, ...] | None = None
        self.value: tuple[Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _CodeCache:
        return _CodeCache()

    def __reduce__(self) -> tuple[type[_CodeCache], tuple[()]]:
        return (_CodeCache, ())


@functools.cache
def _probe(size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.rand(size, generator=generator, dtype=dtype, device="cpu") + 1


def _checksum(weight: Tensor) -> float:
    """Return one number for a weight on the CPU that changes with its values and with their places."""
    matrix = weight.detach().flatten(1)
    if matrix.dtype not in (torch.float32, torch.float64):
        matrix = matrix.float()
    rows, columns = (_probe(size, matrix.dtype) for size in matrix.shape)
    return float(torch.dot(torch.mv(matrix, columns), rows))


def _fingerprint(weight: Tensor) -> tuple[Any, ...] | None:
    """Return what changes when the weight does, or None if that cannot be told.

    The version counter sees optimisers, ``copy_`` and ``load_state_dict``. It does not see writes through
    ``weight.data``; on the CPU a checksum (about a tenth of the cost of quantising) does. A plain sum would not: it
    stays the same when values change places. On an accelerator the checksum would stall the queue and is left out:
    after writing through ``.data`` there, call :meth:`IntegerFirst.forget_codes`.
    """
    if type(weight) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return None
    version = -1 if weight.is_inference() else weight._version
    key: tuple[Any, ...] = (id(weight), version, weight.data_ptr(), weight.dtype, weight.device, weight.requires_grad)
    if weight.device.type == "cpu":
        key += (_checksum(weight),)
    return (*key, torch.is_grad_enabled(), torch.is_inference_mode_enabled())


class IntegerFirst(nn.Module):
    """Mixin of quantised layers; the class after it in the bases is a Brevitas layer.

    Codes are computed once for a weight, not once for a call: in a loop over time steps all steps share them
    (and the gradient of all steps arrives at the weight through them).
    """

    config: WeightConfig
    weight: Any
    bias: Any
    weight_quant: Any
    _cache: _CodeCache

    @classmethod
    def _empty_like(cls, module: Any, config: WeightConfig) -> Self:
        """Build a layer of ``module``'s geometry on the meta device."""
        raise NotImplementedError

    @classmethod
    def from_float(cls, module: nn.Module, config: WeightConfig) -> Self:
        """Return a quantised layer that takes the place of ``module``.

        It holds the *same* Parameter objects (ties and optimisers stay valid), the same hooks, training flag and
        step mode.

        Args:
            module: a float layer of the type this class stands for.
            config: :class:`~snn_extreme_quant.Binary` or :class:`~snn_extreme_quant.Ternary`.
        """
        layer = cls._empty_like(module, config)
        for name, parameter in module._parameters.items():
            layer._parameters[name] = parameter
        for name in _HOOKS:
            if name in module.__dict__:
                object.__setattr__(layer, name, module.__dict__[name])
        for name, value in module.__dict__.items():
            if name not in layer.__dict__ and not isinstance(value, OrderedDict):
                object.__setattr__(layer, name, value)
        layer.train(module.training)
        return layer

    def _finish(self, config: WeightConfig) -> None:
        """Complete construction; called after the Brevitas layer's."""
        self.config = config
        self._cache = _CodeCache()

    @property
    def quantizer(self) -> WeightQuant:
        """The module that turns the weight into codes and scale."""
        return cast("WeightQuant", self.weight_quant.tensor_quant)

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return codes (shape and dtype of ``weight``) and scales (shape ``(N,)``, positive)."""
        key = _fingerprint(self.weight)
        if key is not None and key == self._cache.key and self._cache.value is not None:
            return self._cache.value
        codes, scale = self.quantizer.integer(self.weight)
        value = (codes, scale.reshape(-1).expand(codes.shape[0]).contiguous())
        if key is not None:
            self._cache.value, self._cache.key = value, key
        return value

    def product(self, input: Tensor) -> Tensor:
        r"""Return :math:`(x * c)\,\gamma`, the output without bias."""
        raise NotImplementedError

    def forget_codes(self) -> None:
        """Compute the codes anew at the next call; only needed after writing through ``weight.data`` on a GPU."""
        self._cache.key = self._cache.value = None

    def to_float(self) -> nn.Module:
        r"""Return the plain float layer whose weight is this layer's :math:`\gamma c` (new Parameters)."""
        raise NotImplementedError

    def _float_weight(self) -> nn.Parameter:
        codes, scale = self.integer_weight()
        return nn.Parameter((codes * scale.view(-1, *(1,) * (codes.dim() - 1))).detach())

    def _float_bias(self) -> nn.Parameter | None:
        return None if self.bias is None else copy.deepcopy(self.bias)

    def extra_repr(self) -> str:
        """Show geometry and precision."""
        return f"{super().extra_repr()}, {self.config!r}"

    def __repr__(self) -> str:
        """Leave out Brevitas' inner modules, which say nothing a user can act on."""
        return f"{type(self).__name__}({self.extra_repr()})"
