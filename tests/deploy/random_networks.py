"""Random small networks of both frameworks, for property tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq


@dataclass
class Network:
    """A quantised network, how it was built (for hypothesis to print), and an input on which all its sums are exact."""

    model: nn.Module
    inputs: Tensor
    spikes_in: bool
    text: str

    def __repr__(self) -> str:
        return self.text


_THRESHOLDS = st.sampled_from([0.25, 0.3, 0.5, 1.0, 1.5])


def _snntorch_neuron(draw: Any, width: int, shape: tuple[int, ...]) -> nn.Module:
    threshold: Any = draw(_THRESHOLDS)
    reset = draw(st.sampled_from(["subtract", "zero", "none"]))
    if draw(st.booleans()):
        beta: Any = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.2]))
        if draw(st.booleans()):
            beta = torch.linspace(0.1, 1.1, width).view(width, *(1,) * (len(shape) - 1))
        if draw(st.booleans()):
            threshold = torch.linspace(0.2, threshold, width).view(width, *(1,) * (len(shape) - 1))
        return snn.Leaky(
            beta=beta,
            threshold=threshold,
            reset_mechanism=reset,
            reset_delay=draw(st.booleans()),
            learn_beta=draw(st.booleans()),
            learn_threshold=draw(st.booleans()),
            init_hidden=True,
        )
    options = draw(st.sampled_from([{"beta": 0.9}, {"R": 2, "C": 3.0}, {"R": 0.7, "C": 5.0, "time_step": 0.5}]))
    return snn.Lapicque(threshold=threshold, reset_mechanism=reset, init_hidden=True, **options)


def _spikingjelly_neuron(draw: Any, step_mode: str) -> nn.Module:
    options = {
        "v_threshold": draw(_THRESHOLDS),
        "v_reset": draw(st.sampled_from([None, 0.0, -0.2])),
        "detach_reset": draw(st.booleans()),
        "step_mode": step_mode,
    }
    if draw(st.booleans()):
        return sj_neuron.IFNode(**options)
    return sj_neuron.LIFNode(tau=draw(st.sampled_from([1.5, 2.0, 7.3])), decay_input=draw(st.booleans()), **options)


def _scaled(layer: nn.Module, draw: Any, lattice: bool) -> nn.Module:
    """Weights large enough for spikes; on a lattice, so that membrane potentials meet thresholds exactly."""
    with torch.no_grad():
        layer.weight.mul_(draw(st.sampled_from([2.0, 5.0])))  # type: ignore[operator, union-attr]
        if lattice:
            layer.weight.copy_(torch.where(layer.weight > 0, 0.1, -0.1))  # type: ignore[arg-type, operator]
            if layer.bias is not None:
                layer.bias.copy_((layer.bias * 8).round() / 8)  # type: ignore[arg-type, operator, union-attr]
    return layer


@st.composite
def networks(draw: Any, conv: bool | None = None, steps: int | None = None) -> Network:
    """Depth 1 to 4, widths 1 to 130, T 1 to 20, conv and linear, all neuron options, binary and ternary."""
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    framework = draw(st.sampled_from(["snntorch", "spikingjelly-s", "spikingjelly-m"]))
    jelly = framework != "snntorch"
    mode = framework[-1]
    kind = draw(st.sampled_from(["linear", "conv1d", "conv2d"])) if conv is None else ("conv2d" if conv else "linear")
    depth = draw(st.integers(1, 4))
    lattice = draw(st.booleans())
    steps = draw(st.integers(1, 20)) if steps is None else steps
    batch = draw(st.integers(1, 3))
    width = (
        draw(st.one_of(st.integers(1, 130), st.sampled_from([1, 4, 8, 64, 65])))
        if kind == "linear"
        else draw(st.integers(1, 5))
    )
    size = {"linear": (), "conv1d": (9,), "conv2d": (5, 6)}[kind]
    shape: tuple[int, ...] = (width, *size)

    modules: list[nn.Module] = []
    spikes_in = draw(st.booleans())
    if spikes_in:
        inputs = (torch.rand(steps, batch, *shape) < 0.4).float()
    else:
        inputs = torch.rand(steps, batch, *shape) * 2
        modules.append(sxq.FixedPointInput(bits=draw(st.sampled_from([1, 4, 8, 12])), fraction=draw(st.integers(0, 6))))
    library: Any = sj_layer if jelly else nn
    options = {"step_mode": mode} if jelly else {}
    for index in range(depth):
        out = draw(st.one_of(st.integers(1, 130), st.just(1))) if len(shape) == 1 else draw(st.integers(1, 6))
        bias = draw(st.booleans())
        if len(shape) == 1:
            modules.append(_scaled(library.Linear(shape[0], out, bias=bias, **options), draw, lattice))
            shape = (out,)
        else:
            cls = library.Conv1d if len(shape) == 2 else library.Conv2d
            groups = draw(st.sampled_from([1, shape[0]]))
            out = out * groups
            layer = cls(
                shape[0], out, draw(st.sampled_from([1, 3])), padding=1, stride=draw(st.sampled_from([1, 2])),
                groups=groups, bias=bias, **options,
            )  # fmt: skip
            modules.append(_scaled(layer, draw, lattice))
            with torch.no_grad():
                plain = nn.Conv1d if len(shape) == 2 else nn.Conv2d
                probe: Any = plain(shape[0], out, layer.kernel_size, layer.stride, layer.padding, groups=groups)
                shape = (out, *probe(torch.zeros(1, *shape)).shape[2:])
        modules.append(_spikingjelly_neuron(draw, mode) if jelly else _snntorch_neuron(draw, shape[0], shape))
        if len(shape) == 3 and min(shape[1:]) > 1 and draw(st.booleans()):
            modules.append(library.MaxPool2d(2, **options))
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        if len(shape) > 1 and index < depth - 1 and draw(st.booleans()):
            modules.append(library.Flatten(**options))
            shape = (int(torch.Size(shape).numel()),)
    model = nn.Sequential(*modules)
    config = draw(
        st.sampled_from([sxq.Ternary(), sxq.Ternary(per="tensor"), sxq.Binary(), sxq.Binary(per="tensor", center=True)])
    )
    sxq.quantize_(model, config)
    return Network(
        model, inputs, spikes_in, f"seed {seed}, {framework}, {config}, inputs {tuple(inputs.shape)}\n{model}"
    )
