"""What classifying takes: a file, its tokenizer, and what its labels are called; ``docs/spiking_bert.md``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_extreme_quant.accounting import BertSizes
from snn_extreme_quant.data.metrics import METRICS
from snn_extreme_quant.data.tasks import GLUE, Task
from snn_extreme_quant.errors import ConfigError, ModelFileError
from snn_extreme_quant.models import zoo
from snn_extreme_quant.registry import suggest

__all__ = ["DEFAULT_MODEL", "RUN_FORMAT", "ModelFolder", "open_folder"]

DEFAULT_MODEL = "sst2-ternary"
RUN_FORMAT = "snn_extreme_quant.model_folder.1"
#: Where a bare file says nothing else.
_MOST_TOKENS = 512


@dataclass(frozen=True)
class ModelFolder:
    """A model and what belongs to it.

    Args:
        name: what it is called.
        graph: the ONNX file.
        tokenizer: its ``tokenizer.json``; of a SpikeGPT the file itself, which holds what its tokens are.
        labels: names of the classes; empty if nobody says.
        max_tokens: the longest text.
        task: columns of its tables and what its answers are measured by; None if nobody says.
        sizes: for the estimate of energy; None if nobody says.
    """

    name: str
    graph: Path
    tokenizer: Path
    labels: tuple[str, ...]
    max_tokens: int
    task: Task | None
    sizes: BertSizes | None


def open_folder(source: str | Path) -> ModelFolder:
    """Find a model's files.

    Args:
        source: the name of a shipped model, a folder of ``sxq pack``, or an ONNX file with a tokenizer beside it.

    Raises:
        ModelFileError: there is no such model, or a file is missing; the message says which, and what to do.
    """
    given: object = source
    if not isinstance(given, (str, os.PathLike)):
        raise ModelFileError(f"{given!r} is no model: give the name of a shipped one, a folder, or a .onnx file.")
    text = str(source)
    known = zoo.names("classifier")
    if text in known:
        folder, graph = zoo.path(text), zoo.path(text) / "model.onnx"
    elif Path(source).is_dir():
        folder, graph = Path(source), Path(source) / "model.onnx"
        if not graph.is_file():
            what = "a run or latent weights: make a folder of it with sxq pack" if _is_run(folder) else "no model"
            raise ModelFileError(f"{folder} holds no model.onnx; it is {what}.")
    elif Path(source).suffix == ".onnx" and Path(source).is_file():
        folder, graph = Path(source).parent, Path(source)
    else:
        raise ModelFileError(f"{text!r} is no shipped model, no folder and no .onnx file. {suggest(text, known)}")
    run = _json(folder / "run.json")
    if run.get("kind", "classifier") != "classifier" or (folder / "tokens.json").is_file():
        raise ModelFileError(f"{text} is a language model, which labels no texts; sxq generate goes on with a text.")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ModelFileError(f"{tokenizer} is missing: put the model's tokenizer.json beside {graph.name}.")
    task: dict[str, Any] = run.get("task", {})
    config = _json(folder / "config.json").get("config")
    if run and config is None and (folder / "config.json").is_file():
        raise ModelFileError(f"{folder}: config.json is damaged: it has no 'config'; make the folder again (sxq pack).")
    name = str(run.get("name") or (text if graph == folder / "model.onnx" else graph.name))
    try:
        return ModelFolder(
            name=name,
            graph=graph,
            tokenizer=tokenizer,
            labels=tuple(map(str, task.get("labels", ()))),
            max_tokens=int(run.get("max_tokens", _MOST_TOKENS)),
            task=_task(task) if task else None,
            sizes=None if config is None else BertSizes.of_config(config),
        )
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{folder}: config.json or run.json is damaged: {error}") from error


def _task(facts: dict[str, Any]) -> Task:
    """Return the task that a run.json tells of; earlier ones say nothing of metrics and regression."""
    name = str(facts.get("name", "texts"))
    known = GLUE.get(name, Task(name))
    metrics = tuple(map(str, facts.get("metrics", known.metrics)))
    if unknown := set(metrics) - set(METRICS):
        raise ConfigError(f"the metrics {sorted(unknown)} are none of {', '.join(METRICS)}.")
    return Task(
        name,
        text=str(facts.get("text", known.text)),
        label=str(facts.get("label", known.label)),
        pair=None if facts.get("pair") is None else str(facts["pair"]),
        labels=tuple(map(str, facts.get("labels", ()))),
        regression=bool(facts.get("regression", known.regression)),
        metrics=metrics,
    )


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("model.safetensors", "result.json", "log.jsonl", "best"))


def _json(path: Path) -> dict[str, Any]:
    """Read an object, or nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise ModelFileError(f"{path} holds no JSON object.")
    return data
