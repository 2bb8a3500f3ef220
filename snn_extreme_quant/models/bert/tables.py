"""A SpikingBert's tables of words, positions and token types after training: fewer bits, fewer rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import nn

from snn_extreme_quant.config import PrecisionPlan, Uniform
from snn_extreme_quant.errors import ConfigError

if TYPE_CHECKING:
    from snn_extreme_quant.models.bert.spiking_bert import SpikingBert

__all__ = ["TABLES", "cut_positions", "pack_embeddings"]

#: The tables, words first, and the least bits of all but the words: they are small, and every token reads them.
TABLES = ("embeddings.words", "embeddings.positions", "embeddings.token_types")
_LEAST_BITS = 8


def pack_embeddings(model: SpikingBert, bits: int = 4, scale: Literal["mse", "max"] = "mse") -> None:
    """Quantise the tables, with a scale for each row; the latent tables stay as they are.

    Args:
        model: it is changed.
        bits: of words, 2 to 16. Positions and types have at least 8.
        scale: ``"mse"``: the scale with the least squared error that a search finds; ``"max"``: of the largest.

    Raises:
        ConfigError: other bits, or another rule for the scale.

    Example:
        >>> from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
        >>> model = SpikingBert(SpikingBertConfig(vocab=9, layers=1, hidden=8, heads=2, ffn=8))
        >>> pack_embeddings(model, 4)
        >>> [layer.config.bits for layer in (model.embeddings.words, model.embeddings.positions)]
        [4, 8]
    """
    words, *others = TABLES
    tables = {words: Uniform(bits, per="channel", scale=scale)}
    tables |= dict.fromkeys(others, Uniform(max(bits, _LEAST_BITS), per="channel", scale=scale))
    plan = model.config.plan
    rules = [(name, config) for name, config in plan.rules if name not in tables]
    model.set_weights(PrecisionPlan([*tables.items(), *rules], plan.default))


def cut_positions(model: SpikingBert, positions: int) -> None:
    """Leave the first rows of the table of positions; longer texts are refused from then on.

    Args:
        model: it is changed.
        positions: how many.

    Raises:
        ConfigError: the model has fewer.

    Example:
        >>> from snn_extreme_quant.models import SpikingBert, SpikingBertConfig
        >>> model = SpikingBert(SpikingBertConfig(vocab=9, layers=1, hidden=8, heads=2, ffn=8))
        >>> cut_positions(model, 64)
        >>> model.embeddings.positions.weight.shape
        torch.Size([64, 8])
    """
    if type(positions) is not int or not 1 <= positions <= model.config.positions:
        raise ConfigError(f"cut_positions({positions!r}): the model has {model.config.positions}; use 1 to that.")
    weights = model.config.weights
    model.set_weights("float")
    rows = model.embeddings.positions.weight.detach()[:positions].clone()
    model.embeddings.positions = nn.Embedding(positions, model.config.hidden, _weight=rows)
    model.config = replace(model.config, positions=positions)
    model.set_weights(weights)
