"""Time from a cold start to the answer of `sxq classify`, in a process of its own, beside `import torch`.

Usage: python benchmarks/classify_startup.py. Interleaved, the least of several; processor time (user and system, all
threads) and time on the clock. The second does not say much where other work runs on the machine; the load average is
recorded with it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

from record import parser, write

ROUNDS = 7
_SXQ = "from snn_extreme_quant.cli import main; main()"
_TEXT = "a gorgeous, witty film"
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "sxq classify": ("-c", _SXQ, "classify", _TEXT),
    "sxq classify --native no": ("-c", _SXQ, "classify", _TEXT, "--native", "no"),
    "sxq classify --early-exit 0.9": ("-c", _SXQ, "classify", _TEXT, "--early-exit", "0.9"),
}


def measure(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Return processor time and time on the clock of a Python process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


if __name__ == "__main__":
    parser(__doc__).parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            found[name].append(measure(arguments))
    results = {
        name: {"processor_seconds": min(p for p, _ in times), "clock_seconds": min(c for _, c in times)}
        for name, times in found.items()
    }
    write("classify_startup", {"results": results, "load_average": os.getloadavg()[0]})
