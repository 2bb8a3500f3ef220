"""Operations of a SpikeGPT, counted by hand, and against the products of the model itself."""

from __future__ import annotations

import pytest
import torch

from snn_extreme_quant.accounting import CONSTANTS, Elementwise, GptSizes, spike_gpt_energy
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

SIZES = {"vocab": 7, "layers": 2, "hidden": 3, "ffn": 5}
#: A layer has five products of 3 x 3, and two of 3 x 5; the head is 3 x 7.
MACS = 2 * (5 * 9 + 2 * 15) + 21


def sizes(inputs, **options):
    return GptSizes.of_config(SpikeGPTConfig(**SIZES, inputs=inputs, **options).to_dict())


def test_products_of_norms_are_those_of_the_float_network():
    energy = spike_gpt_energy(sizes("norms"), tokens=4)
    assert energy.products == energy.dense
    assert (energy.products.macs, energy.products.accumulations) == (4 * MACS, 0)
    assert energy.ratio == 1.0


@pytest.mark.parametrize("inputs", ["norms", "spikes"])
def test_products_are_the_models(inputs):
    model = SpikeGPT(SpikeGPTConfig(**SIZES, inputs=inputs))
    found = [(k, n) for _, k, n in sizes(inputs).products()]
    assert found == [(product.inputs, product.outputs) for product in model.products()]


@pytest.mark.parametrize(
    ("layer", "targets"),
    [
        *((f"blocks.1.att.readers.{name}", 3) for name in ("key", "value", "receptance", "output")),
        ("blocks.0.ffn.readers.key", 5),
        ("blocks.0.ffn.readers.receptance", 3),
        ("blocks.0.ffn.readers.value", 3),
        ("head_neurons", 7),
    ],
)
def test_a_spike_is_added_once_for_each_output(layer, targets):
    silent = {name: 0 for name, _, _ in sizes("spikes").products()}
    energy = spike_gpt_energy(sizes("spikes"), 9, {**silent, layer: 6})
    assert (energy.products.accumulations, energy.products.macs) == (6 * targets, 0)
    assert energy.dense.macs == 9 * MACS


def test_counted_spikes_of_a_model():
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(**SIZES, inputs="spikes")).eval()
    spikes, outputs = {}, {name: n for name, _, n in sizes("spikes").products()}
    for name, module in model.named_modules():
        if name in outputs:
            module.register_forward_hook(lambda _, __, found, name=name: spikes.__setitem__(name, int(found[0].sum())))
    model(torch.randint(7, (1, 50)))
    assert set(spikes) == set(outputs)
    energy = spike_gpt_energy(sizes("spikes"), 50, spikes)
    assert energy.products.accumulations == sum(spikes[name] * outputs[name] for name in outputs) > 0
    assert energy.ratio < CONSTANTS["accumulation"] / CONSTANTS["multiply_accumulate"]


def test_the_other_operations_counted_by_hand():
    """d = 3, f = 5, two layers, one token; six norms."""
    found = spike_gpt_energy(sizes("norms")).elementwise
    assert found == {
        "token shift": Elementwise(2 * 2 * 15, 2 * 15),
        "wkv": Elementwise(2 * 15, 2 * 12, 2 * 3, 2 * 3),
        "gates": Elementwise(2 * 6, 2 * 6, 2 * 6, 2 * 6),
        "squares": Elementwise(2 * 5),
        "norms": Elementwise(6 * 9, 6 * 12, 6, 0, 6),
        "stream": Elementwise(0, 2 * 6),
        "neurons": Elementwise(2 * 12, 12),
    }
    more = spike_gpt_energy(sizes("spikes"), 1, {name: 0 for name, _, _ in sizes("spikes").products()}).elementwise
    assert more["neurons"] == Elementwise(2 * (12 + 49), 12 + 49)  # 6 of 3 and one of 5 in a layer, 3 of the head
    assert more["wkv"] == found["wkv"]
    rwkv = spike_gpt_energy(sizes("norms", spiking=False)).elementwise
    assert rwkv["neurons"] == Elementwise()
    assert spike_gpt_energy(sizes("norms"), 5).elementwise["wkv"] == found["wkv"].times(5)


def test_joules():
    assert Elementwise(10, 4, 7, 7, 7).joules == pytest.approx(10 * 3.7e-12 + 4 * 0.9e-12)
    assert Elementwise(1, 2) + Elementwise(3, 4, 5) == Elementwise(4, 6, 5)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"blocks\.0\.att\.readers\.key"):
        spike_gpt_energy(sizes("spikes"))
    with pytest.raises(ConfigError, match="head='mean'"):
        sizes("norms", head="mean")
    with pytest.raises(ConfigError, match="hidden"):
        GptSizes.of_config({"head": "tokens", "vocab": 3, "layers": 2})
    with pytest.raises(ConfigError, match="tokens=0"):
        spike_gpt_energy(sizes("norms"), 0)
