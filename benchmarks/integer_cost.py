"""What integers cost: spikes, answers and accuracy of integer files against the float-membrane model, by leak.

A dense network with ternary weights learns the demo's digits, in both frameworks and with every leak. It is exported
with ``integer=True`` and 15 bits for the leak, and the file verified: file, golden model and torch must agree in every
spike. How the integers compare with the float model is measured there, and for 8 and 24 bits on the integer graph in
torch. Takes about five minutes on two cores.
"""

from __future__ import annotations

import itertools
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from record import parser, write
from snntorch import surrogate
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.demo.data import over_time, split_digits
from snn_extreme_quant.demo.training import STEPS, predict, reproducible, train
from snn_extreme_quant.deploy.export import check_model
from snn_extreme_quant.deploy.integer.check import IntegerSpikes
from snn_extreme_quant.deploy.integer.export import rewritten
from snn_extreme_quant.deploy.integer.options import IntegerOptions
from snn_extreme_quant.deploy.integer.verify import answers
from snn_extreme_quant.deploy.recording.record import record
from snn_extreme_quant.deploy.recording.running import run_model

SEEDS = (0, 1, 2)
BETAS = (0.5, 0.75, 0.8, 0.9, 0.95, 0.99, 1.0)
FILE_BITS = 15
OTHER_BITS = (8, 24)
EPOCHS = 6
WORKERS = 3
WIDTHS = (64, 128, 64, 10)


class SnnTorchNet(nn.Module):
    """Loops over the time steps of its input."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.grid = sxq.FixedPointInput(bits=5, fraction=4)  # the images' own grid
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(WIDTHS))
        self.neurons = nn.ModuleList(
            snn.Leaky(beta=beta, init_hidden=True, spike_grad=surrogate.atan()) for _ in self.layers
        )

    def forward(self, x: Tensor) -> Tensor:
        spikes = []
        for step in self.grid(x):
            hidden = step.flatten(1)
            for dense, lif in zip(self.layers, self.neurons, strict=True):
                hidden = lif(dense(hidden))
            spikes.append(hidden)
        return torch.stack(spikes)


def _node(beta: float) -> nn.Module:
    options: dict[str, Any] = {"surrogate_function": sj_surrogate.ATan(), "detach_reset": True, "v_reset": None}
    return neuron.IFNode(**options) if beta == 1 else neuron.LIFNode(1 / (1 - beta), decay_input=False, **options)


def spikingjelly_net(beta: float) -> nn.Module:
    modules: list[nn.Module] = [sxq.FixedPointInput(bits=5, fraction=4), layer.Flatten()]
    for inputs, outputs in itertools.pairwise(WIDTHS):
        modules += [layer.Linear(inputs, outputs), _node(beta)]
    net = nn.Sequential(*modules)
    functional.set_step_mode(net, "m")
    return net


NETWORKS = {"snntorch": SnnTorchNet, "spikingjelly": spikingjelly_net}


def loss(spikes: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(spikes.sum(0), labels)


def accuracy(given: Tensor, labels: Tensor) -> float:
    return round((given == labels).float().mean().item(), 4)


def in_torch(net: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Compare the integer graph in torch, with other bits for the leak, with the float model."""
    neurons = check_model(net)
    request, recording, called = record(net, images, "auto", neurons, spikes=False)
    own = run_model(net, images, called.calling, neurons)
    rows = []
    for bits in OTHER_BITS:
        integer = IntegerSpikes(rewritten(recording.graph, recording, request, IntegerOptions(decay_bits=bits)).graph)
        with torch.no_grad():
            outputs = integer.run(images)
        pairs = [(own.sequence(own.spikes, n), integer.given[n.name][0]) for n in neurons]
        rows.append(
            {
                "decay_bits": bits,
                "accuracy": accuracy(answers(outputs), labels),
                "answers_different": int((answers(outputs) != answers(own.outputs)).sum()),
                "spikes_different": sum(int((theirs != ours).sum()) for theirs, ours in pairs),
                "spikes": sum(ours.numel() for _, ours in pairs),
            }
        )
    return rows


def of_file(net: nn.Module, images: Tensor, labels: Tensor, path: Path) -> dict[str, Any]:
    """Export and verify, and compare the file with the float model."""
    report = sxq.export_onnx(net, images, path, integer=sxq.deploy.IntegerOptions(decay_bits=FILE_BITS))
    result = sxq.verify(net, path, images)
    assert result.integer is not None
    session = sxq.deploy.session(path, native=False)
    spikes = torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    return {
        "decay_bits": FILE_BITS,
        "accuracy": accuracy(spikes.sum(0).argmax(1), labels),
        "answers_different": result.integer.samples - result.integer.same_answer,
        "spikes_different": result.integer.different,
        "spikes": result.integer.compared,
        "verified": result.ok,
        "different_in_file": result.spikes_different,
        "different_in_torch": result.integer.torch_different,
        "fractions": [entry.fraction for entry in report.fixed_point],
        "headroom": [entry.headroom for entry in report.fixed_point],
        "firing_rate": round(result.firing_rate, 4),
    }


def measure(job: tuple[int, float, str]) -> dict[str, Any]:
    """Train, export and compare one network."""
    seed, beta, framework = job
    digits = split_digits()
    with reproducible(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        net = NETWORKS[framework](beta)
        sxq.quantize_(net, sxq.Ternary())
        train(net, loss, digits, epochs=EPOCHS, rate=5e-3, seed=seed, on_epoch=lambda _loss, _accuracy: None)
        images, labels = over_time(digits.test_images, STEPS), digits.test_labels
        own = accuracy(predict(net, digits.test_images), labels)
        integers = [of_file(net, images, labels, Path(folder) / "net.onnx"), *in_torch(net, images, labels)]
    return {"framework": framework, "beta": beta, "seed": seed, "accuracy_float": own, "integers": integers}


def main() -> None:
    parser(__doc__).parse_args()
    """Train, export and compare for every leak, in both frameworks."""
    rows = []
    with ProcessPoolExecutor(WORKERS) as workers:
        for row in workers.map(measure, itertools.product(SEEDS, BETAS, NETWORKS)):
            rows.append(row)
            print(row, flush=True)
    write("integer_cost", {"epochs": EPOCHS, "steps": STEPS, "widths": WIDTHS, "images": 540, "rows": rows})


if __name__ == "__main__":
    main()
