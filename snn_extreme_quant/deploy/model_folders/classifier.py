"""Texts in, labels or scores out: a file of a SpikingBERT with its tokenizer on onnxruntime. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from snn_extreme_quant.deploy.model_folders.answers import Answer, Spent, add_spikes, margin, softmax
from snn_extreme_quant.deploy.model_folders.folder import DEFAULT_MODEL, ModelFolder, open_folder
from snn_extreme_quant.deploy.model_folders.step_files import BEFORE, part_of_a_run, why_no_parts, with_spike_sums
from snn_extreme_quant.deploy.model_folders.texts import by_length, check_options, check_texts
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_nodes, with_outputs
from snn_extreme_quant.deploy.runtime.native import where_ready
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.synchronous.count_files import counts_of
from snn_extreme_quant.errors import ConfigError, DataError, ModelFileError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.exported.time_steps import at_time_steps, offered_time_steps

__all__ = ["Answer", "Classifier"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Opened:
    """A session that gives logits, by layer what says how often its neurons fired, and perhaps potentials."""

    runtime: Any
    nodes: dict[str, onnx.NodeProto]
    steps: int
    summed: bool
    takes: tuple[str, ...]


@dataclass
class _Run:
    """What some steps of a batch gave; ``potentials`` is what a run that goes on is given."""

    logits: Array
    inner: dict[str, Array]
    potentials: dict[str, Array] = field(default_factory=dict)


@dataclass
class _Texts:
    """Texts while they are classified: what was spent on each, the T that it has reached, what was found so far."""

    encoded: list[Any]
    spent: list[Spent]
    final: list[int]
    values: Array


class Classifier:
    """A model folder, opened.

    Args:
        source: the name of a shipped model, a folder of ``sxq pack``, or an ONNX file of a SpikingBERT with
            ``tokenizer.json`` beside it.
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
        self._native = where_ready(native)
        self._threads = threads
        model, facts = read_model(self.folder.graph)
        if "classifier" in facts:
            raise ModelFileError(
                f"{self.folder.graph} is of a SpikeGPT; sxq classify and sxq.deploy.GptClassifier label texts with it."
            )
        if facts["input"] != "tokens" or facts.get("form") not in ("counts", "sequence"):
            raise ModelFileError(
                f"{self.folder.graph} does not take tokens; export a SpikingBert, or run the file with sxq run."
            )
        self._takes: tuple[str, ...] = tuple(facts["inputs"])
        #: Whether the model takes pairs of texts.
        self.takes_pairs = "token_type_ids" in self._takes
        self._model = model
        self._steps_inside = facts["form"] == "sequence"
        self._passes = facts["schedule"]["name"] == "step"
        self.time_steps: int = int(facts["schedule"]["steps"])
        self.offered = offered_time_steps(self._model)
        classes = self._model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        #: Whether answers are scores, and not labels.
        self.regression = classes == 1
        self.labels = self.folder.labels or (() if self.regression else tuple(map(str, range(classes))))
        if len(self.labels) != (0 if self.regression else classes):
            raise ModelFileError(f"{self.folder.graph} has {classes} classes, run.json names {len(self.labels)}.")
        self._tokenizer = self._load_tokenizer(facts)
        self._opened: dict[tuple[int, int, bool], _Opened] = {}
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

    def open(self, steps: int | None = None, *, early_exit: bool = False) -> None:
        """Open the first session for T now; a first answer is then not later than others.

        Raises:
            ConfigError: the model does not offer that T, or early exit with it.
        """
        steps = self._checked_steps(steps)
        if not early_exit:
            self._session(steps)
        elif self.goes_on:
            self._session(self._ladder(steps)[0], steps)
        else:
            self._session(self._ladder(steps)[0])

    @cached_property
    def goes_on(self) -> bool:
        """Whether early exit goes on with a run where it stands; else it starts anew with more steps."""
        return self._steps_inside and why_no_parts(self._model, self._nodes(self._model)) is None

    def _checked_steps(self, steps: int | None) -> int:
        steps = self.time_steps if steps is None else steps
        if steps not in self.offered:
            raise ConfigError(
                f"T = {steps!r} is not offered by {self.folder.name}: use {', '.join(map(str, self.offered))}."
            )
        return steps

    def _ladder(self, steps: int) -> list[int]:
        """Return the T at which early exit looks at the margin."""
        if self.regression:
            raise ConfigError(
                f"{self.folder.name} gives a score: there are no probabilities whose margin could settle."
            )
        if self.goes_on:
            part = min(T for T in self.offered if steps % T == 0)
            ladder = list(range(part, steps + 1, part))
        else:
            ladder = [T for T in self.offered if steps >= T]
        if len(ladder) == 1:
            known = ", ".join(map(str, self.offered))
            raise ConfigError(
                f"Early exit up to T = {steps} has no earlier T to stop at: {self.folder.name} offers {known}. Ask for"
                " more steps, or pack the model with smaller ones (sxq pack --time-steps)."
            )
        return ladder

    def _nodes(self, model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
        return {name: group[0] for name, group in neuron_nodes(model).items()}

    def _session(self, steps: int, whole: int = 0, first: bool = True) -> _Opened:
        """Open the file for T, or for T steps of a run of ``whole``, the first of them or later ones."""
        key = (steps, whole, first)
        if key not in self._opened:
            model = at_time_steps(self._model, steps)
            nodes = self._nodes(model)
            if whole:
                exposed = part_of_a_run(model, nodes, at_time_steps(self._model, whole), first=first)
            elif self._steps_inside:
                exposed = with_spike_sums(model, nodes)
            else:
                exposed = with_outputs(model, [node.output[0] for node in nodes.values()])
            opened = open_session(exposed, native=self._native, threads=self._threads, name=str(self.folder.graph))
            if opened.native:
                self.runtime = opened.name
            takes = tuple(entry.name for entry in exposed.graph.input)
            self._opened[key] = _Opened(opened.runtime, nodes, steps, self._steps_inside, takes)
        return self._opened[key]

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        time_steps: int | None = None,
        early_exit: float | None = None,
        batch: int = 32,
    ) -> list[Answer]:
        """Label texts, or score them.

        Args:
            texts: sentences, none of them empty.
            pairs: second sentences, for a model of pairs.
            time_steps: T; default the one that the model was trained with.
            early_exit: a margin: start with the least T that is offered, and go on, up to ``time_steps``, while the two
                largest probabilities differ by less.
            batch: texts side by side, of similar length.

        Raises:
            ConfigError: a T that is not offered, a margin or batch that means nothing, or early exit that is not
                possible.
            DataError: what is no list of texts, an empty text, or pairs for a model of single sentences, or none for
                one of pairs.
        """
        steps = self._checked_steps(time_steps)
        check_options(early_exit, batch)
        ladder = [steps] if early_exit is None else self._ladder(steps)
        encoded = self.encode(texts, pairs)
        texts_of = _Texts(
            encoded, [Spent() for _ in texts], [steps] * len(texts), np.zeros((len(texts), self._outputs))
        )
        if early_exit is not None and self.goes_on:
            for rows in by_length(range(len(texts)), encoded, batch):
                self._go_on(texts_of, rows, ladder, early_exit)
        else:
            self._start_anew(texts_of, ladder, early_exit or 0.0, batch)
        return [self._answer(texts_of, row) for row in range(len(texts))]

    @property
    def _outputs(self) -> int:
        return max(1, len(self.labels))

    def _answer(self, found: _Texts, row: int) -> Answer:
        values, spent, encoded = found.values[row], found.spent[row], found.encoded[row]
        return Answer(
            label="" if self.regression else self.labels[int(values.argmax())],
            probabilities=() if self.regression else tuple(map(float, values)),
            time_steps=found.final[row],
            steps_spent=spent.steps,
            tokens=len(encoded.ids),
            truncated=bool(encoded.overflowing),
            firing_rate=spent.rate / spent.steps,
            energy=spent.energy,
            score=float(values[0]) if self.regression else None,
        )

    def _start_anew(self, found: _Texts, ladder: Sequence[int], least: float, batch: int) -> None:
        """Run all texts with the first T, those whose margin is below ``least`` with the next, and so on."""
        left = list(range(len(found.encoded)))
        for rung in ladder:
            opened = self._session(rung)
            for rows in by_length(left, found.encoded, batch):
                given = self.batch([found.encoded[row] for row in rows])
                run = self._run(opened, given)
                self._add(opened, run, given, [found.spent[row] for row in rows])
                found.values[rows] = self._values(run.logits)
            for row in left:
                found.final[row] = rung
            left = [row for row in left if margin(found.values[row]) < least]
            if not left:
                break

    def _go_on(self, found: _Texts, rows: list[int], ladder: Sequence[int], least: float) -> None:
        """Simulate a batch some steps at a time; texts leave it when their margin is reached."""
        part, whole = ladder[0], ladder[-1]
        given = self.batch([found.encoded[row] for row in rows])
        potentials: dict[str, Array] = {}
        total = np.zeros((len(rows), self._outputs))
        for rung in ladder:
            opened = self._session(part, whole, first=rung == part)
            run = self._run(opened, given | potentials)
            self._add(opened, run, given, [found.spent[row] for row in rows])
            total = total + run.logits
            # Logits are linear in mean rates, so those of the steps so far are the mean of the parts'.
            found.values[rows] = self._values(total * part / rung)
            for row in rows:
                found.final[row] = rung
            kept = np.asarray([margin(found.values[row]) < least for row in rows])
            if not kept.any():
                return
            rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
            total, given = total[kept], {name: value[kept] for name, value in given.items()}
            potentials = {name: value[kept] for name, value in run.potentials.items()}

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
        if not encoded:
            raise DataError("There are no texts, so no layer fires: give one at least.")
        opened = self._session(self._checked_steps(time_steps))
        spikes, places = dict.fromkeys(opened.nodes, 0), dict.fromkeys(opened.nodes, 0)
        for rows in by_length(range(len(encoded)), encoded, 32):
            given = self.batch([encoded[row] for row in rows])
            for name, counts in self._run(opened, given).inner.items():
                kept = counts[given["attention_mask"] > 0] if counts.ndim == 3 else counts
                spikes[name] += int(kept.sum(dtype=np.int64))
                places[name] += kept.size
        return {name: spikes[name] / (places[name] * opened.steps) for name in spikes}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """Return the encodings of ``tokenizers``, truncated; raises :class:`DataError` as :meth:`classify`."""
        check_texts(texts, pairs, self.folder.name, takes_pairs=self.takes_pairs)
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

    def _values(self, logits: Array) -> Array:
        """Return probabilities; of a model of regression its scores."""
        if self.regression:
            return logits.astype(np.float64)
        return softmax(logits)

    def _run(self, opened: _Opened, given: dict[str, Array]) -> _Run:
        """Run one batch: the logits, and by layer of neurons how many spikes of either sign each gave."""
        try:
            logits, *others = opened.runtime.run(None, {name: given[name] for name in opened.takes})
        except Exception as error:  # onnxruntime raises a class of its own for every failure
            raise ModelFileError(f"{self.folder.graph} does not run: {error}") from error
        if not opened.summed:
            pairs = zip(opened.nodes.items(), others, strict=True)
            return _Run(logits, {name: np.abs(counts_of(node, value, opened.steps)) for (name, node), value in pairs})
        names = list(opened.nodes)
        sums, after = others[: len(names)], others[len(names) :]
        inner = {name: value.astype(np.int64) for name, value in zip(names, sums, strict=True)}
        return _Run(logits, inner, {BEFORE + name: value for name, value in zip(names, after, strict=False)})

    def _add(self, opened: _Opened, run: _Run, given: dict[str, Array], spent: Sequence[Spent]) -> None:
        """Add a run to what was spent for its texts."""
        passes = opened.steps if self._passes else 1
        add_spikes(spent, run.inner, given["attention_mask"], self.folder.sizes, steps=opened.steps, passes=passes)
