"""What the configuration refuses, and what the products read."""

from __future__ import annotations

import pytest

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.models import SpikeGPTConfig
from tests.models.spike_gpts import build, texts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 1}, "hidden"),
        ({"hidden": 5000}, "at most 4096"),
        ({"layers": 0}, "layers"),
        ({"head": "first"}, "head"),
        ({"inputs": "numbers"}, "inputs"),
        ({"tau": 1.0}, "tau"),
        ({"tau": 3.0, "neurons": "snntorch"}, "tau"),
        ({"detach_reset": True, "neurons": "snntorch"}, "detach_reset"),
        ({"spiking": False, "inputs": "spikes"}, "inputs"),
        ({"spiking": False, "neurons": "snntorch"}, "neurons"),
        ({"tied": True, "head": "mean"}, "tied"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"input_threshold": 0.0}, "input_threshold"),
        ({"weights": "tenary"}, "ternary"),
        ({"vocab": 4.0}, "whole number"),
        ({"spiking": 1}, "True or False"),
        ({"binary_embedding": "yes"}, "binary_embedding"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        SpikeGPTConfig(**options)


def test_neurons_of_no_framework():
    with pytest.raises(ConfigError, match="snntorch"):
        build(neurons="snntorc")


def test_products_say_what_they_read():
    products = list(build(weights="ternary").products())
    assert len(products) == 3 * 7 + 1
    assert {p.operation for p in products} == {"multiply-accumulate"}
    assert sum(p.inputs * p.outputs for p in products) == 3 * (5 * 37 * 37 + 2 * 37 * 148) + 37 * 40
    assert {p.operation for p in build(inputs="spikes").products()} == {"accumulate"}
    by_name = {p.name: p.reads for p in build(inputs="spikes", head="mean").products()}
    assert by_name.pop("head") == "numbers"
    assert set(by_name.values()) == {"spikes"}


def test_products_of_the_spike_driven_variant_do_read_spikes():
    model, seen = build(inputs="spikes", weights="ternary"), {}
    for product in model.products():
        layer = model.get_submodule(product.name)
        layer.register_forward_pre_hook(
            lambda _, given, name=product.name: seen.update({name: given[0].unique().tolist()})
        )
    model(texts(60))
    assert len(seen) == 3 * 7 + 1
    assert all(values in ([0.0, 1.0], [0.0]) for values in seen.values())
