"""What it is worth to compute weight codes once a sequence instead of once a time step.

Interleaved in one process, one thread: a training step (forward and backward) of a linear layer over T = 8 steps.
"""

from __future__ import annotations

import statistics
import time

import torch
from record import parser, write
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.layers import Linear

STEPS, BATCH, WIDTH, ROUNDS = 8, 32, 768, 15


def train_step(layer: nn.Module, x: torch.Tensor, forget: bool) -> float:
    start = time.perf_counter()
    total = torch.zeros(())
    for step in range(STEPS):
        if forget:
            layer.forget_codes()  # type: ignore[operator]
        total = total + layer(x[step]).square().mean()
    total.backward()
    layer.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = (torch.rand(STEPS, BATCH, WIDTH) < 0.2).float()
    rows = []
    for config in (sxq.Ternary(), sxq.Binary()):
        plain, quantised = nn.Linear(WIDTH, WIDTH), Linear(WIDTH, WIDTH, config=config)
        times: dict[str, list[float]] = {"float": [], "once a sequence": [], "once a step": []}
        for _ in range(ROUNDS):
            times["float"].append(train_step(plain, x, False))
            times["once a sequence"].append(train_step(quantised, x, False))
            times["once a step"].append(train_step(quantised, x, True))
        median = {name: statistics.median(values) for name, values in times.items()}
        rows.append(
            {
                "weights": config.kind,
                "float_ms": round(1e3 * median["float"], 2),
                "once_a_sequence_ratio": round(median["once a sequence"] / median["float"], 2),
                "once_a_step_ratio": round(median["once a step"] / median["float"], 2),
            }
        )
    write("codes_per_sequence", {"steps": STEPS, "batch": BATCH, "width": WIDTH, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
