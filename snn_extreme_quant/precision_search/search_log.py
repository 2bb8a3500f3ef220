"""The log of a search: appended to, line by line, and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_extreme_quant.config import WeightConfig
from snn_extreme_quant.errors import DataError, OutputPathError, SearchError
from snn_extreme_quant.precision_search.metrics import is_number
from snn_extreme_quant.precision_search.outcomes import Outcome

__all__ = ["SearchLog"]

_FORMAT, _VERSION = "snn_extreme_quant.search_log", 2
#: What has to be the same, and what to say of it where it is not.
_SAME = {
    "model": "the model is another one (tensors, classes or settings of its modules)",
    "data": "the data are other ones",
    "metric": "the metric is another one",
    "examples": "there is another number of examples",
    "seed": "the order of examples is another one (seed)",
    "matrices": "the matrices are other ones",
}


class SearchLog:
    """Outcomes of rounds in a file of JSON lines, or nowhere.

    Args:
        path: the file; None keeps nothing.
        facts: what the outcomes belong to: ``model``, ``data``, ``metric``, ``examples``, ``seed``, ``matrices``.
        sizes: how many examples each round has.

    Raises:
        SearchError: the file is of another model or other data.
        DataError: it is no log, or damaged.
        OutputPathError: it cannot be written.
    """

    def __init__(self, path: str | Path | None, facts: Mapping[str, Any], sizes: Sequence[int]) -> None:
        """Read what is there, and cut off a last line that was not written to its end."""
        self.path = None if path is None else Path(path)
        #: Scores, the reason where there are none, and whether activations that were kept had a part in them.
        self.outcomes: dict[tuple[str, int], tuple[list[float] | None, str, bool]] = {}
        #: Why nothing may be reused; "" if it may.
        self.refuted = ""
        self._sizes, self._named = list(sizes), set[str]()
        self._file: Any = None
        if self.path is None:
            return
        head = {"kind": "header", "format": _FORMAT, "version": _VERSION, **facts}
        whole = self._read(head) if self.path.exists() else 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.truncate(whole)
        except OSError as error:
            raise OutputPathError(f"The log {self.path} cannot be written: {error.strerror}.") from error
        if not whole:
            self._write(head)

    def _read(self, head: Mapping[str, Any]) -> int:
        """Take the outcomes; returns how many bytes are whole lines."""
        assert self.path is not None  # noqa: S101 - the caller looked
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"The log {self.path} cannot be read: {error.strerror}.") from error
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines()
        if not lines:
            if content and not json.dumps(head).encode().startswith(content):
                raise DataError(f"{self.path} is no log of a search; name another file.")
            return 0
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number > 1:
                    self._take(entry)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                if number == 1:
                    raise DataError(f"{self.path} is no log of a search; name another file.") from error
                raise DataError(
                    f"Line {number} of the log {self.path} is damaged: take the line out, and its round is evaluated"
                    " again; or name another log."
                ) from error
            if number == 1:
                self._check(entry, head)
        return end

    def _check(self, entry: Any, head: Mapping[str, Any]) -> None:
        found = (entry.get("format"), entry.get("version")) if isinstance(entry, dict) else None
        if found != (_FORMAT, _VERSION):
            raise DataError(f"{self.path} is no log of a search that this release reads; name another file.")
        plain = json.loads(json.dumps(dict(head)))
        wrong = [what for name, what in _SAME.items() if entry.get(name) != plain[name]]
        if wrong:
            raise SearchError(f"The log {self.path} is of another search: {'; '.join(wrong)}. Name another log.")

    def _take(self, entry: Any) -> None:
        if entry["kind"] == "outcome":
            scores, place = entry["scores"], (str(entry["key"]), int(entry["round"]))
            if scores is not None:
                scores = [float(score) for score in scores if is_number(score)]
                if len(scores) != len(entry["scores"]) or len(scores) != self._sizes[place[1]]:
                    raise ValueError(f"{len(scores)} scores")
            self.outcomes[place] = (scores, str(entry["reason"]), bool(entry["reused"]))
        elif entry["kind"] == "refuted":
            self._refuted(str(entry["reason"]))
        elif entry["kind"] == "candidate":
            self._named.add(entry["key"])

    def _refuted(self, why: str) -> None:
        """Forget what activations that were kept had a part in."""
        self.refuted = why
        self.outcomes = {place: found for place, found in self.outcomes.items() if not found[2]}

    def add(self, key: str, precisions: Mapping[str, WeightConfig] | None, number: int, found: Outcome) -> None:
        """Write what a round gave; the first time with the candidate's precisions."""
        if self._file is None:
            return
        if key not in self._named:
            self._named.add(key)
            given = None if precisions is None else {name: config.to_dict() for name, config in precisions.items()}
            self._write({"kind": "candidate", "key": key, "precisions": given})
        scores = found.scores
        numbers = None if scores is None else [int(s) if s == int(s) else s for s in scores.tolist()]
        self._write({
            "kind": "outcome", "key": key, "round": number, "scores": numbers, "reason": found.reason,
            "reused": found.reused, "seconds": round(found.seconds, 4),
        })  # fmt: skip

    def refute(self, why: str) -> None:
        """Write that nothing may be reused, and that what was reused is worth nothing."""
        self._refuted(why)
        self._write({"kind": "refuted", "reason": why})

    def settings(self, given: Mapping[str, Any]) -> None:
        """Write what this search asked for."""
        self._write({"kind": "settings", **given})

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
