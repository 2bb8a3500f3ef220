"""The figures of docs/cli.md."""

from __future__ import annotations

from .results import load


def cli_startup() -> str:
    result = load("cli_startup")
    ratios = {name: f"{row['ratio']:.2f}" for name, row in result["results"].items()}
    return (
        f"Of the processor time of `import torch`, `sxq inspect` takes {ratios['sxq inspect']}, with `--json`"
        f" {ratios['sxq inspect --json']}, and `sxq --help` {ratios['sxq --help']}\n"
        f"({result['machine']['processor']}, the least of several; `benchmarks/results/cli_startup.json`)."
    )


#: By the name between their markers.
TABLES = {
    "cli startup figures": cli_startup,
}
