"""How often spikes differ where nothing is guaranteed: real-valued input to the first layer.

The same three-layer network, ternary and binary, reads Gaussian-like real numbers raw, through
``FixedPointInput`` and as rate-coded spikes. For scale, the last rows fold the scale into the weights, as
quantisation libraries usually do, with a scale and threshold that put membrane potentials on thresholds.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import snntorch as snn
import torch
from record import parser, write
from torch import nn

import snn_extreme_quant as sxq

STEPS, BATCH, BATCHES = 16, 64, 8


class _Lattice(nn.Module):
    """Weights of one magnitude, 0.1: potentials are multiples of 0.1 and meet the threshold 1 exactly."""

    @staticmethod
    def apply(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.where(parameter > 0, 0.1, -0.1) if parameter.dim() > 1 else torch.zeros(()))


def network(config: sxq.Ternary | sxq.Binary | None, first: nn.Module | None, lattice: bool) -> nn.Module:
    torch.manual_seed(0)
    widths = (128, 512, 512, 64)
    modules: list[nn.Module] = [] if first is None else [first]
    for inputs, outputs in itertools.pairwise(widths):
        modules += [nn.Linear(inputs, outputs), snn.Leaky(0.9, threshold=1.0, init_hidden=True)]
    model = nn.Sequential(*modules)
    if lattice:
        _Lattice.apply(model)
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4)
    if config is not None:
        sxq.quantize_(model, config)
    return model


def folded(model: nn.Module) -> nn.Module:
    """The same network with scale times codes as plain float weights."""
    modules = [m.to_float() if hasattr(m, "to_float") else m for m in model]
    return nn.Sequential(*modules)


def measure(model: nn.Module, encode: str, path: Path) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(BATCHES):
        values = torch.rand(STEPS, BATCH, 128, generator=generator)
        batches.append((values < 0.3).float() if encode == "spikes" else values)
    report = sxq.export_onnx(model, batches[0], path, input="spikes" if encode == "spikes" else "real")
    result = sxq.verify(model, path, batches)
    return {
        "guaranteed": report.exact,
        "spikes_compared": result.spikes_compared,
        "spikes_different": result.spikes_different,
        "different_per_million": round(1e6 * result.spikes_different / result.spikes_compared, 2),
        "firing_rate": round(result.firing_rate, 3),
    }


def main() -> None:
    parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        for config in (sxq.Ternary(), sxq.Binary()):
            for lattice in (False, True):
                for name, first, encode in (
                    ("raw real numbers", None, "real"),
                    ("FixedPointInput(8, 7)", sxq.FixedPointInput(8, 7), "real"),
                    ("spikes", None, "spikes"),
                ):
                    result = measure(network(config, first, lattice), encode, path)
                    rows.append({"weights": config.kind, "weights_on_lattice": lattice, "input": name, **result})
                result = measure(folded(network(config, None, lattice)), "spikes", path)
                rows.append(
                    {
                        "weights": f"{config.kind}, scale folded in",
                        "weights_on_lattice": lattice,
                        "input": "spikes",
                        **result,
                    }
                )
    write("real_valued_input", {"steps": STEPS, "batch": BATCH, "batches": BATCHES, "rows": rows})


if __name__ == "__main__":
    main()
