"""What ``sxq search`` works on: a model, and what measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_extreme_quant.errors import CheckpointError, ConfigError

from .models import build_model, named_object

if TYPE_CHECKING:
    from torch import nn

    from snn_extreme_quant.data import Rows, Task

__all__ = ["SPIKE_GPT", "Data", "folder_of", "rows_of_split", "searched"]

#: What ``config.json`` says it is of.
SPIKE_GPT = "snn_extreme_quant.spike_gpt"
_MODELS = (SPIKE_GPT, "snn_extreme_quant.spiking_bert")


@dataclass(frozen=True)
class Data:
    """What is measured on.

    Args:
        path: a folder with a dev split, or a text; None where the run says where they are.
        evaluate: ``MODULE:NAME`` of a function or evaluator.
        streams: parts of a text.
        max_tokens: of a sentence; None: the run's, or 128.
        text: column of the sentences.
        pair: of second ones.
        label: of the labels.
    """

    path: Path | None
    evaluate: str | None
    streams: int
    max_tokens: int | None
    text: str | None
    pair: str | None
    label: str | None


def searched(model: str, checkpoint: Path | None, data: Data) -> tuple[nn.Module, Any]:
    """Return the model that the command line names, and what evaluates it.

    Raises:
        ConfigError: there is nothing to measure it on.
        CheckpointError: a folder holds no model.
        ModelSourceError: a name that gives none.
    """
    if data.evaluate is not None:
        return build_model(model, checkpoint, None, None), named_object(data.evaluate, "an evaluation")
    if not Path(model).is_dir():
        if ":" not in model:
            raise ConfigError(f"There is no folder {model}; name that of a model, or MODULE:NAME with --evaluate.")
        raise ConfigError("--evaluate MODULE:NAME says how good a model is; only folders of ours go without.")
    source, kind = folder_of(Path(model))
    if kind == SPIKE_GPT:
        return _spike_gpt(source, data)
    from snn_extreme_quant.data import Sentences
    from snn_extreme_quant.models import SpikingBert
    from snn_extreme_quant.models.bert.teacher import load_tokenizer
    from snn_extreme_quant.precision_search import SentenceClassification

    rows, tokens = rows_of_split(source, data)
    sentences = Sentences.tokenise(rows, load_tokenizer(source), tokens)
    return SpikingBert.from_pretrained(source), SentenceClassification(sentences)


def folder_of(folder: Path) -> tuple[Path, str]:
    """Return where the model is, and what it is."""
    inside = (folder, folder / "best", folder / "last")
    source = next((place for place in inside if (place / "config.json").is_file()), None)
    if source is None:
        raise CheckpointError(f"{folder} holds neither a model nor best/ or last/; name a folder of sxq train.")
    try:
        facts = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source / 'config.json'} cannot be read: {error}.") from error
    kind = facts.get("format") if isinstance(facts, Mapping) else None
    if kind not in _MODELS:
        raise CheckpointError(f"{source} holds neither a SpikingBert nor a SpikeGPT; give MODULE:NAME and --evaluate.")
    return source, str(kind)


def _spike_gpt(source: Path, data: Data) -> tuple[nn.Module, Any]:
    from snn_extreme_quant.data import TextTokens, read_document, rows_of
    from snn_extreme_quant.models import SpikeGPT
    from snn_extreme_quant.precision_search import SentenceClassification, TextPerplexity

    model, words = SpikeGPT.from_pretrained(source), TextTokens.load(source)
    if model.config.vocab != words.vocab:
        raise CheckpointError(f"{source}: the model has {model.config.vocab} tokens, tokens.json {words.vocab}.")
    if model.config.head == "tokens":
        if data.path is None:
            raise ConfigError("--data FILE is needed: the text whose perplexity is measured.")
        return model, TextPerplexity(words.encode(read_document(data.path)), data.streams)
    rows, tokens = rows_of_split(source, data)
    return model, SentenceClassification(rows_of(rows.texts, rows.labels, words, tokens))


def rows_of_split(source: Path, data: Data, split: str = "") -> tuple[Rows, int]:
    """Return a split of a task, by default the dev split, and how many tokens a sentence may have.

    Raises:
        ConfigError: the task has scores instead of classes, or no folder is known.
    """
    from dataclasses import replace

    from snn_extreme_quant.data import Task, read_rows
    from snn_extreme_quant.training.run_folder import read_run

    run = read_run(source, "best") or read_run(source.parent, "best")
    known: Task = Task("texts") if run is None else run.task
    task = replace(known, text=data.text or known.text, pair=data.pair or known.pair, label=data.label or known.label)
    if task.regression:
        raise ConfigError(f"{source} gives scores; the search measures accuracy or perplexity. Use --evaluate.")
    folder = data.path or (None if run is None else run.data)
    if folder is None or not folder.is_dir():
        raise ConfigError(f"--data FOLDER is needed: the folder with the task's {split or 'dev'} split.")
    return read_rows(task, folder, split or task.dev), data.max_tokens or (128 if run is None else run.max_tokens)
