"""Bytes of exported files: a spiking encoder of 12 layers, width 768/3072, in float and in each packing.

Usage: python benchmarks/file_size.py [LAYERS]. Weights are as torch draws them; sizes do not depend on their values.
Each file is verified on a few random spikes, so that what is measured is the network.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
from record import parser, write
from torch import Tensor, nn

import snn_extreme_quant as sxq

WIDTH, INNER = 768, 3072
#: Name, precision, how ternary codes are packed.
VARIANTS: list[tuple[str, Any, Any]] = [
    ("float32", None, "2bit"),
    ("ternary, 2 bit", sxq.Ternary(), "2bit"),
    ("ternary, 1.6 bit", sxq.Ternary(), "1.6bit"),
    ("binary, 1 bit", sxq.Binary(), "2bit"),
]


def lif() -> nn.Module:
    return snn.Leaky(0.9, threshold=0.2, init_hidden=True)


class Encoder(nn.Module):
    """Attention between spikes without softmax, then two linear layers; spikes after each of the six."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False)
        self.q_lif, self.k_lif, self.v_lif, self.o_lif, self.up_lif, self.down_lif = (lif() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_lif(self.q(x)), self.k_lif(self.k(x)), self.v_lif(self.v(x))
        mixed = self.o_lif(self.o((q @ k.transpose(-2, -1)) @ v))
        y: Tensor = self.down_lif(self.down(self.up_lif(self.up(mixed))))
        return y


def measure(layers: int, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    spikes = (torch.rand(2, 1, 4, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    for name, config, packing in VARIANTS:
        torch.manual_seed(0)
        model = nn.Sequential(*(Encoder() for _ in range(layers)))
        weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)
        if config is not None:
            sxq.quantize_(model, config)
        report = sxq.export_onnx(model, spikes, folder / "net.onnx", input="spikes", ternary_packing=packing)
        verified = sxq.verify(model, report.path, spikes)
        assert config is None or (report.exact and verified.ok), str(verified)
        size = report.file_bytes
        whole = rows[0]["bytes"] if rows else size
        rows.append(
            {
                "weights": name,
                "bytes": size,
                "ratio": size / whole,
                "bits a weight": 8 * size / weights,
                "spikes compared": verified.spikes_compared,
                "spikes different": verified.spikes_different,
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "layers", metavar="LAYERS", type=int, nargs="?", default=12, help="of another number nothing is written"
    )
    layers = arguments.parse_args().layers
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(layers, Path(folder))
    write("file_size", {"layers": layers, "width": WIDTH, "inner": INNER, "results": rows}, keep=layers == 12)


if __name__ == "__main__":
    main()
