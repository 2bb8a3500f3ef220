"""The networks whose files run on every runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as jelly
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
from tests.deploy.random_layers import spikes
from tests.deploy.test_every_class import NETWORKS
from tests.deploy.test_integer_files import Recurrent, Residual
from tests.deploy.test_model_forms import FORMS, quantised
from tests.deploy.test_synchronous_networks import made
from tests.runtimes.cases import Cases, Sample

#: Precisions, and what else the export is told.
CONFIGS: dict[str, tuple[WeightConfig, dict[str, Any]]] = {
    "ternary": (sxq.Ternary(), {}),
    "binary": (sxq.Binary(), {}),
    "ternary 1.6 bit": (sxq.Ternary(), {"ternary_packing": "1.6bit"}),
    "int4": (sxq.Uniform(4), {}),
    "int8": (sxq.Uniform(8), {}),
    "int16": (sxq.Uniform(16), {}),
}


@dataclass(frozen=True)
class Network:
    """A quantised model in evaluation mode, the sample it is exported with, other inputs, and options of the export."""

    name: str
    model: nn.Module
    sample: Sample
    inputs: Sample
    options: dict[str, Any] = field(default_factory=dict)


class Attention(nn.Module):
    """Spikformer's attention: two products of spikes, a factor of a power of two, for ``(T, B, tokens, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.neurons = nn.ModuleList(jelly.LIFNode(v_threshold=0.3, step_mode="m") for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            neuron(layer(x)).unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for layer, neuron in zip(self.layers[:3], self.neurons[:3], strict=True)
        )
        mixed = self.neurons[3]((q @ k.transpose(-2, -1)) @ v * 0.25)
        return self.neurons[4](self.layers[3](mixed.transpose(2, 3).flatten(3)))  # type: ignore[no-any-return]


def attention() -> tuple[nn.Module, Tensor]:
    return Attention(8, 2), spikes(4, 2, 5, 8)


def text() -> tuple[nn.Module, Tensor]:
    """Tokens of 64 bit, embedded, with attention behind."""
    embedding = nn.Sequential(nn.Embedding(11, 8), jelly.LIFNode(v_threshold=0.2, step_mode="m"))
    return nn.Sequential(embedding, Attention(8, 2)), torch.randint(0, 11, (4, 2, 5))


def images() -> tuple[nn.Module, Tensor]:
    """Images of 8 bit behind a ``FixedPointInput``, batch norm, pooling: products of wide numbers."""
    net = nn.Sequential(
        sxq.FixedPointInput(bits=8, fraction=4),
        sj_layer.Conv2d(1, 6, 3, padding=1, bias=False),
        sj_layer.BatchNorm2d(6),
        jelly.LIFNode(v_threshold=0.5),
        sj_layer.AvgPool2d(2),
        sj_layer.Flatten(),
        sj_layer.Linear(96, 10),
        jelly.IFNode(v_threshold=0.5),
    )
    functional.set_step_mode(net, "m")
    return net, torch.randint(0, 17, (4, 2, 1, 8, 8)) / 16


def wide() -> tuple[nn.Module, Tensor]:
    """Sizes that no register is a multiple of, and enough inputs for runtimes to add in blocks."""
    neuron = {"beta": 0.9, "threshold": 0.5, "init_hidden": True}
    layers = [nn.Linear(517, 131), snn.Leaky(**neuron), nn.Linear(131, 67), snn.Leaky(**neuron)]
    return nn.Sequential(*layers), spikes(5, 3, 517)


OURS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "attention": attention,
    "text": text,
    "grey images": images,
    "wide": wide,
}


#: Sums that may need more than the 24 bits of float32.
_NOT_EXACT = {("grey images", "int16"), ("wide", "int16")}


def _louder(model: nn.Module, factor: float) -> None:
    """Scale the weights, so that spikes reach the end."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor if parameter.dim() > 1 else 1.0)


def _input(name: str, sample: Tensor) -> dict[str, Any]:
    events = sample.is_floating_point() and name != "grey images"
    return {"input": "spikes"} if events else {}


#: What `make test` takes of the networks of other tests; benchmarks and slow tests take all.
QUICK = {
    "explicit loop", "damped state", "neurons of snntorch", "neurons of spikingjelly, sequences", "tokens",
    "layers of torch, 2d", "layers of spikingjelly, 3d", *OURS,
}  # fmt: skip


def networks(*, every: bool) -> Iterator[Network]:
    """Yield networks: a few, with all precisions in turn; or all, in every precision.

    Forms come first: one of them resets all snnTorch neurons of the process, which fails on some that have not run.
    """
    kinds = list(CONFIGS)
    for index, (name, (form, shape, other, _)) in enumerate(FORMS.items()):
        if name == "mixed samples" or (not every and name not in QUICK):
            continue  # mixed samples are not exact
        for kind in ("ternary", "binary") if every else [kinds[index % 2]]:
            config, options = CONFIGS[kind]
            model = quantised(form, config).eval()
            yield Network(f"{name} {kind}", model, spikes(*shape), spikes(*other), {"input": "spikes", **options})
    chosen = {name: build for name, build in {**OURS, **NETWORKS}.items() if every or name in QUICK}
    for index, (name, build) in enumerate(chosen.items()):
        for kind in kinds if every else [kinds[index % len(kinds)]]:
            if (name, kind) in _NOT_EXACT:
                continue
            torch.manual_seed(1)
            # snnTorch's utils.reset goes through the neurons of all networks, and stumbles over a DeltaLeaky's.
            snn.SpikingNeuron.instances.clear()
            model, sample = build()
            _louder(model, 3.0)
            config, options = CONFIGS[kind]
            sxq.quantize_(model, config)
            inputs = torch.cat([sample, sample.flip(0)], 1)
            yield Network(f"{name} {kind}", model.eval(), sample, inputs, {**_input(name, sample), **options})


def recurrent() -> tuple[nn.Module, Tensor]:
    """Tokens, states of a recurrent neuron that the model returns."""
    return Recurrent(), torch.randint(0, 9, (4, 2))


def residual() -> tuple[nn.Module, Tensor]:
    """Signed spikes, graded ones, pools, attention, batch norm, on images of 8 bit."""
    model = Residual()
    model.readout = nn.Identity()  # a float readout behind a mean adds in an order that a runtime may choose
    return model, torch.rand(4, 2, 2, 6, 6)


#: What is exported in other forms, and with which options. The quick tests take the first of each form.
OTHER_FORMS: dict[str, tuple[dict[str, Any], dict[str, Callable[[], tuple[nn.Module, Tensor]]]]] = {
    "integer": (
        {"integer": True},
        {"recurrent": recurrent, "residual": residual, "attention": attention, "grey images": images, "wide": wide},
    ),
    "streaming": ({"form": "streaming"}, {"recurrent": recurrent, "grey images": images, "wide": wide}),
    "integer streaming": (
        {"form": "streaming", "integer": True},
        {"recurrent": recurrent, "residual": residual, "grey images": images, "wide": wide},
    ),
}


def other_forms(*, every: bool) -> Iterator[Network]:
    """Yield networks whose files compute with integers only, make single steps, or count spikes."""
    configs: dict[str, WeightConfig] = {"ternary": sxq.Ternary(), "binary": sxq.Binary(), "int4": sxq.Uniform(4)}
    for form, (options, builds) in OTHER_FORMS.items():
        for name in builds if every else list(builds)[: 2 if form == "integer" else 1]:
            for kind in configs if every else ["int4" if name == "residual" else "ternary"]:
                torch.manual_seed(1)
                model, sample = builds[name]()
                _louder(model, 3.0)
                sxq.quantize_(model, configs[kind])
                given = {**_input(name, sample), **options} if name != "residual" else options
                yield Network(f"{form} {name} {kind}", model.eval(), sample, sample.flip(0), given)
    chosen = [("perceptron", True), ("attention", False)]
    chosen += [("perceptron", False), ("attention", True), ("convolutional", False)] if every else []
    for name, signed in chosen:
        for kind in configs if every else ["ternary"]:
            for form in ("counts", "sequence"):
                net, spikes_in = made(name, 8, signed, configs[kind])
                what = f"{form} synchronous {'signed ' if signed else ''}{name} {kind}"
                yield Network(what, net, spikes_in, spikes_in.flip(0), {"form": form, "input": "spikes"})


def language_models(*, every: bool) -> Iterator[Network]:
    """Yield SpikingBERTs of the integer profile: with float constants and without, both forms, either schedule."""
    forms = [("counts", "synchronous", 8), ("sequence", "step", 4)]
    forms += [("sequence", "synchronous", 4)] if every else []
    for form, schedule, steps in forms:
        for weights in ("ternary", "binary") if every else ("ternary",):
            for integer in (False, True):
                torch.manual_seed(2)
                sizes = {"vocab": 37, "layers": 2, "hidden": 32, "heads": 4, "ffn": 48, "positions": 16}
                model = SpikingBert(
                    SpikingBertConfig(
                        **sizes, profile="integer", schedule=schedule, T=steps, weights=weights, head="pooled"
                    )
                ).eval()
                ids = torch.randint(37, (3, 9))
                mask = (torch.arange(9) < torch.tensor([[9], [4], [1]])).long()
                sample = {"input_ids": ids, "attention_mask": mask}
                inputs = {"input_ids": ids.flip(1)[:, :7], "attention_mask": mask[:, :7]}
                name = f"{form} SpikingBERT {schedule} {weights}{' integer' if integer else ''}"
                yield Network(name, model, sample, inputs, {"form": form, "integer": integer})


def write_cases(cases: Cases, *, every: bool = False) -> None:
    """Export networks into the folder."""
    for index, network in enumerate((*networks(every=every), *other_forms(every=every), *language_models(every=every))):
        file = f"{index:03d} {network.name}".replace(",", "").replace(" ", "_")
        cases.add(file, network.model, network.sample, network.inputs, **network.options)
    cases.write()
