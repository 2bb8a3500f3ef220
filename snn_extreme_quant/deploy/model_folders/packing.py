"""Makes a model folder of a trained SpikingBert: packed weights, a graph that reads them, figures, card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from snn_extreme_quant._version import __version__
from snn_extreme_quant.data.metrics import measure
from snn_extreme_quant.data.tasks import Rows, Task
from snn_extreme_quant.deploy.model_folders.card import card
from snn_extreme_quant.deploy.model_folders.classifier import Answer, Classifier
from snn_extreme_quant.deploy.model_folders.folder import RUN_FORMAT
from snn_extreme_quant.deploy.model_folders.writing import unsealed, whole_folder, write_run
from snn_extreme_quant.deploy.tokens.export import TokenOptions, export_tokens
from snn_extreme_quant.errors import ConfigError, ModelFileError
from snn_extreme_quant.exported.external import point_into, remember
from snn_extreme_quant.exported.files import seal
from snn_extreme_quant.exported.time_steps import with_time_steps
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.output_files import write_whole

__all__ = ["FLOAT_BITS", "Packing", "figures_of", "pack_model"]

#: "Bits" of embeddings that stay in float32.
FLOAT_BITS = 32
#: The T that a file offers beside its own where nothing else is said.
_STEPS = (4, 8, 16, 32, 64)
_BATCH = 32
#: A score of a file agrees with the model's if it differs by less than this part of the scores' range.
_NEAR = 0.05


@dataclass(frozen=True)
class Packing:
    """What a model folder is made with.

    Args:
        name: of the model.
        task: what its labels mean.
        labels: their names; none of a task of regression, whose model has one output.
        max_tokens: the longest text.
        embeddings: bits of a weight of the tables, 2 to 16, or 32 for float32.
        time_steps: the T that the file offers beside the one it was trained with; None: 4 to 64.
        facts: how the model was trained, for ``run.json`` and the card.
        rows: the dev split that figures are taken on; None: no figures.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    max_tokens: int
    embeddings: int = 4
    time_steps: tuple[int, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows | None = None


def pack_model(source: str | Path, folder: str | Path, packing: Packing) -> dict[str, Any]:
    """Write a model folder; one that is there is replaced when the new one is whole.

    Args:
        source: a folder of ``save_pretrained`` with a ``tokenizer.json``.
        folder: the folder to make.
        packing: how.

    Returns:
        What is in its ``run.json``.

    Raises:
        CheckpointError: ``source`` holds no SpikingBert.
        ConfigError: a T that the model does not take, or labels that do not fit it.
        ExportError: the graph of one T cannot be made from that of another.
        OutputPathError: the folder cannot be written.
    """
    source, folder = Path(source), Path(folder)
    model = SpikingBert.from_pretrained(source)
    _check_labels(source, packing, model.config.classes)
    with whole_folder(folder) as place:
        return _make(model, source, place, packing)


def _make(model: SpikingBert, source: Path, folder: Path, packing: Packing) -> dict[str, Any]:
    """Write all files into an empty folder; return what is in ``run.json``."""
    config = model.config
    _write_tokenizer(source, folder, packing.max_tokens)
    model.cut_positions(min(packing.max_tokens, config.positions))
    if packing.embeddings != FLOAT_BITS:
        model.pack_embeddings(packing.embeddings)
    model.save_pretrained(folder, packed=True)
    model = SpikingBert.from_pretrained(folder)
    steps = packing.time_steps if packing.time_steps is not None else _STEPS
    _write_graph(model, folder, sorted({*steps, config.T}), pairs=packing.task.pair is not None)
    run: dict[str, Any] = {
        "format": RUN_FORMAT,
        "name": packing.name,
        "version": __version__,
        "task": {
            "name": packing.task.name, "text": packing.task.text, "pair": packing.task.pair,
            "label": packing.task.label, "labels": list(packing.labels), "regression": packing.task.regression,
            "metrics": list(packing.task.metrics),
        },
        "max_tokens": packing.max_tokens,
        "embeddings_bits": packing.embeddings,
        "trained_time_steps": config.T,
        "training": dict(packing.facts),
    }  # fmt: skip
    write_run(folder, run)
    if packing.rows is not None:
        run["dev"] = _figures(model, folder, packing.task, packing.rows)
    write_run(folder, run)
    write_whole(folder / "README.md", card(run, model.config, folder).encode())
    return run


def _check_labels(source: Path, packing: Packing, classes: int) -> None:
    """Refuse labels that do not fit the model's outputs."""
    if packing.task.regression != (classes == 1):
        what = "of regression, whose model gives one score" if packing.task.regression else "of classes"
        raise ConfigError(f"{source} has {classes} outputs, but the task {packing.task.name!r} is {what}.")
    if packing.task.regression and packing.labels:
        raise ConfigError(f"{packing.task.name!r} is a task of regression: its model has no labels; leave them out.")
    if not packing.task.regression and len(packing.labels) != classes:
        raise ConfigError(f"{len(packing.labels)} labels for {classes} classes; give --labels, one each.")


def _write_tokenizer(source: Path, folder: Path, max_tokens: int) -> None:
    """Copy the tokenizer, without line breaks and with the longest text that the model takes."""
    path = source / "tokenizer.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["padding"] = None
        data["truncation"] = {
            "direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}; put the tokenizer's file beside the model.") from error
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    write_whole(folder / "tokenizer.json", text.encode())


def _write_graph(model: SpikingBert, folder: Path, steps: Sequence[int], *, pairs: bool) -> None:
    """Write ``model.onnx``, which reads its weights from ``model.safetensors``."""
    trained = model.config.T
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        made = {T: _exported(model, T, path, pairs=pairs) for T in steps}
        # Whether a layer's constants fold depends on T; one graph for all folds what folds at each.
        unfolded = frozenset.union(*(still for _, still in made.values()))
        made = {
            T: found if found[1] == unfolded else _exported(model, T, path, pairs=pairs, unfolded=unfolded)
            for T, found in made.items()
        }
    model.set_time_steps(trained)
    proto = with_time_steps({T: graph for T, (graph, _) in made.items()}, trained)
    point_into(proto, folder / "model.safetensors")
    remember(proto, (folder / "config.json", folder / "tokenizer.json"))
    write_whole(folder / "model.onnx", seal(proto))


def _exported(
    model: SpikingBert, T: int, path: Path, *, pairs: bool, unfolded: frozenset[str] = frozenset()
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Export at one T, and take off the seal; return which layers of neurons are not folded, too."""
    model.set_time_steps(T)
    ids = torch.arange(2 * 7).reshape(2, 7) % model.config.vocab
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pairs:
        sample["token_type_ids"] = torch.zeros_like(ids)
    form = "counts" if model.config.schedule == "synchronous" else "sequence"
    report = export_tokens(model, model, sample, path, TokenOptions(form, "real", "sequence", "2bit", False, unfolded))
    neurons = {name for name, _ in model.named_neurons()}
    still = frozenset(
        layer.name for layer in report.layers if layer.name in neurons and layer.operator != "SynchronousFolded"
    )
    return unsealed(onnx.load(path)), still


def _figures(model: SpikingBert, folder: Path, task: Task, rows: Rows) -> dict[str, Any]:
    """Measure the file on the dev set at each T, and compare its answers with the model's."""
    classifier = Classifier(folder, native=False)
    by_steps = {}
    compared: dict[str, float] = {}
    for T in classifier.offered:
        answers = classifier.classify(rows.texts, rows.pairs, time_steps=T, batch=_BATCH)
        by_steps[str(T)] = figures_of(answers, task, rows)
        if classifier.time_steps == T:
            compared = _compared(answers, _torch_logits(model, classifier, rows), classifier.labels)
    return {"rows": len(rows), **compared, "by_time_steps": by_steps}


def _compared(answers: Sequence[Answer], logits: Any, labels: Sequence[str]) -> dict[str, float]:
    """Compare answers with the packed model's in torch: how many are the same; of scores also how far they differ."""
    if labels:
        ours = np.asarray([labels.index(answer.label) for answer in answers])
        return {"agreement_with_torch": float((ours == logits.argmax(-1)).mean())}
    apart = np.abs(np.asarray([answer.score for answer in answers]) - logits[:, 0])
    return {
        "agreement_with_torch": float((apart <= _NEAR * np.ptp(logits)).mean()),
        "largest_difference_from_torch": float(apart.max()),
    }


def figures_of(answers: Sequence[Answer], task: Task, rows: Rows) -> dict[str, float]:
    """Return the task's metrics, firing rate, steps and relative energy of answers."""
    values = [answer.probabilities if answer.score is None else (answer.score,) for answer in answers]
    energies = [answer.energy for answer in answers if answer.energy is not None]
    found = {
        **measure(task, np.asarray(rows.labels, np.float64), np.asarray(values, np.float64)),
        "firing_rate": float(np.mean([answer.firing_rate for answer in answers])),
        "mean_time_steps": float(np.mean([answer.time_steps for answer in answers])),
        "mean_steps_spent": float(np.mean([answer.steps_spent for answer in answers])),
    }
    if energies:
        spiking, dense = (sum(getattr(e, part).joules for e in energies) for part in ("spiking", "dense"))
        found["energy_ratio"] = spiking / dense
    return found


@torch.no_grad()
def _torch_logits(model: SpikingBert, classifier: Classifier, rows: Rows) -> Any:
    """Return the logits that the packed model itself gives, in batches of its own."""
    encoded = classifier.encode(rows.texts, rows.pairs)
    found = np.zeros((len(rows), model.config.classes))
    order = np.argsort([len(entry.ids) for entry in encoded], kind="stable")
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        given = classifier.batch([encoded[row] for row in part])
        found[part] = model(*(torch.from_numpy(value) for value in given.values())).numpy()
    return found
