"""The training loop: stages of distillation on Hugging Face Accelerate, resumable to the bit."""

from __future__ import annotations

import fnmatch
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.data import Batch, Sentences, batch_order, collate, read_rows
from snn_extreme_quant.errors import CheckpointError, ConfigError, OutputPathError, TrainingError
from snn_extreme_quant.models import SpikingBert
from snn_extreme_quant.models.config import weights_from_data
from snn_extreme_quant.models.teacher import load_teacher, load_tokenizer, teacher_layers
from snn_extreme_quant.output_files import write_whole
from snn_extreme_quant.training.distillation import Distiller, Shares, Teacher, TeacherOutputs
from snn_extreme_quant.training.evaluation import Evaluation, evaluate, over_time_steps
from snn_extreme_quant.training.recipe import Recipe, Stage
from snn_extreme_quant.training.state import read_state, write_state
from snn_extreme_quant.training.teacher_cache import CachedTeacher

__all__ = ["Progress", "TrainingResult", "train"]

_STEPS_MEASURED = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        stage: its name.
        step: steps done in this stage.
        steps: its length.
        losses: of the last step, by name.
        dev: figures of the last evaluation, or None.
    """

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    dev: dict[str, float] | None


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Args:
        folder: with the models ``best`` and ``last``, ``log.jsonl`` and ``result.json``.
        metrics: dev figures of the last model.
        firing_rate: its mean firing rate on the dev set.
        best: dev figures of the best model, chosen by the task's first metric.
        by_time_steps: figures of the last model at other numbers of time steps.
    """

    folder: Path
    metrics: dict[str, float]
    firing_rate: float
    best: dict[str, float]
    by_time_steps: dict[int, dict[str, float]] = field(default_factory=dict)


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Return the learning rate's factor at a step: it rises, then falls to 0 or stays.

    Example:
        >>> from snn_extreme_quant.training.recipe import LossWeights
        >>> stage = Stage(steps=4, warmup=0.5, loss=LossWeights(labels=1.0))
        >>> [learning_rate(stage, n, 4) for n in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    rise = math.ceil(stage.warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 1.0 if stage.schedule == "constant" else (steps - step) / max(1, steps - rise)


class _Run:
    """One run: its data, student, teacher and place."""

    def __init__(self, recipe: Recipe, folder: Path, report: Callable[[Progress], None]) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.utils import set_seed

        self.recipe, self.folder, self.report = recipe, folder, report
        # A stage without a loss of hidden states leaves the projection without gradient.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        self.tokenizer = load_tokenizer(recipe.teacher)
        rows = read_rows(recipe.task, recipe.data, "train")
        self.train = Sentences.tokenise(rows, self.tokenizer, recipe.max_tokens)
        dev = read_rows(recipe.task, recipe.data, recipe.task.dev)
        self.dev = Sentences.tokenise(dev, self.tokenizer, recipe.max_tokens)
        set_seed(recipe.train.seed)
        teacher = load_teacher(recipe.teacher)
        depth = teacher.config.num_hidden_layers
        self.layer_map = (0, *teacher_layers(recipe.layers, depth))
        stride = max(1, len(rows) // recipe.train.calibration)
        student = SpikingBert.from_teacher(
            recipe.teacher, recipe.layers, rows.texts[::stride][: recipe.train.calibration], **recipe.student
        )
        self._check_labels(student)
        teacher.to(self.accelerator.device)
        self.teacher = teacher
        self.distiller = Distiller(student, teacher.config.hidden_size, recipe.task.regression)
        self.stage, self.step, self.best = 0, 0, dict[str, float]()
        self.optimizer: Any = None
        self.pending: dict[str, Any] | None = None

    @property
    def student(self) -> SpikingBert:
        student: SpikingBert = self.accelerator.unwrap_model(self.distiller).student
        return student

    def _check_labels(self, student: SpikingBert) -> None:
        classes = student.config.classes
        if self.recipe.task.regression:
            good = classes == 1
        else:
            good = classes > max(self.train.labels.max(), self.dev.labels.max())
        if not good:
            raise ConfigError(
                f"The teacher has {classes} outputs, which do not fit the labels of {self.recipe.task.name!r}; give a"
                " teacher of this task, or set classes in [student] where the teacher has no classifier."
            )

    # One stage.

    def length(self, stage: Stage) -> int:
        """Return the steps of a stage."""
        per_epoch = math.ceil(len(self.train) / self.recipe.train.batch)
        return stage.steps or max(1, round(stage.epochs * per_epoch))

    def batches(self, start: int, steps: int) -> Iterator[Batch]:
        """Yield the batches of a stage from a step on."""
        order: list[Any] = []
        per_epoch = math.ceil(len(self.train) / self.recipe.train.batch)
        for step in range(start, steps):
            epoch, place = divmod(step, per_epoch)
            if not order or place == 0:
                seed = (self.recipe.train.seed, self.stage, epoch)
                order = batch_order(self.train.lengths, self.recipe.train.batch, seed)
            yield collate(self.train, order[place])

    def begin(self, stage: Stage) -> None:
        """Set precision, mode and optimiser of a stage."""
        student = self.student
        if stage.weights != "" and weights_from_data(stage.weights) != student.config.weights:
            student.set_weights(stage.weights)
        student.mode = stage.mode  # type: ignore[assignment]
        frozen = _frozen(self.accelerator.unwrap_model(self.distiller), stage)
        groups = _groups(self.accelerator.unwrap_model(self.distiller), stage, self.recipe.train.weight_decay)
        if not groups:
            raise ConfigError(f"stage {stage.name!r}: freeze={list(stage.freeze)} leaves nothing to train ({frozen}).")
        self.optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.distiller, self.optimizer = self.accelerator.prepare(self.distiller, self.optimizer)

    def run_stage(self, stage: Stage) -> None:
        """Train for one stage, from wherever it stands."""
        steps, options = self.length(stage), self.recipe.train
        self.begin(stage)
        if self.pending is not None:
            self._restore(self.pending)
            self.pending = None
        levels = stage.loss.layer_map or self.layer_map
        if len(levels) != len(self.layer_map):
            raise ConfigError(f"stage {stage.name!r}: layer_map needs {len(self.layer_map)} levels, from the input on.")
        asked = Teacher(self.teacher, levels, stage.loss.hidden > 0, stage.loss.scores > 0)
        teacher: Teacher | CachedTeacher = asked
        if self.recipe.cache == "all" and _needs_teacher(stage):
            with self.accelerator.main_process_first():
                folder = self.folder / "teacher_outputs"
                teacher = CachedTeacher(asked, self.train, folder, options.precision)
        started = time.perf_counter()
        for batch in self.batches(self.step, steps):
            factor = learning_rate(stage, self.step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            losses = self.update(stage, teacher, batch)
            self.step += 1
            last = self.step == steps
            dev = None
            if last or (options.eval_every and self.step % options.eval_every == 0):
                dev = self.evaluate(stage, losses, time.perf_counter() - started)
            if self.accelerator.is_main_process:
                self.report(Progress(stage.name, self.step, steps, losses, dev))
            if not last and options.save_every and self.step % options.save_every == 0:
                self.save()

    def update(self, stage: Stage, teacher: Teacher | CachedTeacher, batch: Batch) -> dict[str, float]:
        """Make one step of the optimiser; return the losses, of this process."""
        accelerator, options = self.accelerator, self.recipe.train
        self.distiller.train()
        parts = _parts(batch, options.accumulate, accelerator.process_index, accelerator.num_processes)
        found: dict[str, float] = {}
        for share_of_batch in parts:
            part = share_of_batch.to(accelerator.device)
            # Not accelerate's own precision: that is one for the whole process.
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                theirs = teacher(part) if _needs_teacher(stage) else TeacherOutputs(None, None, None)
                shares = Shares.of(share_of_batch, batch, accelerator.num_processes)
                losses: dict[str, Tensor] = self.distiller(part, theirs, stage.loss, shares)
            accelerator.backward(losses["loss"])
            for name, value in losses.items():
                found[name] = found.get(name, 0.0) + float(value.detach())
        if not math.isfinite(found["loss"]):
            raise TrainingError(f"stage {stage.name!r}, step {self.step}: the loss is {found['loss']}; lower lr.")
        accelerator.clip_grad_norm_(self.distiller.parameters(), options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def evaluate(self, stage: Stage, losses: dict[str, float], seconds: float) -> dict[str, float]:
        """Measure the student on the dev set, keep it if it is the best, and write a line of the log."""
        result = evaluate(self.student, self.dev, self.recipe.task)
        figures = {**result.metrics, "firing_rate": result.firing_rate}
        if self.accelerator.is_main_process:
            first = self.recipe.task.metrics[0]
            if not self.best or result.metrics[first] > self.best[first]:
                self.best = figures
                self._keep("best")
            line = {
                "stage": stage.name,
                "step": self.step,
                "seconds": round(seconds, 1),
                "losses": losses,
                "dev": figures,
            }
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        return figures

    # Files.

    def _keep(self, name: str) -> None:
        self.student.save_pretrained(self.folder / name)
        self.tokenizer.save_pretrained(self.folder / name)

    def save(self) -> None:
        """Write a checkpoint."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "stage": self.stage,
            "step": self.step,
            "best": self.best,
            "weights": self.student.config.to_dict()["weights"],
            "model": self.accelerator.unwrap_model(self.distiller).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        write_state(self.folder / "checkpoint.pt", self.recipe, state)

    def resume(self) -> None:
        """Go to where the last checkpoint was written."""
        self.pending = read_state(self.folder / "checkpoint.pt", self.recipe)
        self.stage, self.step, self.best = (self.pending[name] for name in ("stage", "step", "best"))
        self.student.set_weights(self.pending["weights"])
        self._restore(self.pending)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.accelerator.unwrap_model(self.distiller).load_state_dict(state["model"])
            if state["step"] and self.optimizer is not None:
                self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.folder / 'checkpoint.pt'} does not fit the student: {error}") from error
        torch.set_rng_state(state["random"])

    def finish(self) -> TrainingResult:
        """Measure the last model and write what came of the run."""
        result: Evaluation = evaluate(self.student, self.dev, self.recipe.task)
        by_steps = over_time_steps(self.student, self.dev, self.recipe.task, _STEPS_MEASURED)
        outcome = TrainingResult(self.folder, result.metrics, result.firing_rate, self.best, by_steps)
        if self.accelerator.is_main_process:
            self._keep("last")
            text = json.dumps({**asdict(outcome), "recipe": self.recipe.to_dict()}, indent=2, default=str)
            write_whole(self.folder / "result.json", text.encode())
        return outcome


def _needs_teacher(stage: Stage) -> bool:
    return any((stage.loss.hidden, stage.loss.scores, stage.loss.logits))


def _frozen(model: Distiller, stage: Stage) -> int:
    """Set which parameters are trained; return how many are not."""
    names = dict(model.student.named_parameters())
    for pattern in stage.freeze:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"stage {stage.name!r}: freeze={pattern!r} matches no parameter of the student.")
    for name, parameter in names.items():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, pattern) for pattern in stage.freeze))
    return sum(not parameter.requires_grad for parameter in names.values())


def _groups(model: Distiller, stage: Stage, decay: float) -> list[dict[str, Any]]:
    """Return groups of parameters: matrices decay, thresholds have their own rate."""
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    thresholds: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = thresholds if name.endswith("log_threshold") else matrices if parameter.dim() > 1 else vectors
            kind.append(parameter)
    threshold_lr = stage.threshold_lr or stage.lr
    groups = [(matrices, stage.lr, decay), (vectors, stage.lr, 0.0), (thresholds, threshold_lr, 0.0)]
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": wd} for params, lr, wd in groups if params]


def _parts(batch: Batch, accumulate: int, process: int, processes: int) -> Iterator[Batch]:
    """Yield this process' share of a batch, in parts."""
    for part in range(accumulate):
        rows = slice(part * processes + process, None, accumulate * processes)
        if len(batch.rows[rows]):
            tensors = (tensor[rows] for tensor in (batch.ids, batch.mask, batch.types, batch.labels))
            yield Batch(batch.rows[rows], *tensors)


def train(
    recipe: Recipe, folder: str | Path, resume: bool = False, report: Callable[[Progress], None] = lambda _: None
) -> TrainingResult:
    """Carry out a recipe.

    Args:
        recipe: what to do.
        folder: where log, checkpoint and models go; it is made if it does not exist.
        resume: go on from the checkpoint in ``folder``; the result is that of an uninterrupted run, bit for bit, on
            the same machine with the same number of threads.
        report: called after each step.

    Raises:
        ConfigError: the recipe does not fit its teacher or data.
        DataError: the data cannot be read.
        CheckpointError: there is nothing to resume, or it is of another recipe; or, without ``resume``, the folder
            holds a checkpoint already.
        TrainingError: the loss is not finite.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error
    if not resume and (folder / "checkpoint.pt").exists():
        raise CheckpointError(f"{folder} holds a run already; resume it (--resume), or name another folder.")
    run = _Run(recipe, folder, report)
    if resume:
        run.resume()
    while run.stage < len(recipe.stages):
        run.run_stage(recipe.stages[run.stage])
        run.stage, run.step = run.stage + 1, 0
        run.save()
    return run.finish()
