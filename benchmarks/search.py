"""The search of precisions against others: plain QSLM order, uniform, greedy, random, Optuna's TPE, with equal budgets.

Give a folder of a trained SpikeGPT or SpikingBert and its data, or nothing: then a small network that is trained on
scikit-learn's digits. Each rival gets as many evaluations as the search took; `plain` gets as many as it needs, and
tells what the search saved. With --alphas all of it is repeated for each alpha. A row of the result: limits, quality,
memory, score, evaluations, sensitivity of the blocks.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from record import parser, write
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.cli.searched import Data, searched
from snn_extreme_quant.precision_search import Classification, SearchResult, baselines

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


def row(method: str, result: SearchResult, limits: dict[str, Any], seconds: float) -> dict[str, Any]:
    chosen = result.chosen
    figures = {} if chosen is None else {
        "quality": chosen.quality, "drop": chosen.drop, "memory": chosen.memory, "saved": chosen.saved,
        "score": chosen.score,
    }  # fmt: skip
    nearest = {
        name: {"drop": point.drop, "saved": point.saved}
        for name in ("least_memory", "least_drop")
        if (point := getattr(result, name)) is not None
    }
    sweep = {block: dict(drops) for block, drops in result.sensitivity.items()}
    return {
        "method": method, **limits, "feasible": result.feasible, **figures, **nearest,
        "baseline": result.baseline.quality, "float_bytes": result.baseline.memory,
        "evaluations": result.evaluations, "seconds": round(seconds, 2), "sensitivity": sweep,
        "roles": dict(result.roles),
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="a folder of sxq train; default a small network")
    options.add_argument("--data", type=Path, help="folder with the dev split, or a text")
    options.add_argument("--streams", type=int, default=128)
    options.add_argument("--cases", nargs="+", default=["2:12%"], help="limits as DROP:MEMORY")
    options.add_argument("--alphas", nargs="+", type=float, default=[10.0])
    options.add_argument("--levels", nargs="+", type=float, default=list(sxq.precision_search.LEVELS))
    options.add_argument("--tie", nargs="*", default=[])
    options.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=RIVALS)
    options.add_argument("--name", default="search", help="of the result")
    given = options.parse_args()
    if given.model is None:
        model, evaluator = digits()
    else:
        where = Data(given.data, None, given.streams, None, None, None, None)
        model, evaluator = searched(str(given.model), None, where)
    rows = []
    for case in given.cases:
        drop, _, memory = case.partition(":")
        limits = {"max_drop": float(drop), "max_memory": memory}
        for alpha in given.alphas:
            shared = {**limits, "alpha": alpha, "levels": given.levels, "ties": given.tie}
            started = time.perf_counter()
            ours = sxq.search(model, evaluator, **shared)
            rows.append(row("search", ours, {**limits, "alpha": alpha}, time.perf_counter() - started))
            print(f"search alpha={alpha:g}\n{ours}\n")
            for name in given.rivals:
                budget = {} if name == "plain" else {"budget": ours.evaluations}
                started = time.perf_counter()
                try:
                    found = getattr(baselines, name)(model, evaluator, **budget, **shared)
                except sxq.errors.MissingDependencyError as error:
                    print(f"{name}: {error}")
                    continue
                rows.append(row(name, found, {**limits, "alpha": alpha}, time.perf_counter() - started))
                print(f"{name}: {str(found).splitlines()[0]} {found.evaluations:.1f} evaluations\n")
    write(given.name, {"model": None if given.model is None else given.model.name, "rows": rows})


if __name__ == "__main__":
    main()
