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


def classify_startup() -> str:
    result = load("classify_startup")
    row, torch = (result["results"][name] for name in ("sxq classify", "import torch"))
    ratio = row["processor_seconds"] / torch["processor_seconds"]
    return (
        f"From a cold start to the answer it takes {row['clock_seconds']:.2f} s ({row['processor_seconds']:.2f} s of"
        f" processor time); `import torch` alone takes {torch['clock_seconds']:.2f} s\n({1 / ratio:.1f} times the"
        f" processor time; {result['machine']['processor']}, the least of several, load average"
        f" {result['load_average']:.0f}; `benchmarks/results/classify_startup.json`)."
    )


#: By the name between their markers.
TABLES = {
    "cli startup figures": cli_startup,
    "classify startup figures": classify_startup,
}
