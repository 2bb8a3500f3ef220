"""Trains the page's network on scikit-learn's digits and writes ``model.onnx``, ``model.json`` and ``MODEL_CARD.md``.

Usage: python examples/web/make_model.py [FOLDER] [--quick]. The same versions give the same files; --quick trains too
little to be of use.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from network import LAYERS, Network, OutputSpikes
from torch import Tensor

import snn_extreme_quant as sxq
from snn_extreme_quant.demo.data import Digits, over_time, split_digits
from snn_extreme_quant.demo.network_snntorch import loss
from snn_extreme_quant.demo.training import STEPS, predict, reproducible, train

SEED = 0
#: Epochs in float, then with ternary weights.
EPOCHS, QUICK = (15, 20), (1, 1)
#: Distorted copies of each training image: people do not draw as the scanned digits are written.
COPIES = 4


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image a little, and make its strokes thinner or thicker."""
    count = len(images)

    def uniform(width: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * width

    angle, shear = uniform(math.radians(15)), uniform(0.25)
    wide, high = 1 + uniform(0.2), 1 + uniform(0.1)
    rows = [
        torch.stack([wide * angle.cos(), shear - angle.sin(), uniform(0.15)], 1),
        torch.stack([angle.sin(), high * angle.cos(), uniform(0.1)], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    ink = (1 + uniform(0.35)).view(-1, 1, 1, 1)
    return (moved * ink * 16).round().clamp(0, 16) / 16


def augmented(digits: Digits, generator: torch.Generator) -> Digits:
    """Add distorted copies to the training part."""
    copies = [digits.train_images, *(distorted(digits.train_images, generator) for _ in range(COPIES))]
    labels = digits.train_labels.repeat(COPIES + 1)
    return Digits(torch.cat(copies), labels, digits.test_images, digits.test_labels)


def trained(digits: Digits, epochs: tuple[int, int]) -> Network:
    """Train in float, then with ternary weights in all layers."""
    torch.manual_seed(SEED)
    network = Network()
    more = augmented(digits, torch.Generator().manual_seed(SEED))

    def progress(value: float, accuracy: float) -> None:
        print(f"loss {value:.4f}, accuracy {accuracy:.1%}", file=sys.stderr)

    options = {"seed": SEED, "on_epoch": progress}
    train(OutputSpikes(network), loss, more, epochs=epochs[0], rate=4e-3, **options)
    sxq.quantize_(network, sxq.Ternary())
    train(OutputSpikes(network), loss, more, epochs=epochs[1], rate=2e-3, **options)
    return network


def card(facts: dict[str, object]) -> str:
    """Describe the model."""
    return f"""# Model card: the digits of the web example

Written by `make_model.py`; the figures below come from the run that wrote the file.

| | |
| --- | --- |
| task | which digit is drawn on 8 x 8 pixels |
| input | `(T, B, 1, 8, 8)` float32: the image at every time step, pixels in sixteenths from 0 to 1 |
| outputs | the spikes of each layer, `(T, B, neurons)`: {", ".join(f"`{name}`" for name in LAYERS)} |
| answer | the output neuron with the most spikes, the first of equals |
| network | convolution 1-8, convolution 8-16 (stride 2), dense 256-64, dense 64-10; leaky integrate-and-fire neurons |
| weights | ternary, in all layers: {facts["weights"]:,} of 1.58 bit |
| file | {facts["file_bytes"]:,} bytes |
| data | scikit-learn's digits (UCI, Optical Recognition of Handwritten Digits; CC BY 4.0) |
| training | {facts["training_images"]:,} images, and {COPIES} distorted copies of each |
| accuracy | {facts["accuracy"]:.1%} of {facts["test_images"]} other images, at {STEPS} time steps |
| verified | {facts["spikes_different"]} of {facts["spikes_compared"]:,} spikes differ between torch and the file |
| seed | {SEED} |

Not for anything that matters: 1,797 images of 13 writers are no basis for reading handwriting.
"""


def main(folder: Path, *, quick: bool = False) -> None:
    digits = split_digits()
    with reproducible():
        network = trained(digits, QUICK if quick else EPOCHS)
    path = folder / "model.onnx"
    exported = sxq.export_onnx(network, over_time(digits.test_images[:1], STEPS), path)
    if not exported.exact:
        raise SystemExit(str(exported))
    report = sxq.verify(network, path, over_time(digits.test_images, STEPS))
    print(report, file=sys.stderr)
    right = predict(OutputSpikes(network), digits.test_images) == digits.test_labels
    examples = [int((digits.test_labels == digit).nonzero()[1]) for digit in range(10)]
    facts: dict[str, object] = {
        "accuracy": right.float().mean().item(),
        "file_bytes": exported.file_bytes,
        "weights": sum(p.numel() for p in network.parameters() if p.dim() > 1),
        "training_images": len(digits.train_labels),
        "test_images": len(digits.test_labels),
        "spikes_compared": report.spikes_compared,
        "spikes_different": report.spikes_different,
    }
    page = {
        **facts,
        "steps": STEPS,
        "layers": [{"output": name, "title": title} for name, title in LAYERS.items()],
        "examples": [(digits.test_images[index] * 16).int().flatten().tolist() for index in examples],
    }
    (folder / "model.json").write_text(json.dumps(page) + "\n", encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(card(facts), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    main(arguments.folder, quick=arguments.quick)
