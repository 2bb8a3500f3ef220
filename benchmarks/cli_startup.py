"""Processor time of commands that should answer at once, relative to importing torch.

Usage: python benchmarks/cli_startup.py. Each in a process of its own, interleaved, the least of several.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import snntorch as snn
import torch
from record import parser, write
from torch import nn

import snn_extreme_quant as sxq

ROUNDS = 7
_SXQ = "from snn_extreme_quant.cli import main; main()"


def seconds(*arguments: str) -> float:
    """User and system time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        neurons = (snn.Leaky(0.9, init_hidden=True) for _ in range(2))
        model = nn.Sequential(*(m for n in neurons for m in (nn.Linear(768, 768), n)))
        sxq.quantize_(model, sxq.Ternary())
        sxq.export_onnx(model, torch.zeros(2, 1, 768), path, input="spikes")
        commands = {
            "import torch": ("-c", "import torch"),
            "python": ("-c", "pass"),
            "sxq --help": ("-c", _SXQ, "--help"),
            "sxq inspect": ("-c", _SXQ, "inspect", path),
            "sxq inspect --json": ("-c", _SXQ, "inspect", path, "--json"),
        }
        best = dict.fromkeys(commands, float("inf"))
        for _ in range(ROUNDS):
            for name, arguments in commands.items():
                best[name] = min(best[name], seconds(*arguments))
    whole = best["import torch"]
    write("cli_startup", {"results": {name: {"seconds": s, "ratio": s / whole} for name, s in best.items()}})


if __name__ == "__main__":
    main()
