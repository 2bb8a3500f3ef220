from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forget_snntorch_neurons() -> Iterator[None]:
    """Drop the neurons a test made: snnTorch keeps a strong reference to every neuron of the process."""
    from snntorch._neurons.neurons import SpikingNeuron

    before = len(SpikingNeuron.instances)
    yield
    del SpikingNeuron.instances[before:]
