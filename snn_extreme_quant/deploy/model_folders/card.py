"""The card of a model folder, written from what its ``run.json`` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from snn_extreme_quant.models import SpikingBertConfig

__all__ = ["card", "encoder_weights", "files_table", "licence_lines", "training_lines"]

_FILES = ("model.safetensors", "model.onnx", "tokenizer.json", "config.json", "run.json")


def card(run: Mapping[str, Any], config: SpikingBertConfig, folder: Path) -> str:
    """Return the card as Markdown; what nobody measured or told is left out, not made up.

    Args:
        run: the contents of ``run.json``.
        config: of the model.
        folder: the folder, for the sizes of its files.
    """
    training: Mapping[str, Any] = run["training"]
    table, total = files_table(folder, _FILES)
    about = (
        f"A spiking BERT ({config.layers} layers, width {config.hidden}) that {_does(run['task'])};"
        f" task `{run['task']['name']}`. Weights of the encoder: {encoder_weights(config)}."
        f" {'Spikes {-1,0,1}' if config.signed else 'Spikes {0,1}'}, profile `{config.profile}`, {config.schedule}"
        f" schedule, trained with T = {config.T}."
    )
    limits = (
        f"Texts are cut off after {run['max_tokens']} tokens. The model knows what its training texts hold, and may"
        " repeat their biases. The energy is an estimate of arithmetic alone."
    )
    stored = f"In all {total:,} bytes. Words: {_embeddings(run['embeddings_bits'])}."
    second = "" if run["task"]["pair"] is None else ' --pair "it is a delight to watch"'
    command = f'```\nsxq classify --model {run["name"]} "a gorgeous, witty film"{second}\n```'
    parts = [
        f"# {run['name']}", about, command, "## Figures", _figures(run), "## Files", table, stored, "## Training",
        training_lines(training), "## Licences", licence_lines(training), "## Limits", limits,
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def files_table(folder: Path, names: Iterable[str]) -> tuple[str, int]:
    """Return a table of those of the files that are there, and their bytes in all."""
    sizes = [(name, (folder / name).stat().st_size) for name in names if (folder / name).is_file()]
    lines = ["| file | bytes |", "| --- | --- |", *(f"| `{name}` | {size:,} |" for name, size in sizes)]
    return "\n".join(lines), sum(size for _, size in sizes)


def licence_lines(training: Mapping[str, Any]) -> str:
    """Return what ``about.toml`` says of licences, as a list."""
    return "\n".join(f"* {line}" for line in training.get("licences", ("not stated",)))


def _does(task: Mapping[str, Any]) -> str:
    what = "texts" if task["pair"] is None else "pairs of texts"
    return f"scores {what}" if task["regression"] else f"labels {what} as {' or '.join(task['labels'])}"


def encoder_weights(config: SpikingBertConfig) -> str:
    """Return what the encoder's weights are.

    Example:
        >>> encoder_weights(SpikingBertConfig(weights="ternary")), encoder_weights(SpikingBertConfig())
        ('ternary', 'float')
    """
    kinds = sorted({type(rule).__name__.lower() for name, rule in config.plan.rules if name.startswith("encoder")})
    return ", ".join(kinds) or "float"


def _embeddings(bits: int) -> str:
    return "float32" if bits == 32 else f"{bits} bit, a scale for each row"


def _figures(run: Mapping[str, Any]) -> str:
    dev = run.get("dev")
    if dev is None:
        return "None were taken: the dev set was not there when the folder was made."
    metrics = run["task"]["metrics"]
    names = ["T", *metrics, "firing rate", "estimated energy of a float BERT's"]
    lines = [names, ["---"] * len(names)]
    for T, figures in dev["by_time_steps"].items():
        measured = [_figure(metric, figures[metric]) for metric in metrics]
        lines.append([T, *measured, f"{figures['firing_rate']:.3f}", f"{100 * figures['energy_ratio']:.1f} %"])
    known = run["training"].get("teacher_accuracy")
    teacher = "" if known is None else f" The teacher has {_figure(metrics[0], known)}."
    error = _standard_error(run)
    differs = dev.get("largest_difference_from_torch")
    agreement = (
        f"It gives the answer of the packed model in torch for {100 * dev['agreement_with_torch']:.2f} % of them."
    )
    if differs is not None:
        agreement = f"Its scores differ from those of the packed model in torch by {differs:.2g} at most."
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\nThe dev set of `{run['task']['name']}`, {dev['rows']:,} texts, by this `model.onnx` on stock"
        f" onnxruntime.{teacher}{error} {agreement}"
    )


def _figure(metric: str, value: float) -> str:
    """Parts of a whole in percent, correlations as they are."""
    return f"{100 * value:.2f} %" if metric in ("accuracy", "f1") else f"{value:.4f}"


def _standard_error(run: Mapping[str, Any]) -> str:
    """Say how far an accuracy of so many texts is known."""
    dev = run["dev"]
    figures = dev["by_time_steps"][str(run["trained_time_steps"])]
    if "accuracy" not in figures:
        return ""
    accuracy = figures["accuracy"]
    return f" The standard error of an accuracy is {100 * (accuracy * (1 - accuracy) / dev['rows']) ** 0.5:.1f} points."


def training_lines(training: Mapping[str, Any]) -> str:
    """Return what is known of a training, as a list."""
    told = {
        "teacher": "Teacher", "data": "Data", "seed": "Seed", "steps": "Steps", "epochs": "Epochs",
        "batch": "Batch", "seconds": "Seconds", "machine": "Machine", "selection": "Model taken", "note": "Note",
    }  # fmt: skip
    lines = [f"* {name}: {training[key]}" for key, name in told.items() if key in training]
    if "recipe" in training:
        lines.append(f"* Recipe: in `run.json`; stages: {_stages(training)}")
    before: Mapping[str, Any] | None = training.get("start")
    while before is not None:
        known = f": {before['steps']} steps, {before['seconds']} seconds; " if "steps" in before else ""
        lines.append(f"* Begun with the student `{before['model']}` of another run{known}{_stages(before)}")
        before = before.get("start")
    return "\n".join(lines) or "Nothing is known of it."


def _stages(training: Mapping[str, Any]) -> str:
    stages = training.get("recipe", {}).get("stages", ())
    return ", ".join(f"`{stage['name']}` ({_length(stage)} planned)" for stage in stages)


def _length(stage: Mapping[str, Any]) -> str:
    return f"{stage['steps']} steps" if stage.get("steps") else f"{stage.get('epochs', 0):g} epochs"
