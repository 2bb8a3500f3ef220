"""A BERT of transformers with a classifier, to be fine-tuned into a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from snn_extreme_quant.errors import ModelSourceError
from snn_extreme_quant.models.bert.teacher import check_bert
from snn_extreme_quant.models.sources import check_source

__all__ = ["load_base", "silent"]


def load_base(source: str | Path, classes: int, dropout: float, labels: Sequence[str] = ()) -> Any:
    """Load a BERT with a classifier for so many classes, in float32; its own is kept if it has as many.

    Args:
        source: a folder or hub id that ``AutoModel`` loads.
        classes: outputs; 1 is regression.
        dropout: in the place of the base's own.
        labels: names of the classes, or none.

    Raises:
        ModelSourceError: there is no such folder, or transformers cannot load it; the message holds its reason.
        UnsupportedModelError: it is no BERT that a student can be made from.
    """
    check_source(source)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = dict(enumerate(labels)) if labels else {}
    try:
        config = AutoConfig.from_pretrained(source)
        check_bert(config, str(source))
        config.num_labels = classes
        if names:
            config.id2label, config.label2id = names, {name: number for number, name in names.items()}
        config.problem_type = "regression" if classes == 1 else "single_label_classification"
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        config.classifier_dropout = None
        with silent():
            return AutoModelForSequenceClassification.from_pretrained(
                source, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelSourceError(f"{source} cannot be loaded as a base: {error}") from error


@contextmanager
def silent() -> Iterator[None]:
    """Keep bars and notes of transformers off the screen, such as that a classifier is new: it is meant to be."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
