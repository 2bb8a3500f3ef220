"""The search of precisions: what it finds, what that costs, and others beside it.

Give a folder of a trained SpikeGPT or SpikingBert and its data, or nothing: then a small network that is trained on
scikit-learn's digits. For each case (limits): the search; with --rivals others (plain QSLM with as many evaluations as
it needs, the rest with as many as the search took); with --finetune a polish of the plan. With --alphas the first case
is selected anew for each alpha, from the same evaluations. With --roles the drop of each block alone at some levels,
and of a SpikeGPT's embedding without the storage that keeps its signs.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, parser, write
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.cli.polished import loss_of
from snn_extreme_quant.cli.searched import Data, searched
from snn_extreme_quant.precision_search import Classification, Hierarchy, SearchResult, baselines, polish

RIVALS = ("plain", "uniform", "greedy", "random_plans", "tpe")


def digits() -> tuple[nn.Module, Classification]:
    """Train a network of three blocks on half of the digits; it is measured on the other half."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = load_digits()
    images, labels = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    half = len(images) // 2
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()) for _ in range(3)]
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *blocks, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(120):
        loss = nn.functional.cross_entropy(net(images[:half]), labels[:half])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held = images[half:]
    return net.eval(), Classification(lambda model, rows: model(held[rows]), labels[half:])


class Clock:
    """An evaluator with the processor time that its evaluations took."""

    def __init__(self, evaluator: Any) -> None:
        self.evaluator, self.seconds = evaluator, 0.0
        self.metric, self.examples = evaluator.metric, evaluator.examples

    def scores(self, model: nn.Module, rows: Any) -> Any:
        started = time.process_time()
        try:
            return self.evaluator.scores(model, rows)
        finally:
            self.seconds += time.process_time() - started

    def reduce(self, scores: Any) -> float:
        return float(self.evaluator.reduce(scores))

    def fingerprint(self) -> str:
        return str(self.evaluator.fingerprint())


def timed(function: Any, *given: Any, **options: Any) -> tuple[Any, dict[str, float]]:
    """Return what a function of a model and a clock gives, and the processor time: of all, and of evaluations."""
    given[1].seconds = 0.0
    started = time.process_time()
    found = function(*given, **options)
    return found, {
        "cpu_seconds": round(time.process_time() - started, 2), "evaluation_cpu_seconds": round(given[1].seconds, 2)
    }  # fmt: skip


def row(method: str, result: SearchResult, limits: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    chosen = result.chosen
    figures = {} if chosen is None else {
        "quality": chosen.quality, "drop": chosen.drop, "memory": chosen.memory, "saved": chosen.saved,
        "score": chosen.score, "levels": dict(chosen.levels),
    }  # fmt: skip
    nearest = {
        name: {"drop": point.drop, "saved": point.saved}
        for name in ("least_memory", "least_drop")
        if (point := getattr(result, name)) is not None
    }
    cost = result.cost or {}
    return {
        "method": method, **limits, "feasible": result.feasible, **figures, **nearest,
        "baseline": result.baseline.quality, "float_bytes": result.baseline.memory, "metric": result.settings["metric"],
        "evaluations": result.evaluations, "examples": result.examples_evaluated, **seconds,
        "reused": cost.get("reused", 0.0),
    }  # fmt: skip


def roles(model: nn.Module, evaluator: Any, levels: list[float]) -> list[dict[str, Any]]:
    """Measure each block alone at each level, on all examples."""
    found = sxq.search(model, evaluator, max_drop=0.0, levels=levels, sensitivity=1.0, tiers=["global"])
    rows = [
        {"block": block.name, "role": block.role, "drops": dict(found.sensitivity[block.name])}
        for block in Hierarchy.of(model).blocks
    ]
    config = getattr(model, "config", None)
    if getattr(config, "binarised", False):
        rows.append({"block": "emb, signs not kept", "role": "input", "drops": unkept(model, evaluator, levels)})
    return rows


@torch.no_grad()
def unkept(model: nn.Module, evaluator: Any, levels: list[float]) -> dict[float, float]:
    """Return the drops where a binarised embedding is rounded as other matrices are, which changes signs."""
    configs = sxq.precision_search.level_configs(levels)
    every = np.arange(evaluator.examples)
    base, found = evaluator.reduce(evaluator.scores(model, every)), {}
    for level, config in configs.items():
        twin = copy.deepcopy(model)
        table = nn.Sequential(nn.Embedding(*twin.emb.weight.shape, _weight=twin.emb.weight.clone()))
        sxq.quantize_(table, config)
        twin.emb.weight.copy_(table(torch.arange(len(twin.emb.weight))))
        value = evaluator.reduce(evaluator.scores(twin, every))
        found[level] = base - value if evaluator.metric == "accuracy" else value - base
    return found


def polished(model: nn.Module, evaluator: Any, result: SearchResult, loss: Any, steps: int) -> dict[str, Any]:
    if result.chosen is None and result.least_drop is None:
        return {"steps": steps, "feasible": False}
    done, seconds = timed(polish, model, evaluator, result, loss, steps=steps)
    return {"steps": steps, **seconds, **done.to_dict()}


class Record:
    """A result that is written at once: a run may be ended."""

    def __init__(self, name: str, facts: dict[str, Any], more: bool) -> None:
        recorded = RESULTS / f"{name}.json"
        self.name = name
        self.found = {**facts, "rows": []}
        if more:
            self.found = json.loads(recorded.read_text())
            self.found = {key: value for key, value in self.found.items() if key not in ("benchmark", "machine")}

    def note(self, part: str, entry: Any) -> None:
        self.found[part] = [*self.found.get(part, []), entry]
        write(self.name, self.found)


def searches(given: argparse.Namespace, model: nn.Module, evaluator: Clock, loss: Any, record: Record) -> None:
    """Search the cases, the first with other alphas too, and polish what is found."""
    for number, case in enumerate(given.cases):
        limits, shared = asked(given, case)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "search.jsonl"
            ours, seconds = timed(sxq.search, model, evaluator, log=log, **shared)
            if not given.more:
                record.note("rows", row("search", ours, limits, seconds))
            for alpha in given.alphas if number == 0 else ():
                again, seconds = timed(sxq.search, model, evaluator, log=log, alpha=alpha, **shared)
                record.note("alphas", {"alpha": alpha, **row("search", again, limits, seconds)})
        if loss is not None:
            record.note("polished", {**limits, **polished(model, evaluator, ours, loss, given.finetune)})


def asked(given: argparse.Namespace, case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the limits of a case, and all options."""
    drop, _, memory = case.partition(":")
    limits = {"max_drop": float(drop), "max_memory": memory}
    return limits, {**limits, "levels": given.levels, "ties": given.tie}


def others(given: argparse.Namespace, model: nn.Module, evaluator: Clock, record: Record) -> None:
    """Try other searches on the first case."""
    limits, shared = asked(given, given.cases[0])
    for name in given.rivals:
        budget = {} if name == "plain" else {"budget": record.found["rows"][0]["evaluations"]}
        try:
            theirs, seconds = timed(getattr(baselines, name), model, evaluator, **budget, **shared)
        except sxq.errors.MissingDependencyError as error:
            print(f"{name}: {error}")
            continue
        record.note("rows", row(name, theirs, limits, seconds))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="a folder of sxq train; default a small network")
    options.add_argument("--data", type=Path, help="folder with the dev split, or a text")
    options.add_argument("--train-data", type=Path, help="what --finetune trains on")
    options.add_argument("--streams", type=int, default=128)
    options.add_argument("--cases", nargs="+", default=["2:20%"], help="limits as DROP:MEMORY")
    options.add_argument("--alphas", nargs="*", type=float, default=[])
    options.add_argument("--levels", nargs="+", type=float, default=list(sxq.precision_search.LEVELS))
    options.add_argument("--tie", nargs="*", default=[])
    options.add_argument("--rivals", nargs="*", default=[], choices=RIVALS)
    options.add_argument("--finetune", type=int, default=0, help="steps")
    options.add_argument("--roles", nargs="*", type=float, default=[], help="levels")
    options.add_argument("--more", action="store_true", help="add rivals, polish, alphas, roles to the recorded result")
    options.add_argument("--name", default="search_digits", help="of the result")
    given = options.parse_args()
    where = Data(given.data, None, given.streams, None, None, None, None)
    model, measure = digits() if given.model is None else searched(str(given.model), None, where)
    evaluator = Clock(measure)
    loss = loss_of(str(given.model), model, where, given.train_data, None) if given.finetune else None
    name = "digits" if given.model is None else given.model.resolve().parent.name
    record = Record(given.name, {"model": name, "examples": evaluator.examples}, given.more)
    if not given.more or given.alphas or given.finetune:
        searches(given, model, evaluator, loss, record)
    if given.roles:
        for entry in roles(model, evaluator, given.roles):
            record.note("roles", entry)
    others(given, model, evaluator, record)


if __name__ == "__main__":
    main()
