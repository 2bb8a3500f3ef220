from __future__ import annotations

import pytest

from snn_extreme_quant.accounting import CONSTANTS, BertSizes, Energy, Operations, spiking_bert_energy
from snn_extreme_quant.errors import ConfigError

SIZES = BertSizes(layers=2, hidden=4, ffn=8, classes=3, pooled=True)
LAYER = ("attention.key_neurons", "attention.value_neurons", "attention.neurons", "attention_neurons",
         "intermediate_neurons", "neurons")  # fmt: skip
NAMES = ["embeddings.neurons", *(f"encoder.{i}.{name}" for i in range(2) for name in LAYER), "pooler_neurons"]


def spent(spikes, tokens=5, first=0, passes=1):
    return spiking_bert_energy(SIZES, tokens, dict.fromkeys(NAMES, 0) | spikes, first, passes)


@pytest.mark.parametrize(
    ("layer", "targets"),
    [
        ("embeddings.neurons", 3 * 4),  # query, key, value
        ("encoder.0.attention.key_neurons", 5),  # the queries of all tokens
        ("encoder.0.attention.value_neurons", 5),
        ("encoder.0.attention.neurons", 4),
        ("encoder.0.attention_neurons", 8),
        ("encoder.0.intermediate_neurons", 4),
        ("encoder.0.neurons", 3 * 4),
        ("encoder.1.neurons", 0),  # read at the first token alone
        ("pooler_neurons", 0),  # read by the classifier, as a rate
    ],
)
def test_a_spike_is_added_once_for_each_target(layer, targets):
    assert spent({layer: 7}).spiking.accumulations - spent({}).spiking.accumulations == 7 * targets


def test_the_first_tokens_spikes_reach_the_pooler():
    assert spent({}, first=3).spiking.accumulations == 3 * 4


def test_products_that_stay():
    scales_and_biases = 2 * 5 * (5 * 4 + 8) + 4
    assert spent({}).spiking == Operations(0, scales_and_biases + 4 * 3)
    assert spent({}, passes=16).spiking.macs == 16 * scales_and_biases + 4 * 3


def test_the_float_network_multiplies_everything():
    layer = 5 * (4 * 4 * 4 + 2 * 4 * 8) + 2 * 5 * 5 * 4
    assert spent({}).dense == Operations(0, 2 * layer + 4 * 4 + 4 * 3)


def test_joules_and_sums():
    a, b = Operations(10, 2), Operations(1, 1)
    assert (a + b).joules == pytest.approx(11 * CONSTANTS["accumulation"] + 3 * CONSTANTS["multiply_accumulate"])
    assert (Energy(a, b) + Energy(b, b)).ratio == pytest.approx((a + b).joules / (2 * b.joules))


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"encoder.0.attention.key_neurons"):
        spiking_bert_energy(SIZES, 5, {"embeddings.neurons": 1})
    with pytest.raises(ConfigError, match="hidden"):
        BertSizes.of_config({"layers": 1})
