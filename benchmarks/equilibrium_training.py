"""What a step of training a SpikingBERT costs: at equilibrium, and by backpropagation through time.

    python benchmarks/equilibrium_training.py [--batch 32 16 4] [--gigabytes 16] [--rounds 3] [--no-keep]

One network (6 layers of width 384, 12 heads, FFN 1536, ternary weights, sentences of 32 tokens), one thread. A step is
forward, loss and backward pass; the optimiser's is left out, being the same for all. Time is the thread's processor
time, the fastest of the rounds, in which the ways to train take turns in one process.

Memory is what a step needs beside parameters, their gradients and the interpreter: each way gets a fresh process, which
makes a step of one short sentence, resets the peak of its resident memory (Linux: /proc/self/clear_refs), and makes the
step; the figure is that peak less the resident memory before. Processes get as many GiB of addresses as is said
(RLIMIT_AS) and cannot take more.

Memory of backpropagation through time grows with batch times T, so T = 4, 16 and 64 are measured with the batches
given, each beside the other ways at the same batch. The others are measured at a batch of 32 as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record
import torch

from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from snn_extreme_quant.neurons import spectral_radius

SIZES = {"vocab": 1000, "positions": 32, "layers": 6, "hidden": 384, "heads": 12, "ffn": 1536}
TOKENS, FULL_BATCH = 32, 32
STEPS = (4, 16, 64)
BACK = {"feedback": ((6, 0),)}
#: By name: the mode, and fields of the configuration.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "equilibrium": ("equilibrium", {"schedule": "step"}),
    "rates on T levels": ("simulated", {"schedule": "synchronous"}),
    "simulated": ("simulated", {"schedule": "step"}),
    "equilibrium, feedback": ("equilibrium", {"schedule": "step", **BACK}),
    "equilibrium, feedback, Anderson": ("equilibrium", {"schedule": "step", **BACK, "solver": "anderson"}),
    "through time": ("surrogate", {"schedule": "step"}),
    "through time, feedback": ("surrogate", {"schedule": "step", **BACK}),
    "through time, SpikingJelly": ("surrogate", {"schedule": "step", "neurons": "spikingjelly"}),
    "through time, snnTorch": ("surrogate", {"schedule": "step", "neurons": "snntorch", "signed": False}),
}
#: What is measured for every T at the full batch, to see what grows with T.
GROWTH = ("equilibrium", "rates on T levels", "simulated")


class Case:
    """One network and the way it is trained."""

    def __init__(self, way: str | tuple[str, dict[str, Any]], T: int, batch: int) -> None:
        self.way, self.T, self.batch = way, T, batch
        mode, options = WAYS[way] if isinstance(way, str) else way
        torch.manual_seed(0)
        config = SpikingBertConfig(**SIZES, T=T, dropout=0.0, weights="ternary", **options)
        self.model = SpikingBert(config).train()
        if config.feedback:  # it starts at 0, where nothing has to be solved
            torch.nn.init.normal_(self.model.feedback.weights[0].weight, std=0.1 / SIZES["hidden"] ** 0.5)
        self.model.mode = mode
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-6)
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(SIZES["vocab"], (batch, TOKENS), generator=generator)
        self.labels = torch.randint(2, (batch,), generator=generator)

    def step(self, rows: int, tokens: int) -> float:
        """Make a step; return the processor time of its forward and backward pass."""
        start = time.thread_time()
        logits = self.model(self.ids[:rows, :tokens])
        torch.nn.functional.cross_entropy(logits, self.labels[:rows]).backward()
        taken = time.thread_time() - start
        self.optimizer.step()  # weights change, so their codes are computed anew in each step
        self.optimizer.zero_grad(set_to_none=False)
        return taken

    def evaluations(self) -> dict[str, int]:
        """Return how often the network was evaluated for its steady state, and for its gradient."""
        layer = getattr(self.model, "implicit", None)
        reports = {} if layer is None else {"forward": layer.forward_report, "backward": layer.backward_report}
        return {name: report.evaluations for name, report in reports.items() if report is not None}

    def radius(self) -> float:
        """Return the spectral radius of the Jacobian at the steady state, or at the simulated rates, of the batch."""
        with torch.no_grad():
            self.model(self.ids)
            current = self.model.embeddings(self.ids, None)
        if self.model.mode == "equilibrium":
            place = self.model.implicit.forward_report.value
        else:
            parts = (self.model.embeddings, *self.model.encoder)
            place = self.model.feedback.state([part.neurons.last for part in parts])
        mask = torch.zeros(())
        return spectral_radius(lambda state: self.model.run(current, mask, self.model.feedback(state)).state, place)


def radii(batch: int) -> dict[str, Any]:
    """Return the spectral radius at the steady state and at simulated rates."""
    options = {"schedule": "step", **BACK}
    simulated = {T: Case(("simulated", options), T, batch).radius() for T in STEPS}
    return {"batch": batch, "steady": Case("equilibrium, feedback", 1, batch).radius(), "simulated": simulated}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak(way: str, T: int, batch: int) -> int | None:
    """Measure memory in this process, which has to be fresh; None if it is more than the limit."""
    case = Case(way, T, batch)
    case.step(1, 4)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    try:
        case.step(batch, TOKENS)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        return None
    return _status("VmHWM") - before


def _peak_elsewhere(way: str, T: int, batch: int) -> int | None:
    command = [sys.executable, __file__, "--peak", way, str(T), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(cases: list[tuple[str, int, int]], rounds: int) -> list[dict[str, Any]]:
    """Measure time of all cases in turns, and memory of each."""
    built = [Case(*case) for case in cases]
    for case in built:
        case.step(1, 4)
    times: list[list[float]] = [[] for _ in built]
    for _ in range(rounds):
        for taken, case in zip(times, built, strict=True):
            taken.append(case.step(case.batch, TOKENS))
    rows = []
    for case, taken in zip(built, times, strict=True):
        row = {"way": case.way, "T": case.T, "batch": case.batch, "seconds": min(taken), "all_seconds": taken}
        row |= {"bytes": _peak_elsewhere(case.way, case.T, case.batch), "evaluations": case.evaluations()}
        rows.append(row)
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs=len(STEPS), default=[32, 16, 4], help="for T = 4, 16, 64")
    parser.add_argument("--gigabytes", type=int, default=16, help="of memory, at most, that a process may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-keep", action="store_true", help="only print the result")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limit = arguments.gigabytes * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # processes started from here have it too
    if arguments.peak is not None:
        way, T, batch = arguments.peak
        print(json.dumps(peak(way, int(T), int(batch))))
        return
    groups = {
        str(T): measure([(way, T, batch) for way in WAYS], arguments.rounds)
        for T, batch in zip(STEPS, arguments.batch, strict=True)
    }
    growth = measure([(way, T, FULL_BATCH) for way in GROWTH for T in STEPS], arguments.rounds)
    result = {
        "network": SIZES, "tokens": TOKENS, "limit_bytes": limit, "rounds": arguments.rounds, "by_T": groups,
        "growth": growth, "spectral_radius": radii(8),
    }  # fmt: skip
    record.write("equilibrium_training", result, keep=not arguments.no_keep)


if __name__ == "__main__":
    main()
