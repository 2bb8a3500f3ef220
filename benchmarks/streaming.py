"""A streaming file's step against the sequence file's and against a float step file, for one sample.

Usage: python benchmarks/streaming.py [--quick]. Fully connected layers with LIF neurons; the float file is the same
model without quantised layers, exported the same way. One thread, its processor time; runs of all variants are
interleaved, and a figure is the fastest. 15 % of the inputs spike. The time of a sequence of 16 steps is given by step.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from record import parser, write
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy import native_status, session

STEPS = 16
WIDTHS = [(784, 256, 10), (768, 768, 768), (768, 3072, 768)]
BURST = 5


def network(widths: tuple[int, ...], config: Any) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True)]
    model = nn.Sequential(*layers).eval()
    if config is not None:
        sxq.quantize_(model, config)
    return model


class Runner:
    """A session whose inputs stay where they are; a step is fed the same state each time, which costs the same."""

    def __init__(self, path: Path, inputs: np.ndarray, native: bool) -> None:
        self.session = session(path, threads=1, native=native)
        self.binding = self.session.io_binding()
        sizes = {entry.name: [1 if n == "B" else n for n in entry.shape] for entry in self.session.get_inputs()}
        for name, size in sizes.items():
            value = inputs if name == "input" else np.zeros(size, np.float32)
            self.binding.bind_cpu_input(name, value)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def fastest(runners: dict[str, Runner], seconds: float) -> dict[str, float]:
    """Return the shortest run of each in microseconds of processor time."""
    best = dict.fromkeys(runners, float("inf"))
    for run in runners.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runners.items():
            for _ in range(BURST):
                start = time.thread_time()
                run()
                best[name] = min(best[name], time.thread_time() - start)
    return {name: 1e6 * value for name, value in best.items()}


def measure(widths: tuple[int, ...], seconds: float) -> dict[str, Any]:
    inputs = (torch.rand(STEPS, 1, widths[0], generator=torch.Generator().manual_seed(1)) < 0.15).float()
    runners: dict[str, Runner] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("ternary", sxq.Ternary()), ("binary", sxq.Binary()), ("float", None)):
            model = network(widths, config)
            for form, given in (("streaming", inputs[0]), ("sequence", inputs)):
                path = Path(folder) / f"{name}_{form}.onnx"
                sxq.export_onnx(model, inputs, path, input="spikes", form=form)
                if config is not None:
                    result = sxq.verify(model, path, inputs)
                    assert result.spikes_different == 0, str(result)
                for native in (False, True):
                    label = f"{name} {form} {'native' if native else 'stock'}"
                    runners[label] = Runner(path, given.numpy(), native)
        times = fastest(runners, seconds)
    per_step = {name: value / (STEPS if " sequence " in name else 1) for name, value in times.items()}
    base = per_step["float streaming stock"]
    ratios = {name: round(value / base, 4) for name, value in per_step.items()}
    print(widths, ratios, round(base, 2), flush=True)
    microseconds = {name: round(value, 2) for name, value in per_step.items()}
    return {"widths": widths, "microseconds per step": microseconds, "ratio to a float step": ratios}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="a rough look: nothing is written")
    quick = arguments.parse_args().quick
    results = [measure(widths, 0.3 if quick else 2.0) for widths in WIDTHS]
    if not quick:
        write("streaming", {"kernels": native_status().instruction_set, "steps": STEPS, "results": results})


if __name__ == "__main__":
    main()
