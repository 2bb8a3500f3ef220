"""The picture: what the network sees and fires for one digit, and accuracy over the number of time steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor, nn

from snn_extreme_quant.demo.data import CLASSES, Digits, over_time
from snn_extreme_quant.demo.training import STEPS
from snn_extreme_quant.frameworks import reset

__all__ = ["TITLES", "draw"]

TITLES = {"snntorch": "snnTorch", "spikingjelly": "SpikingJelly"}

_SHOWN = 0  # index of the test image
# Okabe and Ito's colours, which the colour-blind can tell apart; line and marker differ too.
_STYLES: dict[str, dict[str, Any]] = {
    "float": {"color": "#000000", "linestyle": "-", "marker": "o", "markerfacecolor": "white"},
    "ternary": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "binary": {"color": "#D55E00", "linestyle": ":", "marker": "^"},
}


def _spikes(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spikes ``(T, N)`` of the hidden and of the output layer for one image ``(1, 8, 8)``."""
    hidden: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden.append(output[0] if isinstance(output, tuple) else output)

    layer = network.get_submodule(str(network.hidden_layer))
    handle = layer.register_forward_hook(record)
    reset(network)
    try:
        with torch.no_grad():
            output = network(over_time(image.unsqueeze(0), STEPS))
    finally:
        handle.remove()
        reset(network)
    return torch.stack(hidden).view(STEPS, -1), output.view(STEPS, -1)


def _raster(axes: Any, spikes: Tensor, label: str, size: float) -> None:
    steps, neurons = spikes.numpy().nonzero()
    axes.scatter(steps + 1, neurons, s=size, marker="s", color=_STYLES["ternary"]["color"], linewidths=0)
    axes.set(xlabel="time step", ylabel=label, xlim=(0.5, STEPS + 0.5), ylim=(-0.7, spikes.shape[1] - 0.3))
    axes.set_xticks(range(1, STEPS + 1))


def _accuracy(axes: Any, framework: str, curves: Mapping[str, Sequence[float]], lowest: float) -> None:
    for weights, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=f"{weights} ({curve[-1]:.1%})", **_STYLES[weights])
    axes.set(xlabel="time steps", ylim=(lowest, 1.01), title=TITLES[framework])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False)


def draw(
    path: Path,
    shown: str,
    network: nn.Module,
    digits: Digits,
    curves: Mapping[tuple[str, str], Sequence[float]],
) -> None:
    """Draw one network's spikes for a test digit above the accuracy of all networks over time steps.

    Args:
        path: the .png file.
        shown: which network fires in the picture, in words.
        network: that network.
        digits: the test image is taken from here.
        curves: accuracy after 1, 2, ... T steps, by framework and weights.
    """
    image, label = digits.test_images[_SHOWN], int(digits.test_labels[_SHOWN])
    hidden, output = _spikes(network, image)
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.15, 1), hspace=0.04)[:, 0]

    upper.suptitle(f"One test digit and the spikes it causes ({shown})", fontweight="bold")
    picture, middle, last = upper.subplots(1, 3, width_ratios=(0.8, 1.3, 1.3))
    picture.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    picture.set(xticks=[], yticks=[])
    picture.set_title(f"input, label {label}", fontsize=10)
    _raster(middle, hidden, "neuron", 14)
    middle.set_title(f"hidden dense layer: {int(hidden.sum())} spikes", fontsize=10)
    _raster(last, output, "class", 70)
    last.set_yticks(range(CLASSES))
    last.axhspan(label - 0.5, label + 0.5, color="#F0E442", alpha=0.5, linewidth=0, zorder=0)
    last.set_title(
        f"output layer: {int(output.sum())} spikes, most of class {int(output.sum(0).argmax())}", fontsize=10
    )

    lower.suptitle("Test accuracy of the ONNX files in onnxruntime, by number of time steps", fontweight="bold")
    frameworks = list(dict.fromkeys(framework for framework, _ in curves))
    lowest = max(0.0, min(min(curve) for curve in curves.values()) - 0.03)
    for axes, framework in zip(lower.subplots(1, len(frameworks), squeeze=False)[0], frameworks, strict=True):
        _accuracy(axes, framework, {w: curve for (f, w), curve in curves.items() if f == framework}, lowest)
        axes.set_ylabel("test accuracy")
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.15)
