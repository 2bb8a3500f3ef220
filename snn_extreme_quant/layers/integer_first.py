r"""What all quantised layers share: integer codes first, one multiplication by the scale after.

.. math:: y = (x * c)\,\gamma + b
   \qquad\text{or, with a scale a group,}\qquad
   y = ((x_0 * c_0)\,\gamma_0 + (x_1 * c_1)\,\gamma_1) + \dots + b

Brevitas' own layers compute :math:`x * (\gamma c)`, which rounds in every term; two runtimes that add in a different
order then disagree on spikes. Here the sum over spikes is over integers, exact in float32 up to
:math:`2^{24}` in any order, and the only roundings are one product and one sum for each output and group. The
groups are added in their order, which deployment keeps.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers.scaling import fits, scaled

if TYPE_CHECKING:
    from snn_extreme_quant.config import WeightConfig
    from snn_extreme_quant.quantizers.core import WeightQuant

__all__ = ["IntegerFirst", "state_of"]

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


def state_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return what changes when the tensor does.

    The version counter sees optimisers, ``copy_`` and ``load_state_dict``. It does not see writes through ``.data``;
    on the CPU a checksum (about a tenth of the cost of quantising) does. A plain sum would not: it stays the same
    when values change places. On an accelerator the checksum would stall the queue and is left out: after writing
    through ``.data`` there, call :meth:`IntegerFirst.forget_codes`.
    """
    version = -1 if tensor.is_inference() else tensor._version
    key: tuple[Any, ...] = (id(tensor), version, tensor.data_ptr(), tensor.dtype, tensor.device, tensor.requires_grad)
    return (*key, _checksum(tensor)) if tensor.device.type == "cpu" else key


def _fingerprint(weight: Tensor, sources: Iterable[Tensor]) -> tuple[Any, ...] | None:
    """Return what changes when the weight, or what else its codes depend on, does; None if that cannot be told."""
    if torch.compiler.is_compiling():
        return None
    tensors = (weight, *sources)
    if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        return None
    states = tuple(state_of(tensor) for tensor in tensors)
    return (*states, torch.is_grad_enabled(), torch.is_inference_mode_enabled())


def _autocasts(device: str) -> bool:
    # Asking about a device that has no autocast, such as meta, raises.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class IntegerFirst(nn.Module):
    """Mixin of quantised layers; the class after it in the bases is a Brevitas layer.

    Codes are computed once for a weight, not once for a call: in a loop over time steps all steps share them
    (and the gradient of all steps arrives at the weight through them).
    """

    config: WeightConfig
    weight: Any
    bias: Any
    weight_quant: Any
    #: A factor for the scales and a shift in place of the bias, both ``(N,)``, while a batch norm is folded in.
    folded: tuple[Tensor, Tensor] | None = None
    #: The axis of the input along which the weight's second axis runs; counted from the end.
    _input_axis: int = -1
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
            config: :class:`~snn_extreme_quant.Binary`, :class:`~snn_extreme_quant.Ternary` or
                :class:`~snn_extreme_quant.Uniform`. A learned scale starts from the layer's weight and is a new
                Parameter: create the optimiser afterwards.
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
        layer._reset_scale()
        return layer

    def _finish(self, config: WeightConfig) -> None:
        """Complete construction; called after the Brevitas layer's."""
        groups = getattr(self, "groups", 1)
        if getattr(config, "per", None) == "group" and groups != 1:
            raise ConfigError(
                f"{config!r} for a layer with groups={groups}: its outputs see different inputs, which scales by"
                " groups of inputs do not fit; use per='channel'."
            )
        self.config = config
        self._cache = _CodeCache()
        self._reset_scale()

    def _reset_scale(self) -> None:
        """Start a learned scale from the weight that the layer has now."""
        self.quantizer.reset_scale(self._canonical(self.weight))

    def _canonical(self, weight: Tensor) -> Tensor:
        """Return a view of the weight with the output axis first, ``(N, K, ...)``."""
        return weight

    @property
    def quantizer(self) -> WeightQuant:
        """The module that turns the weight into codes and scale."""
        return cast("WeightQuant", self.weight_quant.tensor_quant)

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return codes and scales.

        Returns:
            Codes ``(N, K, ...)`` in the weight's dtype; scales ``(N,)``, or ``(N, G)`` where a channel has G groups.
            The scales are positive, but for the factor of a folded batch norm.
        """
        codes, scale = self._codes_and_scale()
        if self.folded is None:
            return codes, scale
        factor = self.folded[0].to(scale.dtype)
        return codes, scale * (factor if scale.dim() == 1 else factor.unsqueeze(1))

    def _codes_and_scale(self) -> tuple[Tensor, Tensor]:
        key = _fingerprint(self.weight, self.quantizer.sources())
        if key is not None and key == self._cache.key and self._cache.value is not None:
            return self._cache.value
        codes, scale = self.quantizer.integer(self._canonical(self.weight))
        value = (codes, (scale.squeeze(1) if scale.shape[1] == 1 else scale).contiguous())
        if key is not None:
            self._cache.value, self._cache.key = value, key
        return value

    def effective_bias(self) -> Tensor | None:
        """Return what is added to the product: the bias, or the shift of a folded batch norm."""
        bias: Tensor | None = self.bias if self.folded is None else self.folded[1]
        return bias

    def _sums(self, input: Tensor, codes: Tensor) -> Tensor:
        """Return the sums over inputs times codes, without scale and bias."""
        raise NotImplementedError

    def _inputs(self, input: Tensor, start: int, stop: int) -> Tensor:
        """Return the input's channels from ``start`` up to ``stop``."""
        return input.narrow(self._input_axis, start, stop - start)

    def _per_output(self, values: Tensor) -> Tensor:
        """Return ``(N,)`` values in a shape that broadcasts to the output."""
        return values

    def product(self, input: Tensor) -> Tensor:
        r"""Return :math:`(x * c)\,\gamma`, the output without bias; groups are added in their order.

        Under autocast, codes beyond -1, 0 and 1 are summed in float32: float16 overflows at 65504, and bfloat16 does
        not represent codes beyond 256.
        """
        codes, scale = self.integer_weight()
        device = codes.device.type
        if self.quantizer.largest > 1 and _autocasts(device):
            with torch.autocast(device, enabled=False):
                return self._scaled_sums(input.float(), codes.float(), scale)
        return self._scaled_sums(input, codes, scale)

    def _scaled_sums(self, input: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        if scale.dim() == 1:
            sums, scale = self._sums(input, codes), self._per_output(scale)
            return scaled(sums, scale) if fits(sums, scale) else sums * scale
        size = cast("int", self.quantizer.granularity.group_size)
        total: Tensor | None = None
        for group, start in enumerate(range(0, codes.shape[1], size)):
            stop = min(start + size, codes.shape[1])
            sums = self._sums(self._inputs(input, start, stop), codes[:, start:stop])
            part = sums * self._per_output(scale[:, group])
            total = part if total is None else total + part
        return cast("Tensor", total)

    def forward(self, input: Tensor) -> Tensor:
        """Return the scaled sums plus the bias."""
        output = self.product(input)
        bias = self.effective_bias()
        return output if bias is None else output + self._per_output(bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # Before the quantiser's own entries are looked at, and with the weight that has just been loaded.
        loaded = self._canonical(self.weight.detach()) if f"{prefix}weight" in state_dict else None
        self.quantizer.complete(state_dict, f"{prefix}weight_quant.tensor_quant.", loaded)

    def forget_codes(self) -> None:
        """Compute the codes anew at the next call; only needed after writing through ``weight.data`` on a GPU."""
        self._cache.key = self._cache.value = None

    def to_float(self) -> nn.Module:
        r"""Return the plain float layer whose weight is this layer's :math:`\gamma c` (new Parameters)."""
        raise NotImplementedError

    def dequantised(self) -> Tensor:
        """Return codes times scales, ``(N, K, ...)``."""
        codes, scale = self.integer_weight()
        scale = scale.unsqueeze(1) if scale.dim() == 1 else scale
        return codes * self.quantizer.granularity.spread(scale, codes)

    def _float_weight(self) -> nn.Parameter:
        weight = torch.empty_like(self.weight)
        self._canonical(weight).copy_(self.dequantised().detach())
        return nn.Parameter(weight)

    def _float_bias(self) -> nn.Parameter | None:
        bias = self.effective_bias()
        return bias if bias is None else nn.Parameter(bias.detach().clone())

    def extra_repr(self) -> str:
        """Show geometry and precision."""
        return f"{super().extra_repr()}, {self.config!r}"

    def __repr__(self) -> str:
        """Leave out Brevitas' inner modules, which say nothing a user can act on."""
        return f"{type(self).__name__}({self.extra_repr()})"
