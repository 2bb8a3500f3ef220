"""The quantisers as Brevitas injectors, named as Brevitas names its own.

They serve this package's layers and, as ``weight_quant=...``, any Brevitas layer:

    >>> import brevitas.nn as qnn
    >>> layer = qnn.QuantLinear(4, 2, weight_quant=SignedTernaryWeightPerChannelFloat)
    >>> bool((layer.quant_weight().int().abs() <= 1).all())
    True
"""

from __future__ import annotations

from typing import Any

from brevitas.inject import ExtendedInjector
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector

from snn_extreme_quant.config import Binary, Ternary, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.quantizers.core import BinaryWeightQuant, TernaryWeightQuant
from snn_extreme_quant.registry import Registry

__all__ = [
    "INJECTORS",
    "SignedBinaryWeightPerChannelFloat",
    "SignedBinaryWeightPerChannelFloatCentered",
    "SignedBinaryWeightPerTensorFloat",
    "SignedBinaryWeightPerTensorFloatCentered",
    "SignedTernaryWeightPerChannelFloat",
    "SignedTernaryWeightPerTensorFloat",
    "injector_for",
]


class _SignedWeight(ExtendedInjector):
    proxy_class = WeightQuantProxyFromInjector
    signed = True
    narrow_range = True
    scaling_min_val = 1e-5


class SignedTernaryWeightPerTensorFloat(_SignedWeight):
    """Ternary weights, one absmean scale a tensor (BitNet b1.58)."""

    tensor_quant = TernaryWeightQuant
    per_channel = False


class SignedTernaryWeightPerChannelFloat(SignedTernaryWeightPerTensorFloat):
    """Ternary weights, one absmean scale an output channel."""

    per_channel = True


class SignedBinaryWeightPerTensorFloat(_SignedWeight):
    """Binary weights, one mean-absolute scale a tensor (binary-weight network)."""

    tensor_quant = BinaryWeightQuant
    per_channel = False
    center = False


class SignedBinaryWeightPerChannelFloat(SignedBinaryWeightPerTensorFloat):
    """Binary weights, one mean-absolute scale an output channel."""

    per_channel = True


class SignedBinaryWeightPerTensorFloatCentered(SignedBinaryWeightPerTensorFloat):
    """Binary weights around their mean, one scale a tensor (BitNet)."""

    center = True


class SignedBinaryWeightPerChannelFloatCentered(SignedBinaryWeightPerChannelFloat):
    """Binary weights around their mean, mean and scale for each output channel."""

    center = True


#: Injectors by :func:`_key` of the config they carry out; third parties may add theirs.
INJECTORS: Registry[Any] = Registry("weight quantiser")


def _key(config: WeightConfig) -> str:
    return ",".join(f"{name}={value}" for name, value in config.to_dict().items())


for _config, _injector in (
    (Ternary(per="tensor"), SignedTernaryWeightPerTensorFloat),
    (Ternary(per="channel"), SignedTernaryWeightPerChannelFloat),
    (Binary(per="tensor"), SignedBinaryWeightPerTensorFloat),
    (Binary(per="channel"), SignedBinaryWeightPerChannelFloat),
    (Binary(per="tensor", center=True), SignedBinaryWeightPerTensorFloatCentered),
    (Binary(per="channel", center=True), SignedBinaryWeightPerChannelFloatCentered),
):
    INJECTORS.register(_key(_config), _injector, origin="snn_extreme_quant")


def injector_for(config: WeightConfig) -> Any:
    """Return the Brevitas injector that carries out ``config``.

    Raises:
        ConfigError: there is none (``Float()``, or a config nobody registered a quantiser for).
    """
    if _key(config) not in INJECTORS:
        raise ConfigError(f"No weight quantiser carries out {config!r}. Use Binary(...) or Ternary(...).")
    return INJECTORS.get(_key(config))
