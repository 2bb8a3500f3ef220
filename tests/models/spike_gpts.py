"""Small SpikeGPTs for tests, and their spikes, call by call."""

from __future__ import annotations

import contextlib

import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.gpt.cells import FrameworkTokenLIF
from snn_extreme_quant.neurons.token_lif import TokenLIF

SIZES = {"vocab": 40, "layers": 3, "hidden": 37, "dropout": 0.0}
PLAN = sxq.PrecisionPlan({"blocks.1.*": sxq.Uniform(5), "blocks.*": sxq.Ternary(scale="twn"), "emb": sxq.Binary()})
MODELS = {
    "float": {},
    "ternary": {"weights": "ternary"},
    "binary": {"weights": "binary"},
    "plan": {"weights": PLAN},
    "spikes, float": {"inputs": "spikes"},
    "spikes, ternary": {"inputs": "spikes", "weights": "ternary"},
    "rwkv": {"spiking": False},
    "rwkv, ternary": {"spiking": False, "weights": "ternary"},
    "real embedding, tied, tau 3": {"binary_embedding": False, "tied": True, "tau": 3.0, "ffn": 50},
}


def build(seed=0, **options):
    torch.manual_seed(seed)
    model = SpikeGPT(SpikeGPTConfig(**{**SIZES, **options})).eval()
    with torch.no_grad():
        for block in model.blocks:  # as after training, every neuron has something to do
            block.att.value.weight.mul_(3.0)
            block.att.output.weight.mul_(2.0)
            block.ffn.value.weight.mul_(3.0)
    return model


def texts(tokens=120, batch=2, seed=1):
    return torch.randint(SIZES["vocab"], (batch, tokens), generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def recorded(model):
    """Keep the spikes of every layer of neurons, call by call."""
    found = {n: [] for n, m in model.named_modules() if isinstance(m, (TokenLIF, FrameworkTokenLIF))}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found[name].append(out[0].detach())
        )
        for name in found
    ]
    yield found
    for handle in handles:
        handle.remove()


@torch.no_grad()
def run(model, ids, pieces):
    """Return logits, spikes by layer, and the last state."""
    state, logits = model.initial_state(len(ids)), []
    with recorded(model) as spikes:
        for piece in ids.split(pieces, 1):
            part, state = model.run(piece, state)
            logits.append(part)
    return torch.cat(logits, 1), {name: torch.cat(parts) for name, parts in spikes.items()}, state


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, spikes in one[1].items():
        assert torch.equal(spikes, other[1][name]), name
    for name, value in one[2].tensors.items():
        assert torch.equal(value, other[2].tensors[name]), name
