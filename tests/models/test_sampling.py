from __future__ import annotations

import numpy as np
import pytest

from snn_extreme_quant.errors import ConfigError, SampleError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.models.gpt.generation import generate
from snn_extreme_quant.models.gpt.sampling import choose

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05], np.float32))


def counts(temperature, top_p, draws=4000):
    generator = np.random.default_rng(0)
    found = np.bincount([choose(LOGITS, temperature, top_p, generator) for _ in range(draws)], minlength=5)
    return found / draws


@pytest.mark.parametrize(
    ("temperature", "top_p", "kept"),
    [(1.0, 1.0, [0, 1, 2, 3, 4]), (1.0, 0.5, [1, 3]), (1.0, 0.39, [1]), (0.5, 0.7, [1, 3]), (2.0, 0.89, [0, 1, 2, 3])],
)
def test_tokens_are_drawn_as_they_are_likely(temperature, top_p, kept):
    expected = np.zeros(5)
    expected[kept] = np.exp(LOGITS[kept] / temperature)
    expected /= expected.sum()
    np.testing.assert_allclose(counts(temperature, top_p), expected, atol=0.03)


def test_no_temperature_is_the_likeliest_token():
    assert counts(0.0, 1.0, 10)[1] == 1.0
    assert choose(np.array([1.0, 2.0, 2.0]), 0.0, 0.1, np.random.default_rng(0)) == 1


def test_large_logits_do_not_overflow():
    assert choose(np.array([1e4, 0.0, 2e4], np.float32), 0.01, 1.0, np.random.default_rng(0)) == 2


def test_mistakes():
    model = SpikeGPT(SpikeGPTConfig(vocab=9, layers=1, hidden=8)).eval()
    for options in ({"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            generate(model, [1], 3, **options)
    with pytest.raises(SampleError, match="prompt"):
        generate(model, [], 3)
    with pytest.raises(SampleError, match="token 9"):
        list(generate(model, [9], 3))
    for options in ({"seed": -1}, {"seed": 1.5}, {"temperature": "a"}, {"top_p": None}, {"count": -1}, {"count": "3"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            generate(model, [1], **{"count": 3, **options})
    for prompt in ("abc", b"abc", 3, None):
        with pytest.raises(SampleError, match="sequence of tokens"):
            generate(model, prompt, 3)
    for prompt in ([1.5], [[1]], ["a"]):
        with pytest.raises(SampleError, match=r"token"):
            list(generate(model, prompt, 3))
    assert list(generate(model, np.array([1]), np.int64(2), seed=np.uint8(0))) == list(generate(model, [1], 2))


def test_dropout_takes_no_part():
    """The tokens are a function of model and arguments, whatever the training flag; it is as it was in between."""
    model = SpikeGPT(SpikeGPTConfig(vocab=30, layers=2, hidden=24, dropout=0.5)).eval()
    wanted = list(generate(model, [1, 2, 3], 30, seed=1))
    made = []
    for token in generate(model.train(), [1, 2, 3], 30, seed=1):
        assert all(module.training for module in model.modules())
        made.append(token)
    assert made == wanted
    assert model.training
