"""What GPTQ gains over rounding on a small trained spiking network, on data that neither training nor GPTQ saw.

A two-layer snnTorch network reads the digits of scikit-learn as rate-coded spikes in a loop over time steps. For each
precision: the squared error of the output potentials against the float network's, relative to their variance, and the
accuracy; with the nearest codes, with GPTQ, and with GPTQ that saw the first time step only. Takes about a minute.
"""

from __future__ import annotations

import copy

import snntorch as snn
import torch
import torch.nn.functional as F
from record import parser, write
from sklearn.datasets import load_digits
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.calibrate import gptq_
from snn_extreme_quant.config import Ternary, Uniform, WeightConfig

SEEDS = (0, 1, 2)
STEPS, HIDDEN, EPOCHS, CALIBRATION = 12, 128, 10, 400
CONFIGS = (Uniform(4), Uniform(3), Uniform(3, scale="mse"), Ternary(), Ternary(scale="twn"), Ternary(scale="mse"))


class Net(nn.Module):
    """One time step; the neurons keep their state between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, HIDDEN)
        self.lif1 = snn.Leaky(beta=0.9, init_hidden=True)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.lif2 = snn.Leaky(beta=0.9, init_hidden=True)
        self.head = nn.Linear(HIDDEN, 10)
        self.readout = snn.Leaky(beta=0.9, init_hidden=True, output=True, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lif2(self.fc2(self.lif1(self.fc1(x))))
        return self.readout(self.head(hidden))[1]


def encode(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, *images.shape, generator=generator) < images).float()


def loop(model: nn.Module, spikes: Tensor) -> Tensor:
    for step in spikes:
        potential = model(step)
    return potential


def first_step(model: nn.Module, spikes: Tensor) -> None:
    model(spikes[0])


def trained(images: Tensor, labels: Tensor, seed: int) -> Net:
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        for x, y in zip(images.split(100), labels.split(100), strict=True):
            sxq.reset(model)
            optimizer.zero_grad()
            F.cross_entropy(loop(model, encode(x, epoch)), y).backward()
            optimizer.step()
    sxq.reset(model)
    return model


@torch.no_grad()
def potentials(model: nn.Module, spikes: Tensor) -> Tensor:
    sxq.reset(model)
    return loop(model, spikes)


def measure(model: nn.Module, spikes: Tensor, want: Tensor, labels: Tensor) -> dict[str, float]:
    found = potentials(model, spikes)
    error = (found - want).square().mean() / want.var()
    return {
        "output_error": round(error.item(), 4),
        "accuracy": round((found.argmax(1) == labels).float().mean().item(), 4),
    }


def compare(
    model: Net, config: WeightConfig, calibration: list[Tensor], held_out: tuple[Tensor, ...]
) -> dict[str, object]:
    row: dict[str, object] = {"precision": repr(config)}
    for name, run in (("rounded", None), ("gptq", loop), ("gptq_first_step_only", first_step)):
        candidate = copy.deepcopy(model)
        sxq.quantize_(candidate, config)
        if run is not None:
            report = gptq_(candidate, calibration, run=run)
            row[f"{name}_layers"] = {entry.name: [entry.error_rounded, entry.error] for entry in report.layers}
        row[name] = measure(candidate, *held_out)
    return row


def main() -> None:
    parser(__doc__).parse_args()
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    runs = []
    for seed in SEEDS:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        train, test = order[:1200], order[1200:]
        model = trained(images[train], labels[train], seed)
        spikes = encode(images[test], 1000)
        want = potentials(model, spikes)
        held_out = (spikes, want, labels[test])
        calibration = [encode(x, 2000 + i) for i, x in enumerate(images[train][:CALIBRATION].split(100))]
        rows = [compare(model, config, calibration, held_out) for config in CONFIGS]
        runs.append({"seed": seed, "float_accuracy": measure(model, *held_out)["accuracy"], "rows": rows})
    settings = {"steps": STEPS, "hidden": HIDDEN, "epochs": EPOCHS, "calibration_images": CALIBRATION}
    write("gptq", {**settings, "held_out_images": len(images) - 1200, "runs": runs})


if __name__ == "__main__":
    main()
