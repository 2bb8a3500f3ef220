"""How many spikes change when another program's NIR importer runs our graph.

Two layers of 64 neurons with ternary weights, Bernoulli input; every output spike is compared with the model's own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from record import parser, write
from snntorch.import_nir import import_from_nir as snntorch_import
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly_import
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.exchange import from_nir, to_nir

STEPS, BATCH, WIDTH, RATE, SEEDS = 100, 32, 64, 0.3, 5


def leaky(**options: Any) -> Callable[[], nn.Module]:
    return lambda: snn.Leaky(beta=0.9, threshold=1.0, init_hidden=True, **options)


def lif(v_threshold: float = 0.1, **options: Any) -> Callable[[], nn.Module]:
    return lambda: neuron.LIFNode(tau=2.5, v_threshold=v_threshold, **options)


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "Leaky (as built by default: subtract, delayed)": leaky(),
    "Leaky(reset_delay=False)": leaky(reset_delay=False),
    'Leaky(reset_mechanism="zero")': leaky(reset_mechanism="zero"),
    'Leaky(reset_mechanism="zero", reset_delay=False)': leaky(reset_mechanism="zero", reset_delay=False),
    "Lapicque": lambda: snn.Lapicque(beta=0.8, threshold=0.05, init_hidden=True),
    "Synaptic": lambda: snn.Synaptic(alpha=0.5, beta=0.8, threshold=1.0, init_hidden=True),
    "LIFNode": lif(),
    "LIFNode(decay_input=False)": lif(0.3, decay_input=False),
    "LIFNode(v_reset=None)": lif(v_reset=None),
    "IFNode": lambda: neuron.IFNode(v_threshold=1.0),
    "IFNode(v_reset=None)": lambda: neuron.IFNode(v_threshold=1.0, v_reset=None),
    "CUBALIFNode": lambda: neuron.CUBALIFNode(v_threshold=1.0),
}


def by_importer(importer: Callable[[Any], nn.Module], graph: Any, inputs: torch.Tensor) -> torch.Tensor:
    with contextlib.redirect_stdout(io.StringIO()):
        model = importer(graph)
    state, outputs = None, []
    for x in inputs:
        output, state = model(x, state)
        outputs.append(output)
    return torch.stack(outputs)


def ours(graph: Any, inputs: torch.Tensor) -> torch.Tensor:
    model = from_nir(graph)
    sxq.reset(model)
    return torch.stack([model(x) for x in inputs])


def main() -> None:
    parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, make in NEURONS.items():
        row: dict[str, Any] = {
            "neuron": name,
            "spikes": 0,
            "values": 0,
            "from_nir": 0,
            "snntorch": 0,
            "spikingjelly": 0,
        }
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(WIDTH, WIDTH), make(), nn.Linear(WIDTH, WIDTH), make()).eval()
            sxq.quantize_(net, sxq.Ternary())
            inputs = (torch.rand(STEPS, BATCH, WIDTH) < RATE).float()
            sxq.reset(net)
            want = torch.stack([net(x) for x in inputs])
            row["spikes"] += int(want.sum())
            row["values"] += want.numel()
            row["from_nir"] += int((ours(to_nir(net), inputs) != want).sum())
            for key, importer in (("snntorch", snntorch_import), ("spikingjelly", spikingjelly_import)):
                if isinstance(row[key], str):
                    continue
                try:
                    row[key] += int((by_importer(importer, to_nir(net), inputs) != want).sum())
                except (AssertionError, NotImplementedError, ValueError) as error:
                    row[key] = f"refuses: {error}"
        rows.append(row)
    write("nir_readers", {"steps": STEPS, "batch": BATCH, "width": WIDTH, "rate": RATE, "seeds": SEEDS, "rows": rows})


if __name__ == "__main__":
    with torch.no_grad():
        main()
