"""From a BERT of transformers to a spiking student: sizes, weights, and thresholds from the teacher's activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError, ModelSourceError, UnsupportedModelError
from snn_extreme_quant.models.config import SpikingBertConfig
from snn_extreme_quant.models.spiking_bert import Neurons, SpikingBert

__all__ = ["best_threshold", "load_teacher", "load_tokenizer", "student_of", "teacher_layers"]

#: Thresholds tried, as fractions of the largest current, and tokens that they are tried on.
_FRACTIONS, _TOKENS = 32, 2048
#: Fields of the student that the teacher's sizes decide.
_SIZES = ("vocab", "positions", "types", "layers", "hidden", "heads", "ffn", "classes", "norm_eps")


def load_teacher(source: str | Path | nn.Module) -> Any:
    """Load a BERT, with its classifier if it has one, in float32 and without dropout.

    Args:
        source: a folder, a hub id, or a model of transformers, which is returned as it is.

    Raises:
        ModelSourceError: transformers cannot load it; the message holds its reason.
        UnsupportedModelError: it is no BERT that a student can be made from.
    """
    if isinstance(source, nn.Module):
        return _checked(source)
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    try:
        architectures = AutoConfig.from_pretrained(source).architectures or []
        classifies = any(name.endswith("ForSequenceClassification") for name in architectures)
        loader: Any = AutoModelForSequenceClassification if classifies else AutoModel
        with _quiet():
            model = loader.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    except (OSError, ValueError, KeyError) as error:
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
    config = getattr(model, "config", None)
    needs = {"model_type": "bert", "position_embedding_type": "absolute", "hidden_act": "gelu", "is_decoder": False}
    for name, value in needs.items():
        found = getattr(config, name, value if name == "position_embedding_type" else None)
        if found != value:
            raise UnsupportedModelError(
                f"{type(model).__name__} has {name}={found!r}; a SpikingBert is made from a BERT with {name}={value!r}."
            )
    return model


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer that belongs to a teacher.

    Raises:
        ModelSourceError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelSourceError(f"{source} has no tokenizer that can be loaded: {error}") from error


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
    chosen = tuple(range(1, depth + 1)) if layers is None else layers
    if isinstance(chosen, int):
        if isinstance(chosen, bool) or not 1 <= chosen <= depth:
            raise ConfigError(f"layers={layers!r}: the teacher has {depth}; use 1 to {depth}.")
        return tuple(round((i + 1) * depth / chosen) for i in range(chosen))
    chosen = tuple(chosen)
    if not chosen or list(chosen) != sorted(set(chosen)) or not all(1 <= layer <= depth for layer in chosen):
        raise ConfigError(f"layers={layers!r}: name layers of the teacher in rising order, from 1 to {depth}.")
    return chosen


def best_threshold(current: Tensor, T: int, signed: bool, per_channel: bool) -> Tensor:
    r"""Return the threshold whose rates represent a current best.

    Of 32 fractions of the largest \|f\| it is the one that minimises the squared error of
    :math:`\vartheta\,\mathrm{clip}(\mathrm{round}(T f/\vartheta), 0, T) / T` (signed: from -T).

    Args:
        current: f, ``(N, channels)``.
        T: levels of a rate.
        signed: whether rates may be negative.
        per_channel: one threshold for each channel, else one.

    Returns:
        ``(channels,)``, or a scalar.

    Example:
        >>> best_threshold(torch.tensor([[0.5], [1.0]]), 2, False, True).tolist()
        [1.0]
    """
    largest = current.abs().amax(0) if signed else current.amax(0)
    largest = (largest if per_channel else largest.amax()).clamp_min(1e-4)
    best, least = largest, torch.full_like(largest, torch.inf)
    for step in range(_FRACTIONS, 0, -1):
        threshold = largest * (step / _FRACTIONS)
        rates = (current / threshold * T).round_().clamp_(-T if signed else 0, T).mul_(threshold / T)
        error = rates.sub_(current).square_().sum(0)
        error = error if per_channel else error.sum()
        best, least = torch.where(error < least, threshold, best), torch.minimum(error, least)
    return best


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
    def currents(self) -> dict[str, tuple[nn.Module, bool]]:
        """By layer of neurons: the module that gives its current, and whether as its input."""
        attention, own = self.module.attention, self.module.attention.self
        return {
            "attention.key_neurons": (own.key, False),
            "attention.value_neurons": (own.value, False),
            "attention.neurons": (attention.output.dense, True),
            "attention_neurons": (attention.output, False),
            "intermediate_neurons": (self.module.intermediate, False),
            "neurons": (self.module.output, False),
        }


def _trunk(teacher: Any) -> Any:
    return getattr(teacher, "bert", teacher)


def student_of(
    source: str | Path | nn.Module,
    layers: int | Sequence[int] | None,
    texts: Sequence[str] | None,
    options: Mapping[str, Any],
) -> SpikingBert:
    """Make the student; :meth:`SpikingBert.from_teacher` says how."""
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
    student = SpikingBert(config)
    parts = [_Layer(trunk.encoder.layer[index - 1]) for index in chosen]
    with torch.no_grad():
        _copy(student, trunk, parts, classifier)
        ids, mask = _sample(source, texts, theirs)
        with _recording(trunk, parts, config) as currents:
            trunk(input_ids=ids, attention_mask=mask)
        neurons = dict(student.named_neurons())
        for name, current in currents.items():
            kept = current if current.dim() == 2 else current[mask.bool()]
            kept = kept[:_TOKENS]
            threshold = best_threshold(kept, config.T, config.signed, config.threshold_per == "channel")
            neurons[name].set_thresholds(threshold)
        _absorb(student)
    return student


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


def _sample(source: Any, texts: Sequence[str] | None, theirs: Any) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of the texts, or of random tokens."""
    if texts is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(theirs.vocab_size, (64, min(32, theirs.max_position_embeddings)), generator=generator)
        return ids, torch.ones_like(ids)
    if isinstance(source, nn.Module):
        raise ConfigError("from_teacher(texts=...) needs the teacher's tokenizer: give the teacher's folder or hub id.")
    if not texts:
        raise ConfigError("from_teacher(texts=[]): give some hundred sentences, or None.")
    tokenizer = load_tokenizer(source)
    batch = tokenizer(
        list(texts), return_tensors="pt", padding=True, truncation=True, max_length=theirs.max_position_embeddings
    )
    return batch["input_ids"], batch["attention_mask"]


@contextmanager
def _recording(trunk: Any, parts: Sequence[_Layer], config: SpikingBertConfig) -> Iterator[dict[str, Tensor]]:
    """Keep what the teacher computes where the student has neurons."""
    places: dict[str, tuple[Any, bool]] = {"embeddings.neurons": (trunk.embeddings, False)}
    for index, part in enumerate(parts):
        places |= {f"encoder.{index}.{name}": place for name, place in part.currents.items()}
    if config.head == "pooled" and getattr(trunk, "pooler", None) is not None:
        places["pooler_neurons"] = (trunk.pooler, False)
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, (module, before) in places.items():

            def keep(_: Any, given: Any, output: Any, name: str = name, before: bool = before) -> None:
                found[name] = (given[0] if before else output).detach()

            stack.callback(module.register_forward_hook(keep).remove)
        yield found


def _absorb(student: SpikingBert) -> None:
    """Make the weights read spikes as the teacher's read activations: W diag(threshold)."""
    unit = student.config.amplitude == "unit"
    below: Neurons = student.embeddings.neurons
    for module in student.encoder:
        layer: Any = module
        _absorb_layer(layer, below, unit)
        below = layer.neurons
    if student.config.head == "pooled":
        _columns(student.pooler, below.threshold)
        below = student.pooler_neurons
    if unit:
        _columns(student.classifier, below.threshold)


def _absorb_layer(layer: Any, below: Neurons, unit: bool) -> None:
    attention = layer.attention
    for part in (attention.query, attention.key, attention.value):
        _columns(part, below.threshold)
    if unit:
        # Queries take over the keys' amplitudes; what residuals add is 1 / threshold as large, which a norm undoes.
        _rows(attention.query, attention.key_neurons.threshold)
        attention.neurons.set_thresholds(attention.neurons.threshold / attention.value_neurons.threshold)
        carried = attention.value_neurons.threshold * attention.neurons.threshold
        _columns(layer.attention_output, carried)
        _rows(layer.attention_output, 1.0 / below.threshold)
    else:
        _columns(layer.attention_output, attention.neurons.threshold)
    _columns(layer.intermediate, layer.attention_neurons.threshold)
    _columns(layer.output, layer.intermediate_neurons.threshold)
    if unit:
        _rows(layer.output, 1.0 / layer.attention_neurons.threshold)


def _columns(layer: Any, factor: Tensor) -> None:
    layer.weight.mul_(factor)


def _rows(layer: Any, factor: Tensor) -> None:
    layer.weight.mul_(factor.expand(layer.weight.shape[0]).unsqueeze(1))
    layer.bias.mul_(factor)
