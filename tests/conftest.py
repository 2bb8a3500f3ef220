"""What every test gets."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def own_list_of_snntorch_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the neurons of other tests out of reach.

    snnTorch lists every neuron of the process for ever, and its ``utils.reset`` resets them all; it fails on a
    ``DeltaLeaky`` that has not run.
    """
    neurons = sys.modules.get("snntorch._neurons.neurons")
    if neurons is not None:
        monkeypatch.setattr(neurons.SpikingNeuron, "instances", [])
