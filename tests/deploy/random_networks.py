"""Random small networks of both frameworks, for property tests: all that the product says yes to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import snntorch as snn
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import layer as sj_layer
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.config import WeightConfig
from tests.deploy import random_layers
from tests.deploy.random_layers import flip, shape_after
from tests.deploy.random_neurons import snntorch_neuron, spikingjelly_neuron

__all__ = ["FORMS", "Loop", "Network", "networks", "quantised"]

FORMS = ("snntorch steps", "snntorch loop", "spikingjelly steps", "spikingjelly loop", "spikingjelly sequences")


@dataclass
class Network:
    """A quantised network, how it was built (for hypothesis to print), and an input.

    ``exact``: all its sums are exact by construction, so the exporter must guarantee every layer.
    """

    model: nn.Module
    inputs: Tensor
    spikes_in: bool
    exact: bool
    text: str

    def __repr__(self) -> str:
        return self.text


class Loop(nn.Module):
    """Runs its modules over all steps of ``(T, B, ...)``, passing the states of neurons that do not keep them.

    Gives the outputs of the last module, and its membrane potentials if they are passed.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Any:
        states: list[Any] = [m.reset_mem() if _passed(m) else None for m in self.steps]
        spikes, potentials = [], []
        for t in range(x.shape[0]):
            y = x[t]
            for i, module in enumerate(self.steps):
                if states[i] is None:
                    y = module(y)
                elif isinstance(module, snn.DeltaLeaky):
                    y, states[i] = module(y, states[i])
                else:
                    given = states[i] if isinstance(states[i], tuple) else (states[i],)
                    result = module(y, *given)
                    y, states[i] = result[0], result if isinstance(module, (snn.RLeaky, snn.RSynaptic)) else result[1:]
            spikes.append(y)
            if states[-1] is not None:
                # Of DeltaLeaky the state is the potential and the one before.
                potentials.append(states[-1][0 if isinstance(self.steps[-1], snn.DeltaLeaky) else -1])
        outputs = torch.stack(spikes)
        return (outputs, torch.stack(potentials)) if potentials else outputs


def _passed(module: nn.Module) -> bool:
    return isinstance(module, snn.DeltaLeaky) or (isinstance(module, snn.SpikingNeuron) and not module.init_hidden)


class Residual(nn.Module):
    """Adds spikes to spikes: counts up to twice as high."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class Skip(nn.Module):
    """Adds a layer's output before its batch norm, which then must not be folded into the layer."""

    def __init__(self, layer: nn.Module, norm: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm, self.neuron = layer, norm, neuron

    def forward(self, x: Tensor) -> Tensor:
        current = self.layer(x)
        return self.neuron(self.norm(current) + current)


class _Builder:
    """Stacks modules, and follows shape and exactness of what comes out."""

    def __init__(self, draw: Any, form: str, shape: tuple[int, ...]) -> None:
        self.draw, self.form, self.shape = draw, form, shape
        self.modules: list[nn.Module] = []
        self.jelly = form.startswith("spikingjelly")
        self.mode = "m" if form.endswith("sequences") else "s"
        self.library: Any = sj_layer if self.jelly else nn
        self.options = {"step_mode": self.mode} if self.jelly else {}
        self.lattice = draw(st.booleans())
        #: Sums over what comes out are exact.
        self.whole = True
        #: All sums up to here are.
        self.exact = True

    def neuron(self, *, last: bool = False, inside: bool = False) -> nn.Module:
        if self.jelly:
            return spikingjelly_neuron(self.draw, self.mode)
        return snntorch_neuron(self.draw, self.shape, hidden=inside or self.form.endswith("steps"), last=last)

    def add(self, module: nn.Module) -> None:
        self.modules.append(module)
        self.shape = shape_after(module, self.shape, self.mode)

    def fire(self, *, last: bool = False) -> None:
        self.modules.append(self.neuron(last=last))
        self.whole = True

    def norm(self) -> None:
        self.add(random_layers.batch_norm(self.draw, self.library, self.shape, self.options))
        self.whole = False

    def layer(self) -> None:
        self.exact &= self.whole
        self.add(random_layers.layer(self.draw, self.library, self.shape, self.lattice, self.options))
        self.whole = False

    def pool(self) -> None:
        module, whole = random_layers.pool(self.draw, self.library, self.shape, self.options)
        self.add(module)
        # An average of real numbers is a sum of them; their largest is one of them.
        self.exact &= self.whole or "MaxPool" in type(module).__name__
        self.whole &= whole

    def residual(self) -> None:
        self.exact &= self.whole
        layer = random_layers.same_shape_layer(self.draw, self.library, self.shape, self.options)
        norm = random_layers.batch_norm(self.draw, self.library, self.shape, self.options)
        neuron = self.neuron(inside=True)
        if flip(self.draw):
            self.modules.append(Skip(layer, norm, neuron))
        else:
            self.modules.append(Residual(*([layer, norm] if flip(self.draw) else [layer]), neuron))

    def flatten(self) -> None:
        self.add(self.library.Flatten(**self.options))

    def block(self, *, last: bool) -> None:
        """A layer and its neuron, with what may stand between and behind."""
        self.layer()
        norm = flip(self.draw, 3)
        if norm:
            self.norm()
        if len(self.shape) > 1 and flip(self.draw, 6):
            self.pool()  # of membrane currents; a batch norm behind it is not folded
            if not norm:
                self.norm()
        if flip(self.draw, 5):
            self.modules.append(self.library.Dropout(0.5, **self.options))
        self.fire(last=last)
        if last:
            return
        if len(self.shape) > 1 and flip(self.draw, 3):
            self.pool()
        if self.whole and flip(self.draw, 4):
            self.residual()
        if len(self.shape) > 1 and flip(self.draw, 3):
            self.flatten()


def quantised(model: nn.Module, config: WeightConfig) -> nn.Module:
    """Quantise the model, with scales by channel where scales by groups of inputs are refused."""
    by_channel = replace(config, per="channel", group_size=None) if getattr(config, "per", "") == "group" else config
    names = [
        name
        for name, module in model.named_modules()
        if (getattr(module, "groups", 1) != 1 or name.endswith("recurrent")) and hasattr(module, "weight")
    ]
    sxq.quantize_(model, sxq.PrecisionPlan(dict.fromkeys(names, by_channel), default=config))
    return model.eval()


_SHAPES = {
    "features": st.tuples(st.one_of(st.integers(1, 130), st.sampled_from([1, 4, 8, 64, 65]))),
    "conv1d": st.tuples(st.integers(1, 5), st.just(9)),
    "conv2d": st.tuples(st.integers(1, 5), st.just(6), st.just(4)),
    "conv3d": st.tuples(st.integers(1, 3), st.just(3), st.just(4), st.just(4)),
}


@st.composite
def networks(draw: Any, form: str | None = None) -> Network:
    """1 to 3 blocks, T 1 to 12, all layers, neurons and precisions, in all forms or in one."""
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    form = draw(st.sampled_from(FORMS)) if form is None else form
    steps, batch = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["features", "features", "conv1d", "conv2d", "conv3d", "tokens"]))
    spikes_in, narrow = kind != "tokens" and draw(st.booleans()), False
    if kind == "tokens":
        inputs = torch.randint(0, 7, (steps, batch, 3))
        builder = _Builder(draw, form, (3, 8))
        builder.modules.append(nn.Embedding(7, 8))
        nn.init.normal_(builder.modules[0].weight, std=2.0)  # type: ignore[arg-type]
        builder.fire()
        builder.flatten()
    else:
        shape = draw(_SHAPES[kind])
        builder = _Builder(draw, form, shape)
        inputs = random_layers.spikes(steps, batch, *shape)
        if not spikes_in:
            inputs = torch.rand(steps, batch, *shape) * 2
            bits, fraction = draw(st.sampled_from([1, 4, 8, 12])), draw(st.integers(0, 6))
            builder.modules.append(sxq.FixedPointInput(bits=bits, fraction=fraction))
            narrow = bits > 4
        if flip(draw, 8):
            builder.norm()
            if flip(draw):
                builder.fire()
    depth = draw(st.integers(1, 3))
    for index in range(depth):
        builder.block(last=index == depth - 1)
    model = Loop(*builder.modules) if form.endswith("loop") else nn.Sequential(*builder.modules)
    config = draw(random_layers.configs())
    quantised(model, config)
    exact = builder.exact and config.bits <= (3 if narrow else 8)
    text = f"seed {seed}, {form}, {config}, inputs {tuple(inputs.shape)}\n{model}"
    return Network(model, inputs, spikes_in, exact, text)
