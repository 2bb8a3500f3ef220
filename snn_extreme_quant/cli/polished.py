"""What ``sxq search --finetune`` trains on, and where the trained model goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from snn_extreme_quant.errors import ConfigError

from .models import named_object
from .searched import SPIKE_GPT, Data, folder_of, rows_of_split

if TYPE_CHECKING:
    from torch import nn

    from snn_extreme_quant.precision_search.polishing import Loss

__all__ = ["loss_of", "save_polished"]


def loss_of(model: str, made: nn.Module, data: Data, train: Path | None, loss: str | None) -> Loss:
    """Return the loss that the command line names, or that of a folder of ours.

    Args:
        model: as on the command line.
        made: it.
        data: what it is measured on.
        train: what it is trained on: a folder with the train split, or a text; None: where the dev split is.
        loss: ``MODULE:NAME``.

    Raises:
        ConfigError: there is nothing to train on.
        ModelSourceError: a name that gives none.
    """
    if loss is not None:
        found = named_object(loss, "a loss")
        if not callable(found):
            raise ConfigError(f"--loss {loss} is a {type(found).__name__}; name a function loss(model, step).")
        return cast("Loss", found)
    if not Path(model).is_dir():
        raise ConfigError(
            "--finetune needs --loss MODULE:NAME, a function loss(model, step); only folders of ours do without."
        )
    from snn_extreme_quant.data import Sentences, TextTokens, read_document, rows_of
    from snn_extreme_quant.models.bert.teacher import load_tokenizer
    from snn_extreme_quant.precision_search import SentenceLoss, TextLoss

    source, kind = folder_of(Path(model))
    if kind == SPIKE_GPT and getattr(made, "config").head == "tokens":  # noqa: B009 - a SpikeGPT
        if train is None:
            raise ConfigError("--train-data FILE is needed: the text that --finetune trains on.")
        return TextLoss(made, TextTokens.load(source).encode(read_document(train)))
    rows, tokens = rows_of_split(source, replace(data, path=train or data.path), "train")
    if kind == SPIKE_GPT:
        return SentenceLoss(made, rows_of(rows.texts, rows.labels, TextTokens.load(source), tokens))
    return SentenceLoss(made, Sentences.tokenise(rows, load_tokenizer(source), tokens))


def save_polished(path: Path, trained: nn.Module, model: str) -> None:
    """Write a model: ours as a folder with what reads its tokens, others as a checkpoint.

    Args:
        path: a folder, or a ``.safetensors`` file.
        trained: the model.
        model: the one before, as on the command line.
    """
    from snn_extreme_quant.models import SpikeGPT, SpikingBert

    if not isinstance(trained, (SpikeGPT, SpikingBert)):
        from snn_extreme_quant.checkpoints import save_checkpoint

        save_checkpoint(trained, path)
        return
    trained.save_pretrained(path)
    if not Path(model).is_dir():
        return
    source, kind = folder_of(Path(model))
    if kind == SPIKE_GPT:
        from snn_extreme_quant.data import TextTokens

        TextTokens.load(source).save(path)
    else:
        from snn_extreme_quant.models.bert.teacher import load_tokenizer

        load_tokenizer(source).save_pretrained(path)
