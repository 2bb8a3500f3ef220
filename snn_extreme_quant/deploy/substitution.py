"""Puts the deployment operators in the place of neurons and quantised layers while a model is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from snn_extreme_quant.frameworks import NeuronInModel

from .layer_stubs import layer_stub
from .neuron_stubs import neuron_stub

__all__ = ["substituted"]


@contextlib.contextmanager
def substituted(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[None]:
    """Replace, on the instances, what must stay whole in the graph."""
    changed: list[tuple[nn.Module, str]] = []

    def put(module: nn.Module, name: str, value: object) -> None:
        module.__dict__[name] = value
        changed.append((module, name))

    with contextlib.ExitStack() as stack:
        for framework in {n.framework.name: n.framework for n in neurons}.values():
            stack.enter_context(framework.capturing())
        try:
            for neuron in neurons:
                forward, reset = neuron_stub(neuron)
                put(neuron.module, "forward", forward)
                for method in neuron.framework.reset_methods:
                    put(neuron.module, method, reset)
            inside = tuple(f"{n.name}." for n in neurons)
            for name, module in model.named_modules():
                stub = None if inside and name.startswith(inside) else layer_stub(module, name)
                if stub is not None:
                    put(module, *stub)
            yield
        finally:
            for module, name in changed:
                module.__dict__.pop(name, None)
