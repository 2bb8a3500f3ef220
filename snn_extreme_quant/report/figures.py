"""The figures of ``sxq plot``, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_extreme_quant.errors import OutputPathError
from snn_extreme_quant.output_files import check_writable
from snn_extreme_quant.report.rates import Convergence, kind_of

__all__ = ["COLOURS", "draw_accuracy", "draw_convergence", "draw_firing", "new_figure", "save_figure"]

#: Colours that stay apart for people who do not see all of them, and in print (Okabe & Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = "osD^vPX*"
#: Of curves that may lie on each other.
_DASHES = ("-", (0, (5, 2)), "-.", (0, (1, 1)))
#: An axis of accuracies spans at least so many points, so that a difference of one looks like one.
_LEAST_SPAN = 6.0


def new_figure(
    width: float, height: float, rows: int, columns: int, heights: Sequence[float] | None = None
) -> tuple[Any, list[list[Any]]]:
    """Return a figure, and its axes by row and column."""
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#DDDDDD", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, [list(row) for row in axes]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as ``.png`` or ``.svg``, the same bytes each time."""
    if path.suffix not in (".png", ".svg"):
        raise OutputPathError(f"{path}: figures are written as .png or .svg; name the file so.")
    check_writable(path)
    # Without these an SVG would carry a date and random names.
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "snn_extreme_quant"}):
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _time_axis(axis: Any, steps: Sequence[int]) -> None:
    powers = all(step & (step - 1) == 0 for step in steps)
    if powers:
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(steps), [str(step) for step in steps])
        axis.minorticks_off()
    axis.set_xlabel("time steps T")


def draw_convergence(path: Path, curves: Mapping[str, Convergence]) -> None:
    """Draw how rates settle: above the rates, below their distance from those at the most steps.

    On the left the sub-layers of the first model, on the right the last encoder layer at the first
    token, of all models.

    Args:
        path: a ``.png`` or ``.svg`` file.
        curves: by the name of the model.
    """
    figure, [[rates, output_rates], [distances, output_distances]] = new_figure(11, 7.4, 2, 2)
    name, first = next(iter(curves.items()))
    for index, kind in enumerate(first.rate):
        _curve(rates, (*first.steps, first.most), first.rate[kind], index, kind)
        _curve(distances, first.steps, first.distance[kind], index, kind)
    same = len({curve.most for curve in curves.values()}) == 1
    for index, (label, curve) in enumerate(curves.items()):
        _curve(output_rates, (*curve.steps, curve.most), curve.output_rate, index, label)
        _curve(output_distances, curve.steps, curve.output, index, label if same else f"{label}, T = {curve.most}")
    every = sorted({steps for curve in curves.values() for steps in curve.steps})
    last = sorted({*every, *(curve.most for curve in curves.values())})
    rates.set_title(f"Sub-layers of {name} (legend: below)", fontsize=11, loc="left")
    output_rates.set_title("Output: the last layer at the first token", fontsize=11, loc="left")
    for axis in (rates, output_rates):
        axis.set_ylabel("average spiking rate, mean of |a|")
    distances.set_ylabel(f"mean distance from rates at T = {first.most}")
    output_distances.set_ylabel(f"mean distance from rates at {f'T = {first.most}' if same else 'the last T'}")
    _time_axis(rates, (*first.steps, first.most))
    _time_axis(distances, first.steps)
    _time_axis(output_rates, last)
    _time_axis(output_distances, every)
    for axis in (rates, output_rates, distances, output_distances):
        axis.set_ylim(bottom=0)
    distances.legend(frameon=False, fontsize=8.5, ncols=2)  # there is room: distances fall
    output_rates.legend(frameon=False, fontsize=9, loc="lower right")
    output_distances.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _curve(axis: Any, steps: Sequence[int], values: Sequence[float], index: int, label: str) -> None:
    style: dict[str, Any] = {"color": COLOURS[index % 8], "marker": _MARKERS[index % 8], "markersize": 4.5}
    style |= {"linewidth": 1.4, "linestyle": _DASHES[index % len(_DASHES)]}
    axis.plot(steps, values, label=label, markevery=max(1, len(steps) // 8), **style)


def draw_accuracy(path: Path, models: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Draw accuracy and firing rate over T.

    Args:
        path: a ``.png`` or ``.svg`` file.
        models: by name, by T: ``"accuracy"`` (or the task's first metric) and ``"firing_rate"``.
    """
    figure, [[left, right]] = new_figure(9.5, 3.8, 1, 2)
    every = sorted({T for figures in models.values() for T in figures})
    metric = next(name for figures in models.values() for row in figures.values() for name in row)
    for index, (label, figures) in enumerate(models.items()):
        style = {"color": COLOURS[index % 8], "marker": _MARKERS[index % 8], "markersize": 5, "label": label}
        steps = sorted(figures)
        percent = 100.0 if metric == "accuracy" else 1.0
        left.plot(steps, [percent * figures[T][metric] for T in steps], **style)
        right.plot(steps, [figures[T]["firing_rate"] for T in steps], **style)
    if metric == "accuracy":
        low, high = left.get_ylim()
        room = max(0.0, _LEAST_SPAN - (high - low)) / 2
        left.set_ylim(low - room, high + room)
    left.set_ylabel("dev accuracy (%)" if metric == "accuracy" else f"dev {metric}")
    right.set_ylabel("spikes a neuron and step")
    highest = max(row["firing_rate"] for figures in models.values() for row in figures.values())
    right.set_ylim(0, 1.2 * highest or 1.0)
    left.set_title("Quality over time steps", fontsize=11, loc="left")
    right.set_title("Firing rate over time steps", fontsize=11, loc="left")
    for axis in (left, right):
        _time_axis(axis, every)
    left.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_firing(path: Path, rates: Mapping[str, float], title: str) -> None:
    """Draw the firing rate of each layer of neurons: a row a sub-layer, a column an encoder layer.

    Args:
        path: a ``.png`` or ``.svg`` file.
        rates: by layer.
        title: above the figure.
    """
    encoder = {name: rate for name, rate in rates.items() if name.startswith("encoder.")}
    layers = sorted({int(name.split(".")[1]) for name in encoder})
    kinds = list(dict.fromkeys(kind_of(name) for name in encoder))
    table = [
        [next(r for n, r in encoder.items() if n.split(".")[1] == str(i) and kind_of(n) == kind) for i in layers]
        for kind in kinds
    ]
    figure, [[axis]] = new_figure(2.6 + 0.75 * len(layers), 1.4 + 0.45 * len(kinds), 1, 1)
    axis.grid(visible=False)
    highest = max(max(row) for row in table) or 1.0
    shown = axis.imshow(table, cmap="Blues", vmin=0.0, vmax=highest, aspect="auto")
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            colour = "white" if value > 0.6 * highest else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8.5)
    axis.set_xticks(range(len(layers)), [str(layer + 1) for layer in layers])
    axis.set_yticks(range(len(kinds)), kinds)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    others = [f"{kind_of(name)} {rate:.2f}" for name, rate in rates.items() if name not in encoder]
    axis.set_xlabel("encoder layer" + (f"  (besides: {', '.join(others)})" if others else ""))
    axis.set_title(title, fontsize=10.5, loc="left")
    figure.colorbar(shown, label="spikes a neuron and step", pad=0.02)
    save_figure(figure, path)
