"""Texts in, labels out: a file of a SpikingBERT with its tokenizer on onnxruntime. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from snn_extreme_quant.accounting import Energy, spiking_bert_energy
from snn_extreme_quant.errors import ConfigError, DataError, ModelFileError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.exported.time_steps import at_time_steps, offered_time_steps

from .count_files import counts_of
from .inner_spikes import neuron_nodes, with_outputs
from .model_folder import DEFAULT_MODEL, ModelFolder, open_folder
from .native import native_ready
from .sessions import open_session

__all__ = ["Answer", "Classifier"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answer:
    """What a model says of one text.

    Args:
        label: the most probable class.
        probabilities: of all classes, in the order of the model's labels.
        time_steps: T of the run that gave the answer.
        steps_spent: the sum of T over all runs of this text; more than ``time_steps`` where early exit went on.
        tokens: of the text, with the tokenizer's own.
        truncated: whether the text was longer than the model takes.
        firing_rate: spikes a neuron and time step, mean over neurons, tokens and the runs' steps.
        energy: an estimate for all runs of this text; None where the model's sizes are not known.
    """

    label: str
    probabilities: tuple[float, ...]
    time_steps: int
    steps_spent: int
    tokens: int
    truncated: bool
    firing_rate: float
    energy: Energy | None

    @property
    def probability(self) -> float:
        """Of the label."""
        return max(self.probabilities)

    @property
    def margin(self) -> float:
        """Difference of the two largest probabilities."""
        return _margin(self.probabilities)


@dataclass(frozen=True)
class _Opened:
    runtime: Any
    nodes: dict[str, onnx.NodeProto]
    steps: int


@dataclass
class _Spent:
    """What the runs of one text add up to."""

    steps: int = 0
    rate: float = 0.0
    energy: Energy | None = None


class Classifier:
    """A model folder, opened.

    Args:
        source: the name of a shipped model, a folder of ``sxq pack``, or an ONNX file of a SpikingBERT in the form
            ``"counts"`` with ``tokenizer.json`` beside it.
        native: whether native kernels run; ``"auto"``: where they are compiled already.
        threads: within an operator; None: onnxruntime's choice.

    Raises:
        ModelFileError: a file is missing, damaged, or does not classify texts.

    Example:
        >>> classifier = Classifier("sst2-ternary")
        >>> classifier.classify(["a gorgeous, witty film"])[0].label
        'positive'
    """

    def __init__(
        self,
        source: str | Path = DEFAULT_MODEL,
        *,
        native: bool | Literal["auto"] = "auto",
        threads: int | None = None,
    ) -> None:
        """Read the files; a session is opened for each T when it is first needed."""
        self.folder: ModelFolder = open_folder(source)
        self._native: bool | Literal["auto"] = native if native != "auto" else "auto" if native_ready() else False
        self._threads = threads
        model, facts = read_model(self.folder.graph)
        if facts["input"] != "tokens" or facts.get("form") != "counts":
            raise ModelFileError(
                f"{self.folder.graph} does not take tokens, or is not of the form 'counts'; export a SpikingBert with"
                " form='counts', or run the file with sxq run."
            )
        self._takes: tuple[str, ...] = tuple(facts["inputs"])
        self._model = model
        self.time_steps: int = int(facts["schedule"]["steps"])
        self.offered = offered_time_steps(self._model)
        classes = self._model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        if classes < 2:
            raise ModelFileError(f"{self.folder.graph} gives a score, not probabilities of labels.")
        self.labels = self.folder.labels or tuple(map(str, range(classes)))
        if len(self.labels) != classes:
            raise ModelFileError(f"{self.folder.graph} has {classes} classes, run.json names {len(self.labels)}.")
        self._tokenizer = self._load_tokenizer(facts)
        self._opened: dict[int, _Opened] = {}
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def _load_tokenizer(self, facts: dict[str, Any]) -> Any:
        from tokenizers import Tokenizer

        path = self.folder.tokenizer
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises Exception itself
            raise ModelFileError(f"{path} cannot be read: {error}.") from error
        limits = facts.get("limits", {})
        if tokenizer.get_vocab_size() > limits.get("vocab", tokenizer.get_vocab_size()):
            raise ModelFileError(
                f"{path} has {tokenizer.get_vocab_size()} words, the model {limits['vocab']}: it is of another model."
            )
        tokenizer.no_padding()
        self.max_tokens = min(self.folder.max_tokens, limits.get("positions", self.folder.max_tokens))
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def open(self, steps: int | None = None) -> None:
        """Open the session for T now; a first answer is then not later than others.

        Raises:
            ConfigError: the model does not offer that T.
        """
        self._session(self.time_steps if steps is None else steps)

    def _session(self, steps: int) -> _Opened:
        if steps not in self._opened:
            model = at_time_steps(self._model, steps)
            nodes = {name: group[0] for name, group in neuron_nodes(model).items()}
            exposed = with_outputs(model, [node.output[0] for node in nodes.values()])
            opened = open_session(exposed, native=self._native, threads=self._threads, name=str(self.folder.graph))
            if opened.native:
                self.runtime = opened.name
            self._opened[steps] = _Opened(opened.runtime, nodes, steps)
        return self._opened[steps]

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        time_steps: int | None = None,
        early_exit: float | None = None,
        batch: int = 32,
    ) -> list[Answer]:
        """Label texts.

        Args:
            texts: sentences, none of them empty.
            pairs: second sentences, for a model of pairs.
            time_steps: T; default the one that the model was trained with.
            early_exit: start at the least T that is offered, and go on to the next, up to ``time_steps``, while the two
                largest probabilities differ by less.
            batch: texts side by side, of similar length.

        Raises:
            ConfigError: a T that is not offered, or a margin or batch that means nothing.
            DataError: an empty text, or pairs for a model of single sentences, or none for one of pairs.
        """
        steps = self.time_steps if time_steps is None else time_steps
        if steps not in self.offered:
            raise ConfigError(
                f"T = {steps} is not offered by {self.folder.name}: use {', '.join(map(str, self.offered))}."
            )
        if early_exit is not None and not 0.0 <= early_exit <= 1.0:
            raise ConfigError(f"early_exit={early_exit}: the margin is a difference of probabilities, from 0 to 1.")
        if batch < 1:
            raise ConfigError(f"batch={batch}: use 1 or more.")
        encoded = self.encode(texts, pairs)
        ladder = [steps] if early_exit is None else [T for T in self.offered if steps >= T]
        probabilities = np.zeros((len(texts), len(self.labels)))
        final, spent = [steps] * len(texts), [_Spent() for _ in texts]
        left = list(range(len(texts)))
        for rung in ladder:
            for rows in _batches(left, encoded, batch):
                probabilities[rows] = self._run([encoded[row] for row in rows], rung, [spent[row] for row in rows])
            for row in left:
                final[row] = rung
            left = [row for row in left if _margin(probabilities[row]) < (early_exit or 0.0)]
            if not left:
                break
        return [
            Answer(
                label=self.labels[int(found.argmax())],
                probabilities=tuple(map(float, found)),
                time_steps=final[row],
                steps_spent=spent[row].steps,
                tokens=len(encoded[row].ids),
                truncated=bool(encoded[row].overflowing),
                firing_rate=spent[row].rate / spent[row].steps,
                energy=spent[row].energy,
            )
            for row, found in enumerate(probabilities)
        ]

    def firing_rates(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, time_steps: int | None = None
    ) -> dict[str, float]:
        """Return the firing rate of each layer of neurons, in the order in which they fire; errors as :meth:`classify`.

        Args:
            texts: sentences.
            pairs: second sentences, for a model of pairs.
            time_steps: T; default the one that the model was trained with.
        """
        encoded = self.encode(texts, pairs)
        opened = self._session(self.time_steps if time_steps is None else time_steps)
        spikes, places = dict.fromkeys(opened.nodes, 0), dict.fromkeys(opened.nodes, 0)
        for rows in _batches(range(len(encoded)), encoded, 32):
            given = self.batch([encoded[row] for row in rows])
            _, inner = self._outputs(opened, given)
            for name, counts in inner.items():
                kept = counts[given["attention_mask"] > 0] if counts.ndim == 3 else counts
                spikes[name] += int(kept.sum(dtype=np.int64))
                places[name] += kept.size
        return {name: spikes[name] / (places[name] * opened.steps) for name in spikes}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """Return the encodings of ``tokenizers``, truncated; raises :class:`DataError` as :meth:`classify`."""
        empty = next((row for row, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"Text {empty + 1} is empty.")
        broken = next((row for row, text in enumerate((*texts, *(pairs or ()))) if not _is_unicode(text)), None)
        if broken is not None:
            raise DataError(f"Text {broken % len(texts) + 1} holds bytes that are no text in UTF-8.")
        wants = "token_type_ids" in self._takes
        if wants != (pairs is not None):
            raise DataError(
                f"{self.folder.name} takes {'pairs of texts' if wants else 'single texts'}"
                f"{'; name the column of the second with --pair-column (pairs=)' if wants else ''}."
            )
        encoded: list[Any] = self._tokenizer.encode_batch(
            list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        )
        return encoded

    def batch(self, encoded: Sequence[Any]) -> dict[str, Array]:
        """Put encodings side by side, padded with zeros: the file's inputs by name."""
        length = max(len(entry.ids) for entry in encoded)
        given = {name: np.zeros((len(encoded), length), np.int64) for name in self._takes}
        for row, entry in enumerate(encoded):
            values = {"input_ids": entry.ids, "attention_mask": entry.attention_mask, "token_type_ids": entry.type_ids}
            for name, array in given.items():
                array[row, : len(entry.ids)] = values[name]
        return given

    def _run(self, encoded: Sequence[Any], steps: int, spent: Sequence[_Spent]) -> Array:
        """Run one batch at one T; return probabilities, and add to what was spent."""
        opened, given = self._session(steps), self.batch(encoded)
        logits, inner = self._outputs(opened, given)
        self._add(opened, inner, given["attention_mask"], spent)
        exponent = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        found: Array = exponent / exponent.sum(-1, keepdims=True)
        return found

    def _outputs(self, opened: _Opened, given: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the logits, and by layer of neurons how many spikes of either sign each gave."""
        try:
            logits, *inner = opened.runtime.run(None, given)
        except Exception as error:  # onnxruntime raises a class of its own for every failure
            raise ModelFileError(f"{self.folder.graph} does not run: {error}") from error
        pairs = zip(opened.nodes.items(), inner, strict=True)
        return logits, {name: np.abs(counts_of(node, value, opened.steps)) for (name, node), value in pairs}

    def _add(self, opened: _Opened, inner: dict[str, Array], mask: Array, spent: Sequence[_Spent]) -> None:
        """Count spikes of each text, without pads."""
        by_layer: dict[str, Array] = {}
        neurons = np.zeros(len(mask), np.int64)
        firsts = np.zeros(len(mask), np.int64)
        tokens = mask.sum(1)
        for name, counts in inner.items():
            if counts.ndim == 3:
                by_token = counts.sum(-1, dtype=np.int64)
                by_layer[name], firsts = (by_token * mask).sum(1), by_token[:, 0]
                neurons += counts.shape[-1] * tokens
            else:
                by_layer[name] = counts.reshape(len(mask), -1).sum(1, dtype=np.int64)
                neurons += counts[0].size
        for row, total in enumerate(spent):
            spikes = {name: int(found[row]) for name, found in by_layer.items()}
            total.steps += opened.steps
            total.rate += sum(spikes.values()) / int(neurons[row])
            if self.folder.sizes is not None:
                energy = spiking_bert_energy(self.folder.sizes, int(tokens[row]), spikes, int(firsts[row]))
                # A text that is run again is still one pass of the float network.
                before = energy if total.energy is None else Energy(total.energy.spiking + energy.spiking, energy.dense)
                total.energy = before


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: Python keeps bytes that it could not read as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _margin(probabilities: Sequence[float] | Array) -> float:
    second, first = np.sort(np.asarray(probabilities))[-2:]
    return float(first - second)


def _batches(rows: Sequence[int], encoded: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Yield rows of similar length together."""
    ordered = sorted(rows, key=lambda row: len(encoded[row].ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
