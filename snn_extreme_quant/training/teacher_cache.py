"""A teacher's outputs for all training sentences, computed once and read from disk in every epoch after."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_extreme_quant.data import Batch, Sentences, collate
from snn_extreme_quant.errors import ConfigError, OutputPathError
from snn_extreme_quant.output_files import write_whole
from snn_extreme_quant.training.distillation import Teacher, TeacherOutputs

__all__ = ["CachedTeacher"]

_BATCH = 128


class CachedTeacher:
    """Stands in the place of a :class:`Teacher`; what it gives is rounded to float16, logits to float32.

    Hidden states of L levels take 2 L bytes a token and channel. Scores grow with the square of a sentence's length and
    are not kept.

    Args:
        teacher: whose outputs.
        sentences: all that batches are made of.
        folder: for the files. Files of other weights, levels or sentences are written anew.
        precision: under which the teacher runs, ``"bf16"`` or ``"no"``.

    Raises:
        ConfigError: the teacher is asked for scores.
        OutputPathError: the files cannot be written.
    """

    def __init__(self, teacher: Teacher, sentences: Sentences, folder: Path, precision: str) -> None:
        """Open the files, or compute them."""
        if teacher.scores:
            raise ConfigError("[teacher] cache='all' keeps no attention scores: use cache='none', or scores = 0.")
        self.teacher, self.sentences, self.precision = teacher, sentences, precision
        width = teacher.model.config.hidden_size if teacher.hidden else 0
        classes = teacher.model.classifier.out_features if teacher.classifies else 0
        self._shapes: dict[str, tuple[tuple[int, ...], type[Any]]] = {
            "hidden": ((len(teacher.levels), len(sentences.ids), width), np.float16),
            "logits": ((len(sentences), classes), np.float32),
        }
        done, key = folder / "done.json", self._key()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = done.is_file() and json.loads(done.read_text(encoding="utf-8")) == key
            if not known:
                done.unlink(missing_ok=True)
            self._arrays = {
                name: np.memmap(folder / f"{name}.bin", dtype, "r" if known else "w+", shape=shape)
                for name, (shape, dtype) in self._shapes.items()
                if np.prod(shape)
            }
            if not known:
                self._fill()
                for array in self._arrays.values():
                    array.flush()
                write_whole(done, json.dumps(key).encode())
        except OSError as error:
            raise OutputPathError(f"{folder}: the teacher's outputs cannot be kept: {error}.") from error

    def _key(self) -> dict[str, object]:
        """Return what tells the files of one teacher and task from others."""
        digest = hashlib.sha256()
        for name, value in sorted(self.teacher.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for array in (self.sentences.ids, self.sentences.types, self.sentences.starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        shapes = {name: list(shape) for name, (shape, _) in self._shapes.items()}
        levels = list(self.teacher.levels)
        return {"sha256": digest.hexdigest(), "levels": levels, "shapes": shapes, "precision": self.precision}

    def _fill(self) -> None:
        device = next(self.teacher.model.parameters()).device
        order = np.argsort(self.sentences.lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            batch = collate(self.sentences, order[start : start + _BATCH])
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                outputs = self.teacher(batch.to(device))
            if outputs.hidden is not None:
                kept = outputs.hidden[:, batch.mask.bool()].float().cpu().numpy()
                self._arrays["hidden"][:, self._places(batch)] = kept
            if outputs.logits is not None:
                self._arrays["logits"][batch.rows] = outputs.logits.float().cpu().numpy()

    def _places(self, batch: Batch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return where the tokens of a batch are among all, row by row."""
        offsets = np.arange(batch.mask.shape[1])
        places = self.sentences.starts[batch.rows][:, None] + offsets
        return places[offsets < self.sentences.lengths[batch.rows][:, None]]

    def __call__(self, batch: Batch) -> TeacherOutputs:
        """Return what the teacher computed for the sentences of a batch; pads are 0."""
        logits = hidden = None
        if "logits" in self._arrays:
            logits = torch.from_numpy(np.array(self._arrays["logits"][batch.rows])).to(batch.ids.device)
        if "hidden" in self._arrays:
            kept = torch.from_numpy(np.array(self._arrays["hidden"][:, self._places(batch)])).to(batch.ids.device)
            hidden = kept.new_zeros(kept.shape[0], *batch.mask.shape, kept.shape[-1])
            hidden[:, batch.mask.bool()] = kept
        return TeacherOutputs(logits, hidden, None)
