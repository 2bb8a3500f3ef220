"""Texts in, labels out: the file of a SpikeGPT that classifies, with its tokens in it. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.deploy.model_folders.answers import Answer, softmax
from snn_extreme_quant.deploy.model_folders.classifier import Classifier
from snn_extreme_quant.deploy.model_folders.folder import DEFAULT_MODEL, ModelFolder
from snn_extreme_quant.deploy.model_folders.texts import by_length, check_options, check_texts
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_outputs, with_outputs
from snn_extreme_quant.deploy.runtime.native import where_ready
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import ConfigError, DataError, ModelEditedError, ModelFileError, SampleError
from snn_extreme_quant.exported.files import read_model
from snn_extreme_quant.models import zoo

__all__ = ["GptClassifier", "open_classifier"]

Array = npt.NDArray[Any]


class _Encoded(NamedTuple):
    """A text's tokens, and whether there were more."""

    ids: Array
    cut: bool


class GptClassifier:
    """A SpikeGPT's classifier in a file.

    Args:
        path: what :func:`~snn_extreme_quant.deploy.export_gpt` wrote of a SpikeGPT of ``head="mean"`` or ``"last"``.
        native: whether native kernels run; ``"auto"``: where they are compiled already.
        threads: within an operator; None: onnxruntime's choice.

    Attributes:
        folder: the file, its name and labels, as of :class:`~snn_extreme_quant.deploy.Classifier`.
        facts: what the file says of itself.
        tokens: what a token is; None if the file does not say it.
        labels: names of the classes; their numbers if the file does not say them.
        max_tokens: behind how many tokens texts are cut off; None: nowhere.
        runtime: onnxruntime's version, and whether native kernels compute.

    Raises:
        ModelFileError: the file is missing, damaged, not ours, or not of such a classifier.
        ModelEditedError: it was changed after it was exported.

    Example:
        >>> classifier = GptClassifier("gpt.onnx")  # doctest: +SKIP
        >>> classifier.classify(["a gorgeous, witty film"])[0].label  # doctest: +SKIP
        'positive'
    """

    #: It takes single texts, and gives classes.
    takes_pairs = False
    regression = False

    def __init__(
        self, path: str | Path, *, native: bool | Literal["auto"] = "auto", threads: int | None = None
    ) -> None:
        """Read the file, and open a session that gives the spikes too."""
        self.path = Path(path)
        model, self.facts = read_model(self.path)
        told = self.facts.get("classifier")
        if not isinstance(told, dict):
            raise ModelFileError(
                f"{path} is of no SpikeGPT that classifies: sxq export writes one of its folder. A file of a"
                " SpikingBert is opened by sxq.deploy.Classifier, others are run by sxq run."
            )
        try:
            self.tokens = None if told["tokens"] is None else TextTokens.from_data(told["tokens"], str(path))
            self.vocab, classes = int(told["config"]["vocab"]), int(told["classes"])
            self.labels = tuple(map(str, told["labels"] or range(classes)))
            self.max_tokens: int | None = None if told["max_tokens"] is None else int(told["max_tokens"])
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} holds damaged metadata ({error}); export it again.") from error
        most = 2**31 if self.max_tokens is None else self.max_tokens
        self.folder = ModelFolder(self.path.name, self.path, self.path, self.labels, most, None, None)
        self._spikes = [group[0] for group in neuron_outputs(model).values()]
        exposed = with_outputs(model, self._spikes)
        opened = open_session(exposed, native=where_ready(native), threads=threads, name=str(path))
        self.runtime, self._session = opened.name, opened.runtime

    def open(self, steps: int | None = None, *, early_exit: bool = False) -> None:
        """Refuse what a SpikeGPT has not; the session is open already.

        Raises:
            ConfigError: time steps other than 1, or early exit.
        """
        if steps not in (None, 1):
            raise ConfigError(
                f"T = {steps}: {self.path} is of a SpikeGPT, whose tokens are its time steps; leave T out."
            )
        if early_exit:
            raise ConfigError(f"{self.path} is of a SpikeGPT, which reads a text once; leave early exit out.")

    def run(self, ids: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
        """Return the logits ``(B, classes)`` of texts.

        Args:
            ids: whole numbers ``(B, L)``, B and L from 1 and L as large as it may be.
            mask: 1 for the tokens of each text, one at least, and 0 for the pads behind them; None: all are tokens.

        Raises:
            SampleError: they are something else.
        """
        given = np.asarray(ids)
        inside = np.ones(given.shape, np.int64) if mask is None else np.asarray(mask)
        self._check(given, inside)
        logits: Array = self._run(given.astype(np.int64), inside.astype(np.int64))[0]
        return logits

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
            pairs: None; there are no models of pairs.
            time_steps: None or 1: each token is one time step.
            early_exit: None: a text is read once.
            batch: texts side by side, of similar length; it changes no bit of an answer.

        Raises:
            ConfigError: T or early exit, which are not offered, or a batch that means nothing.
            DataError: what is no list of texts, an empty text, or pairs.
            ModelFileError: the file does not say what a token is.
        """
        self.open(time_steps, early_exit=early_exit is not None)
        check_options(early_exit, batch)
        check_texts(texts, pairs, self.folder.name, takes_pairs=self.takes_pairs)
        encoded = [self._encoded(text) for text in texts]
        found: dict[int, Answer] = {}
        for rows in by_length(range(len(encoded)), encoded, batch):
            found |= dict(zip(rows, self._answers([encoded[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(encoded))]

    def _encoded(self, text: str) -> _Encoded:
        if self.tokens is None:
            raise ModelFileError(
                f"{self.path} does not say what a token is; export it from a folder of sxq train, with sxq export."
            )
        ids = self.tokens.encode(text)
        return _Encoded(ids[: self.max_tokens], self.max_tokens is not None and len(ids) > self.max_tokens)

    def _answers(self, encoded: Sequence[_Encoded]) -> list[Answer]:
        """Return the answers of one batch."""
        lengths = np.array([len(entry.ids) for entry in encoded])
        ids = np.zeros((len(encoded), lengths.max()), np.int64)
        for row, entry in enumerate(encoded):
            ids[row, : lengths[row]] = entry.ids
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        logits, *spikes = self._run(ids, mask)
        fired = sum((np.einsum("lbn,bl->b", value, mask) for value in spikes), np.zeros(len(encoded)))
        places = lengths * max(1, sum(value.shape[2] for value in spikes))
        values = softmax(logits)
        return [
            Answer(
                label=self.labels[int(values[row].argmax())],
                probabilities=tuple(map(float, values[row])),
                time_steps=1,
                steps_spent=1,
                tokens=int(lengths[row]),
                truncated=entry.cut,
                firing_rate=float(fired[row] / places[row]),
                energy=None,
            )
            for row, entry in enumerate(encoded)
        ]

    def _run(self, ids: Array, mask: Array) -> list[Array]:
        found: list[Array] = self._session.run(["logits", *self._spikes], {"input_ids": ids, "attention_mask": mask})
        return found

    def _check(self, ids: Array, mask: Array) -> None:
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or 0 in ids.shape:
            raise SampleError(f"{self.path} takes token ids (B, L), B and L from 1; got {ids.shape} of {ids.dtype}.")
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self.vocab:
            raise SampleError(f"The token {least if least < 0 else most} is not one of the file's {self.vocab}.")
        fits = mask.shape == ids.shape and mask.dtype.kind in "biu"
        lengths = mask.sum(1, keepdims=True) if fits else None
        if lengths is None or not lengths.all() or not np.array_equal(mask, np.arange(ids.shape[1]) < lengths):
            raise SampleError(
                f"{self.path}: the mask is (B, L) as the ids, with 1 for the tokens of each text, one at least, and 0"
                " for the pads behind them."
            )


def open_classifier(
    source: str | Path = DEFAULT_MODEL, *, native: bool | Literal["auto"] = "auto", threads: int | None = None
) -> Classifier | GptClassifier:
    """Open what labels texts: a shipped model, a folder or a file, of a SpikingBert or of a SpikeGPT.

    Args:
        source: as for :class:`~snn_extreme_quant.deploy.Classifier`, or the file of a SpikeGPT.
        native: as there.
        threads: as there.

    Raises:
        ModelFileError: a file is missing, damaged, or does not classify texts.
    """
    graph = _graph_of(source)
    if graph is not None:
        return GptClassifier(graph, native=native, threads=threads)
    return Classifier(source, native=native, threads=threads)


def _graph_of(source: object) -> Path | None:
    """Return the file of a SpikeGPT that a source means; None if it means something else."""
    if not isinstance(source, (str, os.PathLike)) or str(source) in zoo.names("classifier"):
        return None
    path = Path(source)
    path = path / "model.onnx" if path.is_dir() else path
    if path.suffix != ".onnx" or not path.is_file():
        return None
    try:
        return path if "classifier" in read_model(path)[1] else None
    except (ModelEditedError, ModelFileError):
        return None  # who opens it says what is wrong
