"""From a BERT of transformers to a spiking student: sizes, weights, and thresholds from the teacher's activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError, ModelSourceError, UnsupportedModelError
from snn_extreme_quant.models.bert.absorption import absorb_thresholds
from snn_extreme_quant.models.bert.calibration import Place, best_range, best_threshold, sampled_currents
from snn_extreme_quant.models.bert.config import SpikingBertConfig
from snn_extreme_quant.models.bert.offsets import absorb_offsets
from snn_extreme_quant.models.bert.spiking_bert import SpikingBert
from snn_extreme_quant.models.sources import check_source

__all__ = ["Text", "check_bert", "load_teacher", "load_tokenizer", "student_of", "teacher_layers"]

#: Texts that run through the teacher at a time.
_BATCH = 16
#: A sentence, or two.
Text = str | tuple[str, str]
#: Fields of the student that the teacher's sizes decide.
_SIZES = ("vocab", "positions", "types", "layers", "hidden", "heads", "ffn", "classes", "norm_eps")


def load_teacher(source: str | Path | nn.Module) -> Any:
    """Load a BERT, with its classifier if it has one, in float32 and evaluation mode.

    Args:
        source: a folder, a hub id, or a model of transformers, which is returned as it is.

    Raises:
        ModelSourceError: there is no such folder, or transformers cannot load it; the message holds its reason.
        UnsupportedModelError: it is no BERT that a student can be made from.
    """
    if isinstance(source, nn.Module):
        return _checked(source)
    check_source(source)
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    try:
        architectures = AutoConfig.from_pretrained(source).architectures or []
        classifies = any(name.endswith("ForSequenceClassification") for name in architectures)
        loader: Any = AutoModelForSequenceClassification if classifies else AutoModel
        with _quiet():
            model = loader.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelSourceError(f"{source} cannot be loaded as a teacher: {error}") from error
    return _checked(model.eval().requires_grad_(False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bar for the tensors of a small model off the screen."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _checked(model: Any) -> Any:
    check_bert(getattr(model, "config", None), type(model).__name__)
    return model


def check_bert(config: Any, name: str) -> None:
    """Raise :class:`UnsupportedModelError` if a configuration of transformers is of no BERT that carries over."""
    needs = {"model_type": "bert", "position_embedding_type": "absolute", "hidden_act": "gelu", "is_decoder": False}
    for key, value in needs.items():
        found = getattr(config, key, value if key == "position_embedding_type" else None)
        if found != value:
            raise UnsupportedModelError(
                f"{name} has {key}={found!r}; a SpikingBert is made from a BERT with {key}={value!r}."
            )


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer that belongs to a teacher.

    Raises:
        ModelSourceError: there is none, or no such folder.
    """
    check_source(source)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelSourceError(f"{source} has no tokenizer that can be loaded: {error}") from error
    # Where a folder has no tokenizer's files, transformers makes one that knows no word.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelSourceError(f"{source} has no tokenizer: put its tokenizer.json or vocab.txt beside the weights.")
    return tokenizer


def teacher_layers(layers: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Return which of a teacher's layers a student has, from 1.

    Args:
        layers: how many, evenly spread up to the last; which ones; or None for all.
        depth: the teacher's layers.

    Raises:
        ConfigError: more, or other, layers than the teacher has.

    Example:
        >>> teacher_layers(4, 12), teacher_layers([2, 6], 6)
        ((3, 6, 9, 12), (2, 6))
    """
    given: Any = range(1, depth + 1) if layers is None else layers
    if _is_number(given):
        count = int(given)
        if not 1 <= count <= depth:
            raise ConfigError(f"layers={layers!r}: the teacher has {depth}; use 1 to {depth}.")
        return tuple(round((i + 1) * depth / count) for i in range(count))
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(
            f"layers={layers!r}: use a whole number, how many of the teacher's {depth} layers, or a list of them."
        )
    named = list(given)
    chosen = tuple(int(layer) for layer in named if _is_number(layer))
    whole = 0 < len(named) == len(chosen)
    if not whole or list(chosen) != sorted(set(chosen)) or not all(1 <= layer <= depth for layer in chosen):
        raise ConfigError(f"layers={layers!r}: name layers of the teacher in rising order, from 1 to {depth}.")
    return chosen


def _is_number(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Layer:
    """One layer of a BERT of transformers, by what each part is called here."""

    module: Any

    @property
    def weights(self) -> dict[str, nn.Module]:
        """Layers with weights, by their names in :class:`EncoderLayer`."""
        attention, own = self.module.attention, self.module.attention.self
        return {
            "attention.query": own.query,
            "attention.key": own.key,
            "attention.value": own.value,
            "attention_output": attention.output.dense,
            "attention_norm": attention.output.LayerNorm,
            "intermediate": self.module.intermediate.dense,
            "output": self.module.output.dense,
            "output_norm": self.module.output.LayerNorm,
        }

    @property
    def places(self) -> dict[str, Place]:
        """Where the current of each layer of neurons is."""
        attention, own = self.module.attention, self.module.attention.self
        hidden, ffn = own.key.out_features, self.module.intermediate.dense.out_features
        return {
            "attention.key_neurons": (own.key, False, hidden),
            "attention.value_neurons": (own.value, False, hidden),
            "attention.neurons": (attention.output.dense, True, hidden),
            "attention_neurons": (attention.output, False, hidden),
            "intermediate_neurons": (self.module.intermediate, False, ffn),
            "neurons": (self.module.output, False, hidden),
        }


def _trunk(teacher: Any) -> Any:
    return getattr(teacher, "bert", teacher)


def student_of(
    source: str | Path | nn.Module,
    layers: int | Sequence[int] | None,
    texts: Iterable[Text] | None,
    options: Mapping[str, Any],
) -> SpikingBert:
    """Make the student; :meth:`SpikingBert.from_teacher` says how."""
    sentences = None if texts is None else _checked_texts(texts)
    teacher = load_teacher(source)
    trunk, theirs = _trunk(teacher), teacher.config
    chosen = teacher_layers(layers, theirs.num_hidden_layers)
    classifier = getattr(teacher, "classifier", None)
    pooled = classifier is not None and getattr(trunk, "pooler", None) is not None
    taken = [name for name in _SIZES if name in options and not (name == "classes" and classifier is None)]
    if taken:
        raise ConfigError(f"from_teacher({taken[0]}=...): the teacher decides that; leave it out.")
    config = SpikingBertConfig.from_dict({
        "head": "pooled" if pooled else "cls",
        **options,
        "vocab": theirs.vocab_size, "positions": theirs.max_position_embeddings, "types": theirs.type_vocab_size,
        "layers": len(chosen), "hidden": theirs.hidden_size, "heads": theirs.num_attention_heads,
        "ffn": theirs.intermediate_size, "norm_eps": theirs.layer_norm_eps,
        **({} if classifier is None else {"classes": classifier.out_features}),
    })  # fmt: skip
    student = SpikingBert(replace(config, weights="float"))
    parts = [_Layer(trunk.encoder.layer[index - 1]) for index in chosen]
    batches = _batches(source, sentences, theirs)
    with torch.no_grad(), _as_measured(trunk):
        _copy(student, trunk, parts, classifier)
        _start_neurons(student, sampled_currents(trunk, batches, _places(student, trunk, parts)))
        if config.offset:
            absorb_offsets(student)
        absorb_thresholds(student)
    student.set_weights(config.weights)
    return student


@contextmanager
def _as_measured(trunk: Any) -> Iterator[None]:
    """Let a teacher compute without dropout, and in each layer all tokens at once; it is as before afterwards."""
    before = [(module, module.training) for module in trunk.modules()]
    cut = [(module, size) for module, _ in before if (size := getattr(module, "chunk_size_feed_forward", 0))]
    trunk.eval()
    for module, _ in cut:
        module.chunk_size_feed_forward = 0
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
        for module, size in cut:
            module.chunk_size_feed_forward = size


def _places(student: SpikingBert, trunk: Any, parts: Sequence[_Layer]) -> dict[str, Place]:
    """Return where the teacher computes what the student's neurons fire for."""
    places: dict[str, Place] = {"embeddings.neurons": (trunk.embeddings, False, student.config.hidden)}
    for index, part in enumerate(parts):
        places |= {f"encoder.{index}.{name}": place for name, place in part.places.items()}
    if student.config.head == "pooled" and getattr(trunk, "pooler", None) is not None:
        places["pooler_neurons"] = (trunk.pooler, False, student.config.hidden)
    return places


def _start_neurons(student: SpikingBert, currents: Iterable[tuple[str, Tensor]]) -> None:
    """Set thresholds and offsets."""
    config, neurons = student.config, dict(student.named_neurons())
    per_channel = config.threshold_per == "channel"
    for name, current in currents:
        if config.offset:
            offset, threshold = best_range(current, config.T, per_channel)
            neurons[name].offset.copy_(offset)
        else:
            threshold = best_threshold(current, config.T, config.signed, per_channel)
        neurons[name].set_thresholds(threshold)


def _copy(student: SpikingBert, trunk: Any, parts: Sequence[_Layer], classifier: Any) -> None:
    """Copy the teacher's weights as they are."""
    theirs = trunk.embeddings
    pairs: list[tuple[Any, Any]] = [
        (student.embeddings.words, theirs.word_embeddings),
        (student.embeddings.positions, theirs.position_embeddings),
        (student.embeddings.token_types, theirs.token_type_embeddings),
        (student.embeddings.norm, theirs.LayerNorm),
    ]
    for layer, part in zip(student.encoder, parts, strict=True):
        pairs += [(layer.get_submodule(name), module) for name, module in part.weights.items()]
    if student.config.head == "pooled" and getattr(trunk, "pooler", None) is not None:
        pairs.append((student.pooler, trunk.pooler.dense))
    if classifier is not None:
        pairs.append((student.classifier, classifier))
    for ours, other in pairs:
        for name in ("weight", "bias"):
            value = getattr(other, name, None)
            if value is not None:
                getattr(ours, name).copy_(value)


def _batches(source: Any, texts: list[Text] | None, theirs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return token ids, masks and types of the texts, or of random tokens."""
    longest = theirs.max_position_embeddings
    if texts is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(theirs.vocab_size, (64, min(32, longest)), generator=generator)
        return [(ids, torch.ones_like(ids), torch.zeros_like(ids))]
    if isinstance(source, nn.Module):
        raise ConfigError("from_teacher(texts=...) needs the teacher's tokenizer: give the teacher's folder or hub id.")
    tokenizer = load_tokenizer(source)
    options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": longest}
    names = ("input_ids", "attention_mask", "token_type_ids")
    found = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(texts[start : start + _BATCH], return_token_type_ids=True, **options)
        ids, mask, types = (batch[name] for name in names)
        found.append((ids, mask, types))
    return found


def _checked_texts(texts: Iterable[object]) -> list[Text]:
    """Return sentences, or pairs of them; raises :class:`ConfigError` if they are none."""
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise ConfigError(
            f"from_teacher(texts={_shown(texts)}): give a list of sentences, or of pairs of them, some hundred, or"
            " None."
        )
    found: list[Text] = []
    for number, text in enumerate(texts):
        if isinstance(text, str):
            found.append(text)
        elif isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
            found.append((text[0], text[1]))
        else:
            raise ConfigError(
                f"from_teacher(texts=...): number {number} is {_shown(text)}, no sentence or pair of them."
            )
    if not found:
        raise ConfigError("from_teacher(texts=[]): give some hundred sentences, or None.")
    pairs = [isinstance(text, tuple) for text in found]
    if any(pairs) and not all(pairs):
        raise ConfigError(
            f"from_teacher(texts=...): number {pairs.index(True)} is a pair and number {pairs.index(False)} is not;"
            " give sentences, or pairs of them."
        )
    return found


def _shown(value: object) -> str:
    """Return the start of what a value looks like."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
