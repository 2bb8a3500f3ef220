"""What folding batch norms at export changes: accuracy and spikes of the model as trained and as deployed.

A convolutional network with a batch norm behind every layer learns the demo's digits, in float and then
quantisation-aware. Accuracy is compared between torch's own batch norms, the folded model in torch and the exported
file in onnxruntime; spikes between the first two (folding rounds differently in the last bit) and the last two (which
must be the same). Takes about six minutes.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import snntorch as snn
import torch
import torch.nn.functional as F
from record import parser, write
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.demo.data import Digits, over_time, split_digits
from snn_extreme_quant.demo.training import STEPS, predict, reproducible, train

SEEDS = (0, 1, 2)
EPOCHS, FINE_TUNING = 12, 8


class SnnTorchNet(nn.Module):
    """Loops over the time steps of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = sxq.FixedPointInput(bits=5, fraction=4)  # the images' own grid
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.head, self.norm3 = nn.Linear(32 * 4, 10), nn.BatchNorm1d(10)
        self.lif1, self.lif2, self.lif3 = (snn.Leaky(beta=0.9, init_hidden=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        spikes = []
        for step in self.grid(x):
            hidden = F.max_pool2d(self.lif1(self.norm1(self.conv1(step))), 2)
            hidden = F.max_pool2d(self.lif2(self.norm2(self.conv2(hidden))), 2)
            spikes.append(self.lif3(self.norm3(self.head(hidden.flatten(1)))))
        return torch.stack(spikes)


def spikingjelly_net() -> nn.Module:
    net = nn.Sequential(
        sxq.FixedPointInput(bits=5, fraction=4),
        layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16), neuron.LIFNode(), layer.MaxPool2d(2),
        layer.Conv2d(16, 32, 3, padding=1, bias=False), layer.BatchNorm2d(32), neuron.LIFNode(), layer.MaxPool2d(2),
        layer.Flatten(), layer.Linear(32 * 4, 10), layer.BatchNorm1d(10), neuron.LIFNode(),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    return net


NETWORKS = {"snntorch": SnnTorchNet, "spikingjelly": spikingjelly_net}


def loss(spikes: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(spikes.sum(0), labels)


def fit(net: nn.Module, digits: Digits, epochs: int, rate: float, seed: int) -> None:
    train(net, loss, digits, epochs=epochs, rate=rate, seed=seed, on_epoch=lambda _loss, _accuracy: None)


def accuracy(answers: Tensor, labels: Tensor) -> float:
    return round((answers == labels).float().mean().item(), 4)


def measure(net: nn.Module, digits: Digits, path: Path) -> dict[str, Any]:
    images = over_time(digits.test_images, STEPS)
    report = sxq.export_onnx(net, images, path)
    result = sxq.verify(net, path, images)
    session = onnxruntime.InferenceSession(path)
    spikes = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})[0]
    norms = result.batch_norms
    assert norms is not None
    return {
        "accuracy_torch_batch_norm": accuracy(predict(net, digits.test_images), digits.test_labels),
        "accuracy_file": accuracy(torch.from_numpy(spikes).sum(0).argmax(1), digits.test_labels),
        "answers_changed_by_folding": norms.samples - norms.same_answer,
        "samples": norms.samples,
        "spikes_changed_by_folding": norms.different,
        "spikes_different_in_file": result.spikes_different,
        "spikes": result.spikes_compared,
        "exact": report.exact,
        "folded": dict(report.batch_norms),
        "file_bytes": report.file_bytes,
    }


def main() -> None:
    parser(__doc__).parse_args()
    """Train, export and compare in both frameworks."""
    rows = []
    digits = split_digits()
    with reproducible(), tempfile.TemporaryDirectory() as folder:
        for framework, build in NETWORKS.items():
            for seed in SEEDS:
                torch.manual_seed(seed)
                floating = build()
                fit(floating, digits, EPOCHS, 5e-3, seed)
                float_accuracy = accuracy(predict(floating, digits.test_images), digits.test_labels)
                for config in (sxq.Ternary(), sxq.Binary()):
                    net = build()
                    net.load_state_dict(copy.deepcopy(floating.state_dict()))
                    sxq.quantize_(net, config)
                    fit(net, digits, FINE_TUNING, 2e-3, seed)
                    row = measure(net, digits, Path(folder) / "net.onnx")
                    rows.append(
                        {"framework": framework, "seed": seed, "precision": config.kind, "float": float_accuracy, **row}
                    )
                    print(rows[-1])
    write("batch_norm_folding", {"epochs": EPOCHS, "fine_tuning_epochs": FINE_TUNING, "steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
