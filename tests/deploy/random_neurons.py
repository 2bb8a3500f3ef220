"""Random neurons of both frameworks: every class that has an exact spec, with its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron as jelly
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

__all__ = ["SNNTORCH", "SPIKINGJELLY", "snntorch_neuron", "spikingjelly_neuron"]

Shape = tuple[int, ...]
_THRESHOLDS = st.sampled_from([0.25, 0.3, 0.5, 1.0, 1.5])
_DECAYS = st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.2])
_RESETS = st.sampled_from(["subtract", "zero", "none"])


def _number(draw: Any, numbers: st.SearchStrategy[float], shape: Shape, low: float = 0.1) -> float | Tensor:
    """A number, or one for each channel."""
    value = draw(numbers)
    if draw(st.booleans()):
        return value
    return torch.linspace(low, max(value, low), shape[0]).view(shape[0], *(1,) * (len(shape) - 1))


def _common(draw: Any, shape: Shape) -> dict[str, Any]:
    return {
        "threshold": _number(draw, _THRESHOLDS, shape, 0.2),
        "reset_mechanism": draw(_RESETS),
        "learn_beta": draw(st.booleans()),
        "learn_threshold": draw(st.booleans()),
    }


def _leaky(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    delay = draw(st.booleans())
    return snn.Leaky(beta=_number(draw, _DECAYS, shape), reset_delay=delay, **_common(draw, shape), **state)


def _graded(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    """What it gives is real: only where no layer reads it."""
    factor = draw(st.sampled_from([0.3, 2.0, -1.5]))
    delay = draw(st.booleans())
    return snn.Leaky(beta=0.8, graded_spikes_factor=factor, reset_delay=delay, **_common(draw, shape), **state)


def _lapicque(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    options = draw(st.sampled_from([{"beta": 0.9}, {"R": 2, "C": 3.0}, {"R": 0.7, "C": 5.0, "time_step": 0.5}]))
    return snn.Lapicque(
        threshold=_number(draw, _THRESHOLDS, shape, 0.2), reset_mechanism=draw(_RESETS), **options, **state
    )


def _synaptic(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    return snn.Synaptic(
        alpha=_number(draw, _DECAYS, shape),
        beta=_number(draw, _DECAYS, shape),
        learn_alpha=draw(st.booleans()),
        reset_delay=draw(st.booleans()),
        **_common(draw, shape),
        **state,
    )


def _alpha(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    """Its alpha must be above its beta."""
    alpha, beta = draw(st.sampled_from([0.9, 0.95])), draw(st.sampled_from([0.5, 0.8]))
    return snn.Alpha(alpha=alpha, beta=beta, **_common(draw, shape), **state)


def _feedback(draw: Any, shape: Shape) -> dict[str, Any]:
    """Through a number a neuron, a linear layer or, for images, a convolution."""
    kinds = ["number", "linear"] if len(shape) == 1 else ["number"]
    kind = draw(st.sampled_from([*kinds, "conv"] if len(shape) == 3 else kinds))
    if kind == "linear":
        return {"linear_features": shape[0]}
    if kind == "conv":
        return {"conv2d_channels": shape[0], "kernel_size": draw(st.sampled_from([1, 3]))}
    v: Any = _number(draw, st.sampled_from([-0.5, 0.3, 1.0]), shape)
    return {"V": v, "all_to_all": False}


def _rleaky(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    return snn.RLeaky(
        beta=_number(draw, _DECAYS, shape),
        reset_delay=draw(st.booleans()),
        learn_recurrent=draw(st.booleans()),
        **_feedback(draw, shape),
        **_common(draw, shape),
        **state,
    )


def _rsynaptic(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    return snn.RSynaptic(
        alpha=draw(_DECAYS),
        beta=_number(draw, _DECAYS, shape),
        learn_recurrent=draw(st.booleans()),
        **_feedback(draw, shape),
        **_common(draw, shape),
        **state,
    )


def _delta(draw: Any, shape: Shape, **state: bool) -> nn.Module:
    """Its states are always passed, as one tuple."""
    change = draw(st.sampled_from([0.1, 0.3, 0.5]))
    return snn.DeltaLeaky(
        beta=_number(draw, _DECAYS, shape), delta_threshold=change, learn_beta=draw(st.booleans()), **state
    )


Draw = Callable[..., nn.Module]
#: Readable classes of snnTorch; each entry draws one.
SNNTORCH: dict[type[nn.Module], Draw] = {
    snn.Leaky: _leaky,
    snn.Lapicque: _lapicque,
    snn.Synaptic: _synaptic,
    snn.Alpha: _alpha,
    snn.RLeaky: _rleaky,
    snn.RSynaptic: _rsynaptic,
    snn.DeltaLeaky: _delta,
}


def snntorch_neuron(draw: Any, shape: Shape, *, hidden: bool, last: bool = False) -> nn.Module:
    """A neuron for one step of ``shape``; ``hidden`` keeps its state inside.

    Args:
        draw: of a composite strategy.
        shape: without the batch.
        hidden: ``init_hidden``; else the state may be passed by the caller as well.
        last: nothing but the output reads it, so its spikes may be graded.
    """
    if not hidden and draw(st.integers(0, 4)) == 0:
        return _delta(draw, shape)
    state = {"init_hidden": hidden or draw(st.booleans())}
    state["output"] = hidden and last and draw(st.booleans())
    if last and draw(st.integers(0, 4)) == 0:
        return _graded(draw, shape, **state)
    return SNNTORCH[draw(st.sampled_from([kind for kind in SNNTORCH if kind is not snn.DeltaLeaky]))](
        draw, shape, **state
    )


def _jelly_options(draw: Any, mode: str) -> dict[str, Any]:
    options = {
        "v_threshold": draw(_THRESHOLDS),
        "v_reset": draw(st.sampled_from([None, 0.0, -0.2])),
        "detach_reset": draw(st.booleans()),
        "step_mode": mode,
    }
    return options | ({"store_v_seq": True} if mode == "m" and draw(st.booleans()) else {})


def _taus(draw: Any) -> dict[str, Any]:
    return {"tau": draw(st.sampled_from([1.5, 2.0, 7.3])), "decay_input": draw(st.booleans())}


def _parametric(draw: Any, mode: str) -> nn.Module:
    taus = _taus(draw)
    return jelly.ParametricLIFNode(init_tau=taus["tau"], decay_input=taus["decay_input"], **_jelly_options(draw, mode))


def _cuba(draw: Any, mode: str) -> nn.Module:
    options = _jelly_options(draw, mode)
    decays = {"c_decay": draw(st.sampled_from([0.3, 0.5])), "v_decay": draw(st.sampled_from([0.75, 0.9]))}
    neuron = jelly.CUBALIFNode(v_threshold=options["v_threshold"], v_reset=options["v_reset"], **decays)
    neuron.step_mode = mode
    return neuron


def _counting(draw: Any, mode: str) -> nn.Module:
    options = _jelly_options(draw, mode)
    del options["v_reset"]
    levels = surrogate.MultiLevelSpikeCount(draw(st.sampled_from([1, 4, 7])))
    return jelly.ILIFNode(tau=draw(st.sampled_from([4 / 3, 2.0])), surrogate_function=levels, **options)


def _simple(draw: Any, mode: str) -> dict[str, Any]:
    options = _jelly_options(draw, mode)
    options.pop("store_v_seq", None)
    return options


def _simple_lif(draw: Any, mode: str) -> nn.Module:
    """It takes no soft reset, and starts from a number."""
    options = _simple(draw, mode) | {"v_reset": 0.0}
    return jelly.SimpleLIFNode(**_taus(draw), **options)


def _half(draw: Any, mode: str) -> nn.Module:
    options = _jelly_options(draw, mode)
    del options["v_reset"]
    return jelly.HalfThresholdIFNode(**options)


def _online(cls: Any) -> Callable[[Any, str], nn.Module]:
    """Neurons for training on line detach their reset themselves."""

    def make(draw: Any, mode: str) -> nn.Module:
        options = _jelly_options(draw, "s")
        del options["detach_reset"]
        return cls(**_taus(draw), **options)

    return make


#: Readable classes of SpikingJelly; each entry draws one in a step mode.
SPIKINGJELLY: dict[type[nn.Module], Callable[[Any, str], nn.Module]] = {
    jelly.IFNode: lambda draw, mode: jelly.IFNode(**_jelly_options(draw, mode)),
    jelly.LIFNode: lambda draw, mode: jelly.LIFNode(**_taus(draw), **_jelly_options(draw, mode)),
    jelly.ParametricLIFNode: _parametric,
    jelly.CUBALIFNode: _cuba,
    jelly.ILIFNode: _counting,
    jelly.TernaryIFNode: lambda draw, mode: jelly.TernaryIFNode(**_jelly_options(draw, mode)),
    jelly.TernaryLIFNode: lambda draw, mode: jelly.TernaryLIFNode(**_taus(draw), **_jelly_options(draw, mode)),
    jelly.SimpleIFNode: lambda draw, mode: jelly.SimpleIFNode(**_simple(draw, mode)),
    jelly.SimpleLIFNode: _simple_lif,
    jelly.HalfThresholdIFNode: _half,
    jelly.OTTTLIFNode: _online(jelly.OTTTLIFNode),
    jelly.SLTTLIFNode: _online(jelly.SLTTLIFNode),
}
#: Those that take single steps alone.
_STEPS_ALONE = (jelly.OTTTLIFNode, jelly.SLTTLIFNode)


def spikingjelly_neuron(draw: Any, mode: str) -> nn.Module:
    """A neuron in step mode ``"s"`` or ``"m"``."""
    kinds = [kind for kind in SPIKINGJELLY if mode == "s" or kind not in _STEPS_ALONE]
    return SPIKINGJELLY[draw(st.sampled_from(kinds))](draw, mode)
