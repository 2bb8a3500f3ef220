"""Running a language model's file: text from the file alone, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.data.text_tokens import TextTokens
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import DataError, ModelFileError, SampleError
from snn_extreme_quant.exported.files import AFTER, read_model
from snn_extreme_quant.models.gpt.sampling import check_request, choose

__all__ = ["GptFile"]

Array = npt.NDArray[Any]
#: Tokens that go through a file together: what that takes does not grow with the text.
_PIECE = 1024


class GptFile:
    """A SpikeGPT in a file, with the state of the texts that it is reading.

    Args:
        path: what :func:`~snn_extreme_quant.deploy.export_gpt` wrote, of either form.
        native: as for :func:`~snn_extreme_quant.deploy.session`.
        threads: threads within an operator; default onnxruntime's.

    Attributes:
        path: the file.
        facts: what the file says of itself.
        tokens: what a token is; None if the file does not say it.
        runtime: onnxruntime's version, and whether native kernels compute.

    Raises:
        ModelFileError: the file is missing, damaged, not ours, or not of a language model.
        ModelEditedError: it was changed after it was exported.

    Example:
        >>> file = GptFile("gpt.onnx")  # doctest: +SKIP
        >>> file.tokens.decode(list(file.generate(file.tokens.encode("ROMEO:"), 100)))  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, *, native: bool | Literal["auto"] = "auto", threads: int | None = None
    ) -> None:
        self.path = Path(path)
        _, self.facts = read_model(self.path)
        language = self.facts.get("language")
        if "classifier" in self.facts:
            raise ModelFileError(
                f"{path} is of a classifier, which labels texts and makes none: sxq classify --model {path} TEXT, in"
                " Python sxq.deploy.GptClassifier."
            )
        if not isinstance(language, dict):
            raise ModelFileError(
                f"{path} is of no language model, so it makes no text; sxq run, or sxq.deploy.session(), runs it. Files"
                " of a SpikeGPT are what sxq export writes of its folder."
            )
        try:
            self.tokens = None if language["tokens"] is None else TextTokens.from_data(language["tokens"], str(path))
            self.vocab = int(language["vocab"])
            self._shapes: dict[str, list[Any]] = {s["name"]: s["shape"] for s in self.facts["states"]}
            self._types = {s["name"]: np.dtype(s.get("dtype", "float32")) for s in self.facts["states"]}
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} holds damaged metadata ({error}); export it again.") from error
        opened = open_session(self.path, native=native, threads=threads)
        self.runtime, self._session = opened.name, opened.runtime
        self._names = ["logits", *(f"{name}{AFTER}" for name in self._shapes)]
        self._state: dict[str, Array] = {}

    @property
    def streaming(self) -> bool:
        """Whether the file takes one token at a time."""
        return bool(self.facts["form"] == "streaming")

    def reset(self) -> None:
        """Forget the state: the next tokens begin texts, of any number."""
        self._state = {}

    @property
    def state(self) -> dict[str, Array]:
        """The state behind the last token, by name, ``(layers, B, width)`` of the file's types; empty before the first.

        One that was read may be set again, here, in another file of the model, or as a ``SpikeGPTState`` of it.
        """
        return {name: value.copy() for name, value in self._state.items()}

    @state.setter
    def state(self, values: Mapping[str, npt.ArrayLike]) -> None:
        given: object = values
        if not isinstance(given, Mapping):
            what = type(given).__name__
            raise SampleError(f"{self.path}: the state is arrays by name; got {what}. reset() forgets it.")
        found = {name: np.array(value) for name, value in values.items()}
        if found and set(found) != set(self._shapes):
            wrong = min(set(found) ^ set(self._shapes))
            raise SampleError(f"{self.path}: the state is of another model: {wrong!r} is in one of them alone.")
        batch = next((value.shape[1:2] for value in found.values()), ())
        for name, value in found.items():
            layers, _, width = self._shapes[name]
            if value.dtype != self._types[name] or value.shape != (layers, *batch, width):
                raise SampleError(
                    f"{self.path}: the state's {name!r} is {self._types[name]} {(layers, 'B', width)}, not"
                    f" {value.dtype} {value.shape}."
                )
            if value.dtype.kind == "f" and not bool(np.isfinite(value).all()):
                raise SampleError(f"{self.path}: the state's {name!r} holds NaN or infinite values; call reset().")
        self._state = found

    def run(self, ids: npt.ArrayLike) -> Array:
        """Go on by some tokens, and keep the state behind them.

        Args:
            ids: whole numbers ``(B, L)``, B and L from 1 and L as large as it may be, of as many texts as before. A
                file reads them in pieces, a streaming file one after the other.

        Returns:
            Logits ``(B, vocab)`` of the last token; of a file with ``logits="all"`` ``(B, L, vocab)``.

        Raises:
            SampleError: they are something else.
        """
        given = self._array(ids)
        self._check(given)
        given = given.astype(np.int64)
        if not self._state:
            self._state = {
                name: np.zeros([len(given) if size == "B" else size for size in shape], self._types[name])
                for name, shape in self._shapes.items()
            }
        if self.streaming:
            for column in given.T:
                logits = self._made(np.ascontiguousarray(column))
            return logits
        starts = range(0, given.shape[1], _PIECE)
        made = [self._made(np.ascontiguousarray(given[:, start : start + _PIECE])) for start in starts]
        return np.concatenate(made, 1) if made[-1].ndim == 3 else made[-1]

    def _array(self, ids: npt.ArrayLike) -> Array:
        try:
            return np.asarray(ids)
        except ValueError as error:  # rows of different lengths
            raise SampleError(
                f"{self.path} takes token ids (B, L), as many of each text: {error}. Texts of different lengths run one"
                " after the other, with reset() in between."
            ) from error

    def _made(self, ids: Array) -> Array:
        logits, *after = self._session.run(self._names, {"ids": ids, **self._state})
        self._state = dict(zip(self._shapes, after, strict=True))
        found: Array = logits
        return found

    def _check(self, ids: Array) -> None:
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or 0 in ids.shape:
            raise SampleError(
                f"{self.path} takes token ids (B, L), B and L from 1; got shape {ids.shape} of {ids.dtype}."
                " Ids of a text: tokens.encode(text)."
            )
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self.vocab:
            raise SampleError(f"The token {least if least < 0 else most} is not one of the file's {self.vocab}.")
        batch = next((value.shape[1] for value in self._state.values()), len(ids))
        if batch != len(ids):
            raise SampleError(f"{self.path}: {batch} texts are being read, not {len(ids)}; call reset() for others.")

    def generate(
        self, prompt: Sequence[int], count: int, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[int]:
        """Yield ``count`` tokens that follow a prompt: those of the model in torch, as the logits are the same bits.

        The state is reset first. Arguments and errors as of :func:`snn_extreme_quant.models.gpt.generation.generate`.
        """
        check_request(prompt, count, temperature, top_p, seed)
        return self._tokens(prompt, count, temperature, top_p, np.random.default_rng(seed))

    def _tokens(
        self, prompt: Sequence[int], count: int, temperature: float, top_p: float, rng: np.random.Generator
    ) -> Iterator[int]:
        self.reset()
        logits = self.run([list(prompt)])
        for number in range(count):
            token = choose(logits[0, -1] if logits.ndim == 3 else logits[0], temperature, top_p, rng)
            yield token
            if number + 1 < count:
                logits = self.run([[token]])
