"""Time of an encoder on spike counts at T = 16, relative to the float network of the same shape at T = 1.

Twelve blocks of width 768 with an inner width of 3072: query, key, value and output projections, attention over the
spikes of 12 heads, and two layers of a feed-forward part, each followed by a neuron. The float network has float32
weights, the same products, and an integrate-and-fire neuron that runs one step. Sessions run in turns in one process;
the figure of each is the least processor time of the thread.

    python benchmarks/count_execution.py [--blocks 12] [--rounds 15]
    python benchmarks/count_execution.py --alternatives --blocks 2

The second measures what the exporter could write instead: neurons that are not folded (scale, bias and threshold one by
one, products of spikes in floats), and the spike-by-spike file of the same network.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import record
import torch
from torch import Tensor, nn

import snn_extreme_quant as sxq

WIDTH, INNER, HEADS, LENGTH, STEPS = 768, 3072, 12, 128, 16


class Fires(nn.Module):
    """One step of an integrate-and-fire neuron that starts at half its threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold / 2

    def forward(self, current: Tensor) -> Tensor:
        return (current >= self.threshold).float()


class Block(nn.Module):
    def __init__(self, neuron: Any) -> None:
        super().__init__()
        sizes = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH)}
        sizes |= {"up": (WIDTH, INNER), "down": (INNER, WIDTH)}
        self.layers = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        # Thresholds at which random weights keep every layer firing.
        self.neurons = nn.ModuleDict({name: neuron(0.3) for name in sizes})
        self.scores, self.mixed = neuron(8.0), neuron(6.0)

    def fire(self, name: str, x: Tensor) -> Tensor:
        return self.neurons[name](self.layers[name](x))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(self.fire(name, x)) for name in "qkv")
        attention = self.scores(q @ k.transpose(-2, -1))
        x = self.mixed(attention @ v).transpose(-3, -2).flatten(-2)
        return self.fire("down", self.fire("up", self.fire("o", x)))


def network(blocks: int, neuron: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(neuron) for _ in range(blocks))).eval()


def float_file(net: nn.Module, path: Path) -> None:
    torch.onnx.export(net, (torch.zeros(1, LENGTH, WIDTH),), path, dynamo=True, verbose=False, external_data=False)


def float_session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def interleaved(runs: dict[str, Any], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            best[name] = min(best[name], time.thread_time() - start)
    return best


def alternatives(blocks: int, rounds: int) -> None:
    folder = Path(tempfile.mkdtemp())
    spikes = (torch.rand(STEPS, 1, LENGTH, WIDTH) < 0.15).float()
    float_file(network(blocks, Fires), folder / "float.onnx")
    net = network(blocks, lambda threshold: sxq.SynchronousIF(STEPS, threshold))
    sxq.quantize_(net, sxq.Ternary())
    sxq.export_onnx(net, spikes, folder / "folded.onnx", form="counts", input="spikes")
    with mock.patch("snn_extreme_quant.deploy.synchronous.count_graph.fold", return_value=None):
        sxq.export_onnx(net, spikes, folder / "not folded.onnx", form="counts", input="spikes")
    sxq.export_onnx(net, spikes, folder / "spike by spike.onnx", form="sequence", input="spikes")
    runs, answers = {}, {}
    for name in ("float", "folded", "not folded", "spike by spike"):
        session = sxq.deploy.session(folder / f"{name}.onnx", threads=1, native=False)
        given = {"float": spikes[0], "spike by spike": spikes}.get(name, spikes.mean(0)).numpy()
        feed = {session.get_inputs()[0].name: given}
        runs[name] = lambda session=session, feed=feed: session.run(None, feed)[0]
        answers[name] = runs[name]()
    rates = answers["spike by spike"].mean(0)
    best = interleaved(runs, rounds)
    record.write(
        "count_execution_alternatives",
        {
            "blocks": blocks,
            "rounds": rounds,
            "runtime": "stock",
            "relative_to_float": {name: round(value / best["float"], 3) for name, value in best.items()},
            "same_rates": all(np.array_equal(rates, answers[name]) for name in ("folded", "not folded")),
        },
    )


def main() -> None:
    arguments = record.parser(__doc__)
    arguments.add_argument("--blocks", type=int, default=12)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--keep", type=Path, help="folder for the files")
    arguments.add_argument("--alternatives", action="store_true")
    given = arguments.parse_args()
    blocks, rounds = given.blocks, given.rounds
    if given.alternatives:
        alternatives(blocks, rounds)
        return
    folder = given.keep or Path(tempfile.mkdtemp())
    paths = {name: folder / f"{name}.onnx" for name in ("float", "counts")}
    spikes = (torch.rand(STEPS, 1, LENGTH, WIDTH) < 0.15).float()
    if not paths["float"].exists():
        float_file(network(blocks, Fires), paths["float"])
    net = network(blocks, lambda threshold: sxq.SynchronousIF(STEPS, threshold))
    sxq.quantize_(net, sxq.Ternary())
    if not paths["counts"].exists():
        sxq.export_onnx(net, spikes, paths["counts"], form="counts", input="spikes")
    verified = sxq.verify(net, paths["counts"], spikes)

    rates, step = (value.numpy() for value in (spikes.mean(0), spikes[0]))
    sessions = {
        "float": float_session(paths["float"]),
        "stock": sxq.deploy.session(paths["counts"], threads=1, native=False),
        "native": sxq.deploy.session(paths["counts"], threads=1, native=True),
    }
    inputs = {"float": step, "stock": rates, "native": rates}

    def run(name: str) -> Any:
        entry = sessions[name].get_inputs()[0].name
        return lambda: sessions[name].run(None, {entry: inputs[name]})

    runs = {name: run(name) for name in sessions}
    same = bool(np.array_equal(runs["stock"]()[0], runs["native"]()[0]))
    best = interleaved(runs, rounds)
    operators = sorted({node.op_type for node in onnx.load(str(paths["counts"])).graph.node if node.domain})
    record.write(
        "count_execution",
        {
            "blocks": blocks,
            "width": [WIDTH, INNER],
            "positions": LENGTH,
            "steps": {"float": 1, "counts": STEPS},
            "threads": 1,
            "rounds": rounds,
            "milliseconds": {name: round(value * 1e3, 2) for name, value in best.items()},
            "relative_to_float": {name: round(value / best["float"], 3) for name, value in best.items()},
            "counts_compared": verified.spikes_compared,
            "counts_different": verified.spikes_different,
            "mean_rate": round(verified.firing_rate, 3),
            "native_equals_stock": same,
            "operators": operators,
            "bytes": {name: path.stat().st_size for name, path in paths.items()},
        },
        keep=blocks == arguments.get_default("blocks"),
    )


if __name__ == "__main__":
    main()
