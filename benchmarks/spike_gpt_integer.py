"""What the integer profile costs a trained SpikeGPT, as a whole and part by part, without training and with a little.

    python benchmarks/spike_gpt_integer.py [NAME=RUN ...] [--trained NAME=RUN ...] [--parts N]

RUN is a finished folder of `sxq train` on a text, whose data lie where the run read them. Figures are those of the
whole dev text. With --parts each part is made integer alone too, in the reference profile's float32, on the first N
characters. Runs behind --trained went on from those of the same names, in the integer profile; their figures are those
that they recorded. Runs recorded before are kept; the same name replaces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from record import RESULTS, parser, write
from torch import Tensor

from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.exported.shift_tables import NORM_FRACTION
from snn_extreme_quant.models import SpikeGPT
from snn_extreme_quant.models.bert.shifts import shift_norm_sums
from snn_extreme_quant.models.gpt import chains, integer_parts, spike_gpt, wkv
from snn_extreme_quant.models.gpt import integer_tokens as whole
from snn_extreme_quant.models.gpt.exact import exponential
from snn_extreme_quant.models.gpt.integer_parts import CURRENT, GATE, KEY, NORM, SQUARED, VALUE, Units
from snn_extreme_quant.neurons.token_lif import TokenLIF
from snn_extreme_quant.training.language import split_text
from snn_extreme_quant.training.recipe_text import TextTask
from snn_extreme_quant.training.text_figures import text_figures

_NAME = "spike_gpt_integer"


def put(x: Tensor, units: Units) -> Tensor:
    """Return numbers on a grid, as a product gives them."""
    return units.real(whole.limited(torch.floor(x.double() * 2.0**units.fraction + 0.5), units.most))


# One part of the reference profile in whole numbers each.


def norms() -> Iterator[Any]:
    yield mock.patch.object(spike_gpt, "norm", lambda layer, x: integer_parts.whole_norm(layer, x, NORM))


def coarse_norms() -> Iterator[Any]:
    """As SpikingBert's integer profile has them."""

    def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
        return shift_norm_sums(x)[0] * 2.0**-NORM_FRACTION * layer.weight + layer.bias

    yield mock.patch.object(spike_gpt, "norm", norm)


def inputs() -> Iterator[Any]:
    """What products read, in 16 bits."""
    yield mock.patch.object(
        spike_gpt, "reach", lambda layer, _, kind: (
            integer_parts.input_units(layer, kind).fraction, 2.0 ** integer_parts._REACH[kind]
        )
    )  # fmt: skip


def sigmoids() -> Iterator[Any]:
    def gated(x: Tensor, value: Tensor, grid: chains.Grid | None = None) -> Tensor:
        opened = whole.gate(GATE.of(put(x * GATE.factor, GATE))).float() * 2.0**-15
        return opened * value if grid is None else grid.put(opened * value)

    yield mock.patch.object(spike_gpt, "gated", gated)


def squares() -> Iterator[Any]:
    def squared(x: Tensor, grid: chains.Grid | None = None) -> Tensor:
        found = put(x, SQUARED).clamp_min(0.0).square()
        return found if grid is None else grid.put(found)

    yield mock.patch.object(spike_gpt, "squared", squared)


def averages(*, powers: bool = False, decays: bool = False, divisions: bool = False) -> Iterator[Any]:
    """Weighted averages whose exponentials, decays, or values and quotients are whole numbers, the rest in float64."""

    def average(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, a: Tensor, b: Tensor) -> Any:
        factor = wkv.factors(decay, first)[0].double()
        units, bonus = whole.wkv_factors(decay, first)
        if decays:
            factor = units * 2.0**-16
        if powers:
            exponent = KEY.of(put(key * KEY.factor, KEY))
            weight, now = (whole.key_power(k) * 2.0**-18 for k in (exponent, exponent + bonus))
        else:
            weight = exponential(key.clamp(-60.0, 60.0)).double()
            now = weight * wkv.factors(decay, first)[1]
        if divisions:
            value = put(value, VALUE)
        found, numerator, denominator = torch.empty_like(value), a.double(), b.double()
        for t in range(len(key)):
            found[t] = (numerator + now[t] * value[t]) / (denominator + now[t])
            numerator = numerator * factor + weight[t] * value[t]
            denominator = denominator * factor + weight[t]
        return put(found, VALUE) if divisions else found, numerator.float(), denominator.float()

    yield mock.patch.object(spike_gpt, "weighted_average", average)


def neurons() -> Iterator[Any]:
    def forward(lif: TokenLIF, current: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        units = CURRENT.of(put(current / lif.tau, CURRENT))
        spikes, after = whole.fired(units, CURRENT.of(potential), whole.leak_of(lif.tau), 1 << CURRENT.fraction)
        return spikes.float(), CURRENT.real(after)

    yield mock.patch.object(TokenLIF, "forward", forward)


PARTS: dict[str, Callable[[], Iterator[Any]]] = {
    "norms by 16 mantissas": norms,
    "norms by 4 mantissas, as SpikingBert's (not in the profile)": coarse_norms,
    "inputs of products in 16 bits": inputs,
    "sigmoid by a power of two and a division": sigmoids,
    "exponentials by powers of two": lambda: averages(powers=True),
    "decays of 16 bits": lambda: averages(decays=True),
    "values and quotients of 16 bits": lambda: averages(divisions=True),
    "squares": squares,
    "currents and potentials in fixed point": neurons,
}


@contextmanager
def made_integer(part: str) -> Iterator[None]:
    (patch,) = PARTS[part]()
    with patch:
        yield


def in_integers(model: SpikeGPT) -> SpikeGPT:
    """Return a model of the reference profile in whole numbers."""
    made = SpikeGPT(replace(model.config, profile="integer")).eval()
    made.load_state_dict(model.state_dict())
    return made


Figures = Callable[[SpikeGPT, str], dict[str, Any]]


def rows_of(model: SpikeGPT, figures: Figures) -> list[dict[str, Any]]:
    """Return the figures of each part in whole numbers, behind those of both profiles."""
    rows = [figures(model, "reference"), figures(in_integers(model), "integer")]
    for part in PARTS:
        with made_integer(part):
            rows.append(figures(model, part))
    return rows


def measured(folder: Path, parts: int) -> dict[str, Any]:
    """Return the figures of a run's last model in both profiles."""
    recipe = json.loads((folder / "result.json").read_text())["recipe"]
    task, last = TextTask(**recipe["text"]), folder / "last"
    _, dev = split_text(task, Path(recipe["data"]))
    tokens = TextTokens.load(last)

    def figures(model: SpikeGPT, what: str, characters: int | None = None) -> dict[str, Any]:
        found = {"what": what, **text_figures(model, tokens, dev[:characters], task.streams)}
        print(found, flush=True)
        return found

    model = SpikeGPT.from_pretrained(last).eval()
    run: dict[str, Any] = {
        "seed": recipe["train"]["seed"],
        "weights": recipe["stages"][-1]["weights"],
        "characters": len(dev),
        "rows": [figures(model, "reference"), figures(in_integers(model), "integer")],
    }
    if parts:
        run["parts"] = {"characters": parts, "rows": rows_of(model, lambda m, what: figures(m, what, parts))}
    return run


def trained_on(folder: Path) -> dict[str, Any]:
    """Return what a run in the integer profile says of its last model, on the whole dev text."""
    outcome = json.loads((folder / "result.json").read_text())
    if outcome["recipe"]["gpt"].get("profile") != "integer":
        raise SystemExit(f"{folder} was not trained with gpt.profile=integer.")
    return {
        "what": "integer, trained on",
        **outcome["metrics"],
        "firing_rate": outcome["firing_rate"],
        "steps": sum(stage["steps"] for stage in outcome["recipe"]["stages"]),
        "tokens_a_step": outcome["recipe"]["train"]["batch"] * outcome["recipe"]["text"]["context"],
    }


def named(given: list[str]) -> dict[str, Path]:
    return {name: Path(folder) for name, _, folder in (each.partition("=") for each in given)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="*", metavar="NAME=RUN")
    options.add_argument("--trained", nargs="*", default=[], metavar="NAME=RUN", help="trained on in whole numbers")
    options.add_argument("--parts", type=int, default=0, metavar="N", help="characters that each part is tried on")
    chosen = options.parse_args()
    path = RESULTS / f"{_NAME}.json"
    runs = json.loads(path.read_text())["runs"] if path.is_file() else {}
    for name, folder in named(chosen.runs).items():
        runs[name] = measured(folder, chosen.parts)
    for name, folder in named(chosen.trained).items():
        runs[name]["trained"] = trained_on(folder)
    write(_NAME, {"runs": runs})


if __name__ == "__main__":
    main()
