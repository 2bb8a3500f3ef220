"""Puts the deployment operators in the place of neurons and quantised layers while a model is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from snn_extreme_quant.deploy.recording.layer_stubs import layer_stub
from snn_extreme_quant.deploy.recording.neuron_stubs import NeuronStub
from snn_extreme_quant.frameworks import NeuronInModel
from snn_extreme_quant.neurons import SynchronousIF

__all__ = ["substituted"]


@contextlib.contextmanager
def substituted(model: nn.Module, neurons: list[NeuronInModel]) -> Iterator[list[NeuronStub]]:
    """Replace, on the instances, what must stay whole in the graph; gives what stands in for the neurons."""
    stubs: list[NeuronStub] = []
    changed: list[tuple[nn.Module, str]] = []

    def put(module: nn.Module, name: str, value: object) -> None:
        module.__dict__[name] = value
        changed.append((module, name))

    with contextlib.ExitStack() as stack:
        for framework in {n.framework.name: n.framework for n in neurons}.values():
            stack.enter_context(framework.capturing())
        try:
            for neuron in (n for n in neurons if not isinstance(n.module, SynchronousIF)):
                stub = NeuronStub(neuron)
                stubs.append(stub)
                put(neuron.module, "forward", stub.forward)
                for method in neuron.framework.reset_methods:
                    put(neuron.module, method, stub.reset)
            inside = tuple(f"{n.name}." for n in neurons)
            for name, module in model.named_modules():
                replacement = None if inside and name.startswith(inside) else layer_stub(module, name)
                if replacement is not None:
                    put(module, *replacement)
            yield stubs
        finally:
            for stub in stubs:
                stub.hide()
            for module, name in changed:
                module.__dict__.pop(name, None)
