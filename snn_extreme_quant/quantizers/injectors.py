r"""The quantisers as Brevitas injectors, named as Brevitas names its own.

They serve this package's layers and, as ``weight_quant=...``, any Brevitas layer:

    >>> import brevitas.nn as qnn
    >>> layer = qnn.QuantLinear(4, 2, weight_quant=SignedTernaryWeightPerChannelFloat)
    >>> bool((layer.quant_weight().int().abs() <= 1).all())
    True

Numbers are set with ``let`` or as the layer's ``weight_`` arguments:

    >>> layer = qnn.QuantLinear(8, 2, weight_quant=SignedIntWeightPerGroupFloat.let(group_size=4), weight_bit_width=3)
    >>> layer.quant_weight().int().abs().max().item()
    3

A third party adds a scheme by registering its config in :data:`snn_extreme_quant.config.CONFIGS` and its injector in
:data:`INJECTORS`. The injector's ``tensor_quant`` derives from :class:`~snn_extreme_quant.quantizers.core.WeightQuant`.
"""

from __future__ import annotations

from typing import Any

from brevitas.core.function_wrapper.misc import Identity
from brevitas.inject import ExtendedInjector, value
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from torch import nn

from snn_extreme_quant.config import Binary, Ternary, Uniform, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.binary import BinaryWeightQuant
from snn_extreme_quant.quantizers.ternary import TernaryWeightQuant
from snn_extreme_quant.quantizers.uniform import UniformWeightQuant
from snn_extreme_quant.registry import Registry

__all__ = [
    "INJECTORS",
    "SignedBinaryWeightPerChannelFloat",
    "SignedBinaryWeightPerChannelFloatCentered",
    "SignedBinaryWeightPerChannelFloatCenteredLearned",
    "SignedBinaryWeightPerChannelFloatLearned",
    "SignedBinaryWeightPerGroupFloat",
    "SignedBinaryWeightPerGroupFloatCentered",
    "SignedBinaryWeightPerGroupFloatCenteredLearned",
    "SignedBinaryWeightPerGroupFloatLearned",
    "SignedBinaryWeightPerTensorFloat",
    "SignedBinaryWeightPerTensorFloatCentered",
    "SignedBinaryWeightPerTensorFloatCenteredLearned",
    "SignedBinaryWeightPerTensorFloatLearned",
    "SignedIntWeightPerChannelFloat",
    "SignedIntWeightPerChannelFloatMSE",
    "SignedIntWeightPerGroupFloat",
    "SignedIntWeightPerGroupFloatMSE",
    "SignedIntWeightPerTensorFloat",
    "SignedIntWeightPerTensorFloatMSE",
    "SignedTernaryWeightPerChannelFloat",
    "SignedTernaryWeightPerChannelFloatLearned",
    "SignedTernaryWeightPerChannelFloatMSE",
    "SignedTernaryWeightPerChannelFloatTWN",
    "SignedTernaryWeightPerGroupFloat",
    "SignedTernaryWeightPerGroupFloatLearned",
    "SignedTernaryWeightPerGroupFloatMSE",
    "SignedTernaryWeightPerGroupFloatTWN",
    "SignedTernaryWeightPerTensorFloat",
    "SignedTernaryWeightPerTensorFloatLearned",
    "SignedTernaryWeightPerTensorFloatMSE",
    "SignedTernaryWeightPerTensorFloatTWN",
    "SignedWeight",
    "WeightProxy",
    "injector_for",
    "injector_key",
]


class WeightProxy(WeightQuantProxyFromInjector):
    """Brevitas' weight proxy, for quantisers that keep their state when a checkpoint is loaded.

    Brevitas builds the quantiser anew at each load: an optimiser would go on with a scale that is no longer used.
    """

    @property
    def input_view_impl(self) -> nn.Module:
        """Nothing is reshaped for statistics; the quantisers see the weight as it is."""
        identity: nn.Module = Identity()
        return identity

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        quantizer = self.tensor_quant
        if quantizer is not None:
            # The layer's own entries were loaded before. Our layers have completed the checkpoint themselves.
            weight = self.tracked_parameter_list[0].detach().movedim(quantizer.output_axis, 0)
            quantizer.complete(state_dict, f"{prefix}tensor_quant.", weight)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)


class SignedWeight(ExtendedInjector):
    """Base of the injectors; a third party's sets ``tensor_quant`` and what its constructor takes."""

    proxy_class = WeightProxy
    signed = True
    narrow_range = True
    scaling_min_val = 1e-5

    @value  # type: ignore[untyped-decorator]
    def output_channel_dim(module: Any) -> int:  # noqa: N805 - an injector's value takes what it depends on
        """Return the layer's output axis."""
        modules = module if isinstance(module, tuple) else (module,)
        return int(modules[0].output_channel_dim)


class _PerTensor(ExtendedInjector):
    per = "tensor"


class _PerChannel(ExtendedInjector):
    per = "channel"


class _PerGroup(ExtendedInjector):
    # A group is ``group_size`` inputs of an output channel.
    per = "group"
    group_size = 64


class _Binary(SignedWeight):
    tensor_quant = BinaryWeightQuant
    center = False
    scale = "mean"


class _Ternary(SignedWeight):
    tensor_quant = TernaryWeightQuant
    scale = "absmean"


class _Uniform(SignedWeight):
    tensor_quant = UniformWeightQuant
    bit_width = 8
    scale = "max"


class SignedBinaryWeightPerTensorFloat(_Binary, _PerTensor):
    """Binary weights, one scale a tensor, the mean magnitude."""


class SignedBinaryWeightPerTensorFloatLearned(_Binary, _PerTensor):
    """Binary weights, one scale a tensor, learned."""

    scale = "learned"


class SignedBinaryWeightPerTensorFloatCentered(_Binary, _PerTensor):
    """Binary weights around their mean, one scale a tensor, the mean magnitude (BitNet)."""

    center = True


class SignedBinaryWeightPerTensorFloatCenteredLearned(_Binary, _PerTensor):
    """Binary weights around their mean, one scale a tensor, learned."""

    center = True
    scale = "learned"


class SignedTernaryWeightPerTensorFloat(_Ternary, _PerTensor):
    """Ternary weights, one scale a tensor, the mean magnitude (BitNet b1.58)."""


class SignedTernaryWeightPerTensorFloatTWN(_Ternary, _PerTensor):
    """Ternary weights, one scale a tensor, the mean of the magnitudes above 0.7 means."""

    scale = "twn"


class SignedTernaryWeightPerTensorFloatMSE(_Ternary, _PerTensor):
    """Ternary weights, one scale a tensor, of the least squared error."""

    scale = "mse"


class SignedTernaryWeightPerTensorFloatLearned(_Ternary, _PerTensor):
    """Ternary weights, one scale a tensor, learned."""

    scale = "learned"


class SignedIntWeightPerTensorFloat(_Uniform, _PerTensor):
    """Integer weights of ``bit_width`` (8) bit, one scale a tensor, from the maximum."""


class SignedIntWeightPerTensorFloatMSE(_Uniform, _PerTensor):
    """Integer weights of ``bit_width`` (8) bit, one scale a tensor, from a search for the least squared error."""

    scale = "mse"


class SignedBinaryWeightPerChannelFloat(_Binary, _PerChannel):
    """Binary weights, one scale a channel, the mean magnitude (binary-weight network)."""


class SignedBinaryWeightPerChannelFloatLearned(_Binary, _PerChannel):
    """Binary weights, one scale a channel, learned."""

    scale = "learned"


class SignedBinaryWeightPerChannelFloatCentered(_Binary, _PerChannel):
    """Binary weights around their mean, one scale a channel, the mean magnitude."""

    center = True


class SignedBinaryWeightPerChannelFloatCenteredLearned(_Binary, _PerChannel):
    """Binary weights around their mean, one scale a channel, learned."""

    center = True
    scale = "learned"


class SignedTernaryWeightPerChannelFloat(_Ternary, _PerChannel):
    """Ternary weights, one scale a channel, the mean magnitude."""


class SignedTernaryWeightPerChannelFloatTWN(_Ternary, _PerChannel):
    """Ternary weights, one scale a channel, the mean of the magnitudes above 0.7 means."""

    scale = "twn"


class SignedTernaryWeightPerChannelFloatMSE(_Ternary, _PerChannel):
    """Ternary weights, one scale a channel, of the least squared error."""

    scale = "mse"


class SignedTernaryWeightPerChannelFloatLearned(_Ternary, _PerChannel):
    """Ternary weights, one scale a channel, learned."""

    scale = "learned"


class SignedIntWeightPerChannelFloat(_Uniform, _PerChannel):
    """Integer weights of ``bit_width`` (8) bit, one scale a channel, from the maximum."""


class SignedIntWeightPerChannelFloatMSE(_Uniform, _PerChannel):
    """Integer weights of ``bit_width`` (8) bit, one scale a channel, from a search for the least squared error."""

    scale = "mse"


class SignedBinaryWeightPerGroupFloat(_Binary, _PerGroup):
    """Binary weights, one scale a group, the mean magnitude."""


class SignedBinaryWeightPerGroupFloatLearned(_Binary, _PerGroup):
    """Binary weights, one scale a group, learned."""

    scale = "learned"


class SignedBinaryWeightPerGroupFloatCentered(_Binary, _PerGroup):
    """Binary weights around their mean, one scale a group, the mean magnitude."""

    center = True


class SignedBinaryWeightPerGroupFloatCenteredLearned(_Binary, _PerGroup):
    """Binary weights around their mean, one scale a group, learned."""

    center = True
    scale = "learned"


class SignedTernaryWeightPerGroupFloat(_Ternary, _PerGroup):
    """Ternary weights, one scale a group, the mean magnitude."""


class SignedTernaryWeightPerGroupFloatTWN(_Ternary, _PerGroup):
    """Ternary weights, one scale a group, the mean of the magnitudes above 0.7 means."""

    scale = "twn"


class SignedTernaryWeightPerGroupFloatMSE(_Ternary, _PerGroup):
    """Ternary weights, one scale a group, of the least squared error."""

    scale = "mse"


class SignedTernaryWeightPerGroupFloatLearned(_Ternary, _PerGroup):
    """Ternary weights, one scale a group, learned."""

    scale = "learned"


class SignedIntWeightPerGroupFloat(_Uniform, _PerGroup):
    """Integer weights of ``bit_width`` (8) bit, one scale a group, from the maximum."""


class SignedIntWeightPerGroupFloatMSE(_Uniform, _PerGroup):
    """Integer weights of ``bit_width`` (8) bit, one scale a group, from a search for the least squared error."""

    scale = "mse"


#: Injectors by :func:`injector_key` of the config they carry out; third parties may add theirs.
INJECTORS: Registry[Any] = Registry("weight quantiser")

#: Brevitas' name of a config's number, where it has another.
_BREVITAS_NAMES = {"bits": "bit_width"}


def _numbers(config: WeightConfig) -> dict[str, Any]:
    values = config.to_dict().items()
    return {name: value for name, value in values if isinstance(value, int | float) and not isinstance(value, bool)}


def injector_key(config: WeightConfig) -> str:
    """Return the name under which a config's injector is registered.

    A config's texts and flags choose the injector; its numbers are handed to the injector with ``let``.

    Example:
        >>> injector_key(Ternary(per="group", group_size=32))
        'kind=ternary,per=group,scale=absmean'
    """
    numbers = _numbers(config)
    chosen = {name: value for name, value in config.to_dict().items() if name not in numbers and value is not None}
    return ",".join(f"{name}={value}" for name, value in chosen.items())


for _config, _injector in (
    (Binary(per="tensor"), SignedBinaryWeightPerTensorFloat),
    (Binary(per="tensor", scale="learned"), SignedBinaryWeightPerTensorFloatLearned),
    (Binary(per="tensor", center=True), SignedBinaryWeightPerTensorFloatCentered),
    (Binary(per="tensor", center=True, scale="learned"), SignedBinaryWeightPerTensorFloatCenteredLearned),
    (Ternary(per="tensor"), SignedTernaryWeightPerTensorFloat),
    (Ternary(per="tensor", scale="twn"), SignedTernaryWeightPerTensorFloatTWN),
    (Ternary(per="tensor", scale="mse"), SignedTernaryWeightPerTensorFloatMSE),
    (Ternary(per="tensor", scale="learned"), SignedTernaryWeightPerTensorFloatLearned),
    (Uniform(per="tensor"), SignedIntWeightPerTensorFloat),
    (Uniform(per="tensor", scale="mse"), SignedIntWeightPerTensorFloatMSE),
    (Binary(per="channel"), SignedBinaryWeightPerChannelFloat),
    (Binary(per="channel", scale="learned"), SignedBinaryWeightPerChannelFloatLearned),
    (Binary(per="channel", center=True), SignedBinaryWeightPerChannelFloatCentered),
    (Binary(per="channel", center=True, scale="learned"), SignedBinaryWeightPerChannelFloatCenteredLearned),
    (Ternary(per="channel"), SignedTernaryWeightPerChannelFloat),
    (Ternary(per="channel", scale="twn"), SignedTernaryWeightPerChannelFloatTWN),
    (Ternary(per="channel", scale="mse"), SignedTernaryWeightPerChannelFloatMSE),
    (Ternary(per="channel", scale="learned"), SignedTernaryWeightPerChannelFloatLearned),
    (Uniform(per="channel"), SignedIntWeightPerChannelFloat),
    (Uniform(per="channel", scale="mse"), SignedIntWeightPerChannelFloatMSE),
    (Binary(per="group", group_size=1), SignedBinaryWeightPerGroupFloat),
    (Binary(per="group", scale="learned", group_size=1), SignedBinaryWeightPerGroupFloatLearned),
    (Binary(per="group", center=True, group_size=1), SignedBinaryWeightPerGroupFloatCentered),
    (Binary(per="group", center=True, scale="learned", group_size=1), SignedBinaryWeightPerGroupFloatCenteredLearned),
    (Ternary(per="group", group_size=1), SignedTernaryWeightPerGroupFloat),
    (Ternary(per="group", scale="twn", group_size=1), SignedTernaryWeightPerGroupFloatTWN),
    (Ternary(per="group", scale="mse", group_size=1), SignedTernaryWeightPerGroupFloatMSE),
    (Ternary(per="group", scale="learned", group_size=1), SignedTernaryWeightPerGroupFloatLearned),
    (Uniform(per="group", group_size=1), SignedIntWeightPerGroupFloat),
    (Uniform(per="group", scale="mse", group_size=1), SignedIntWeightPerGroupFloatMSE),
):
    INJECTORS.register(injector_key(_config), _injector, origin="snn_extreme_quant")


def injector_for(config: WeightConfig) -> Any:
    """Return the Brevitas injector that carries out ``config``.

    Raises:
        ConfigError: there is none (``Float()``, or a config nobody registered a quantiser for).

    Example:
        >>> injector_for(Uniform(bits=4)).bit_width
        4
    """
    key = injector_key(config)
    if key not in INJECTORS:
        raise ConfigError(
            f"No weight quantiser carries out {config!r}. Use Binary(...), Ternary(...) or Uniform(...), or register"
            f" an injector for it: INJECTORS.register({key!r}, ..., origin='your package')."
        )
    numbers = {_BREVITAS_NAMES.get(name, name): value for name, value in _numbers(config).items()}
    injector = INJECTORS.get(key)
    return injector.let(**numbers) if numbers else injector
