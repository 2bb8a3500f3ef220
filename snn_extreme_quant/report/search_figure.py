"""The figure of ``sxq plot search``: sensitivity, Pareto front, and the way through the tiers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_extreme_quant.precision_search.levels import level_name
from snn_extreme_quant.precision_search.metrics import METRICS
from snn_extreme_quant.precision_search.result import Candidate, SearchResult
from snn_extreme_quant.report.figures import COLOURS, new_figure, save_figure

__all__ = ["draw_search"]

_BLUE, _RED, _GREEN, _GREY = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[7]
#: Rows of the heat map that have room for numbers.
_NUMBERED = 24
#: Of levels that the sweep did not look at.
_UNSEEN = "0.88"


def draw_search(path: Path, result: SearchResult) -> None:
    """Draw a search.

    Above on the left what each block alone loses at each level; on the right all candidates with limits and front;
    below memory and quality of what the tiers tried, in order.

    Args:
        path: a ``.png`` or ``.svg`` file.
        result: of a search.
    """
    rows = max(1, len(result.sensitivity))
    height = 3.2 + max(3.4, 0.3 * rows)
    figure, [[heat, front], [memory, quality]] = new_figure(12.5, height, 2, 2, (max(3.4, 0.3 * rows), 3.2))
    _heat(figure, heat, result)
    _front(front, result)
    _path(memory, quality, result)
    save_figure(figure, path)


def _heat(figure: Any, axis: Any, result: SearchResult) -> None:
    axis.grid(visible=False)
    axis.set_title("Drop where one block alone is quantised", fontsize=11, loc="left")
    if not result.sensitivity:
        axis.text(0.5, 0.5, "no sweep was made", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    values = {
        name: {level_name(level): drop for level, drop in row.items()} for name, row in result.sensitivity.items()
    }
    looked_at = {level for row in values.values() for level in row}
    levels = [level for level in result.settings["levels"] if level in looked_at]
    table = [[values[name].get(level, math.nan) for level in levels] for name in values]
    known = [value for row in table for value in row if math.isfinite(value)]
    # Colours stop where a drop says no more than that the model is lost.
    limit = result.settings["max_drop"]
    most = max(known, default=1.0)
    top = min(most, 5 * limit) if limit else most
    image = axis.imshow(table, cmap="OrRd", vmin=0.0, vmax=max(top, 1e-9), aspect="auto")
    if len(values) <= _NUMBERED:
        for row, drops in enumerate(table):
            for column, drop in enumerate(drops):
                shown = "" if math.isnan(drop) else "failed" if math.isinf(drop) else f"{drop:.3g}"
                colour = "white" if math.isfinite(drop) and drop > 0.6 * top else "black"
                axis.text(column, row, shown, ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_xticks(range(len(levels)), levels)
    named = [
        name if result.roles.get(name, name) in (name, "body") else f"{name} ({result.roles[name]})" for name in values
    ]
    axis.set_yticks(range(len(values)), named, fontsize=8.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    share = result.settings["sensitivity"]
    said = f"bits ({'all' if share == 1 else f'{share:.0%}'} of the examples)"
    if any(math.isnan(value) for row in table for value in row):
        axis.set_facecolor(_UNSEEN)
        said += "; grey: not looked at, as a level below\nloses next to nothing (all of them: sensitivity=1)"
    axis.set_xlabel(said)
    figure.colorbar(
        image, label=METRICS[result.settings["metric"]].unit, pad=0.02, extend="max" if top < most else "neither"
    )


def _front(axis: Any, result: SearchResult) -> None:
    metric = METRICS[result.settings["metric"]]
    axis.set_title("Candidates, limits and Pareto front", fontsize=11, loc="left")
    groups: tuple[tuple[str, Callable[[Candidate], bool], str, str], ...] = (
        ("within the drop", lambda c: c.status == "ok", _GREEN, "o"),
        ("beyond it", lambda c: c.status == "violated", _RED, "x"),
        ("estimated", lambda c: c.status == "open", _GREY, "."),
    )
    for label, belongs, colour, marker in groups:
        points = [c for c in result.candidates if belongs(c) and math.isfinite(c.quality)]
        if points:
            x, y = _points(points, result)
            axis.scatter(x, y, s=16, color=colour, marker=marker, alpha=0.6, linewidths=1.0, label=label)
    x, y = _points(result.front, result)
    axis.plot(x, y, color=_BLUE, linewidth=1.4, marker="o", markersize=3, label="Pareto front")
    if result.chosen is not None:
        x, y = _points([result.chosen], result)
        axis.scatter(x, y, s=130, marker="*", color=_BLUE, edgecolors="black", zorder=5, label="chosen")
    drop, limit = result.settings["max_drop"], result.settings["max_memory"]
    if drop is not None:
        axis.axhline(metric.worse_by(result.baseline.quality, drop), color="black", linewidth=0.9, linestyle="--")
    if limit is not None:
        axis.axvline(100 * limit / result.baseline.memory, color="black", linewidth=0.9, linestyle="--")
    axis.axhline(result.baseline.quality, color=_GREY, linewidth=0.9, linestyle=":")
    _see_the_limit(axis, result)
    axis.set_xscale("log")
    axis.set_xlabel("memory (% of float32)")
    _percent_ticks(axis)
    axis.set_ylabel(f"{metric.name}{' (%)' if metric.higher else ''}")
    axis.legend(frameon=False, fontsize=8)


def _see_the_limit(axis: Any, result: SearchResult) -> None:
    """Leave lost models out of the picture: they would press all others into a line."""
    metric, drop = METRICS[result.settings["metric"]], result.settings["max_drop"]
    known = [c.drop for c in (*result.front, *result.candidates) if math.isfinite(c.drop)]
    if not drop or max(known, default=0.0) <= 6 * drop:
        return
    ends = sorted(
        metric.worse_by(result.baseline.quality, worse) for worse in (min(0.0, *known) - 0.3 * drop, 4 * drop)
    )
    axis.set_ylim(*ends)


def _percent_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _points(candidates: Any, result: SearchResult) -> tuple[list[float], list[float]]:
    return [100 * c.memory / result.baseline.memory for c in candidates], [c.quality for c in candidates]


def _path(memory: Any, quality: Any, result: SearchResult) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = [(step, result.candidates[step.candidate]) for step in result.path]
    tiers = list(dict.fromkeys(step.tier for step, _ in steps))
    share = 100 / result.baseline.memory
    shown: tuple[tuple[Any, Callable[[Candidate], float]], ...] = (
        (memory, lambda c: share * c.memory),
        (quality, lambda c: c.quality),
    )
    for axis, value in shown:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, tier in enumerate(tiers):
            inside = [(i, step, c) for i, (step, c) in enumerate(steps) if step.tier == tier]
            colour = COLOURS[number % 7]
            kept = [(i, value(c)) for i, step, c in inside if step.kept]
            tried = [(i, value(c)) for i, step, c in inside if not step.kept and math.isfinite(c.quality)]
            axis.plot(*_columns(kept), color=colour, marker="o", markersize=3, linewidth=1.2, label=tier)
            axis.scatter(*_columns(tried), color=colour, marker="x", s=18, linewidths=1.0)
        axis.set_xlabel("candidates in their order (x: taken back)")
    drop, limit = result.settings["max_drop"], result.settings["max_memory"]
    metric = METRICS[result.settings["metric"]]
    if limit is not None:
        memory.axhline(share * limit, color="black", linewidth=0.9, linestyle="--")
    if drop is not None:
        bound = metric.worse_by(result.baseline.quality, drop)
        quality.axhline(bound, color="black", linewidth=0.9, linestyle="--")
        _see_the_limit(quality, result)
    memory.set_ylabel("memory (% of float32)")
    memory.set_ylim(bottom=0)
    quality.set_ylabel(f"{metric.name}{' (%)' if metric.higher else ''}")
    memory.set_title("Way through the tiers: memory", fontsize=11, loc="left")
    quality.set_title("Way through the tiers: quality", fontsize=11, loc="left")
    if tiers:
        memory.legend(frameon=False, fontsize=8.5)


def _columns(pairs: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
