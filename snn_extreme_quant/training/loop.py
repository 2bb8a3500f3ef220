"""The training loop: stages on Hugging Face Accelerate, resumable to the bit, alone or in several processes."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_extreme_quant.data import Batch, batch_order, collate
from snn_extreme_quant.errors import CheckpointError, OutputPathError, SxqError
from snn_extreme_quant.output_files import write_whole
from snn_extreme_quant.training.finetuning import FineTuning
from snn_extreme_quant.training.finite import check_parameters, clip_finite
from snn_extreme_quant.training.jobs import Distillation, Job, Place
from snn_extreme_quant.training.language import gpt_job
from snn_extreme_quant.training.optimisation import (
    check_frozen,
    freeze,
    learning_rate,
    parameter_groups,
    parts_of,
    seed_part,
)
from snn_extreme_quant.training.recipe import Recipe, Stage, changes_weights
from snn_extreme_quant.training.recipe_text import LOWER_IS_BETTER
from snn_extreme_quant.training.state import read_state, write_state

__all__ = ["Progress", "TrainingResult", "train"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        stage: its name.
        step: steps done in this stage.
        steps: its length.
        losses: of the last step, by name.
        dev: figures of the last evaluation, or None.
        total: steps done in all stages.
        lr: the learning rate of the last step, of what is no threshold.
    """

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    dev: dict[str, float] | None
    total: int = 0
    lr: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Args:
        folder: with the models ``best`` and ``last``, ``log.jsonl`` and ``result.json``.
        metrics: dev figures of the last model.
        firing_rate: its mean firing rate on the dev set; None for a float BERT.
        best: dev figures of the best model of the last precision, chosen by the task's first metric.
        by_time_steps: figures of the last model at other numbers of time steps.
    """

    folder: Path
    metrics: dict[str, float]
    firing_rate: float | None
    best: dict[str, float]
    by_time_steps: dict[int, dict[str, float]] = field(default_factory=dict)


def _job(recipe: Recipe, place: Place) -> Job:
    if recipe.gpt is not None:
        return gpt_job(recipe, place)
    return Distillation(recipe, place) if recipe.base is None else FineTuning(recipe, place)


class _Run:
    """One run: its job, and its place in the stages."""

    def __init__(self, recipe: Recipe, folder: Path, report: Callable[[Progress], None]) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.utils import set_seed

        self.recipe, self.folder, self.report = recipe, folder, report
        # A stage without a loss of hidden states leaves the projection without gradient.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        main, wait = self.accelerator.is_main_process, self.accelerator.wait_for_everyone
        set_seed(recipe.train.seed)
        place = Place(folder, self.accelerator.device, main, wait)
        self.job = _job(recipe, place)
        self.lengths = [self._length(stage) for stage in recipe.stages]
        for stage in recipe.stages:
            check_frozen(dict(self.job.trained.named_parameters()), stage)
        self.stage, self.step, self.best = 0, 0, dict[str, float]()
        self.wrapped: Any = None
        self.optimizer: Any = None
        self.pending: dict[str, Any] | None = None
        self.seconds = 0.0  # that the stage took up to its last checkpoint
        self.log = folder / "log.jsonl"

    # One stage.

    def _per_epoch(self, stage: Stage) -> int:
        return math.ceil(len(self.job.sentences(stage)) / self.recipe.train.batch)

    def _length(self, stage: Stage) -> int:
        """Return the steps of a stage."""
        return stage.steps or max(1, round(stage.epochs * self._per_epoch(stage)))

    def batches(self, stage: Stage, start: int, steps: int) -> Iterator[tuple[Batch, tuple[int, int, int]]]:
        """Yield the batches of a stage from a step on, each with the seed of its epoch."""
        order: list[Any] = []
        sentences, per_epoch = self.job.sentences(stage), self._per_epoch(stage)
        for step in range(start, steps):
            epoch, place = divmod(step, per_epoch)
            seed = (self.recipe.train.seed, self.stage, epoch)
            if not order or place == 0:
                order = batch_order(sentences.lengths, self.recipe.train.batch, seed)
            yield collate(sentences, order[place]), seed

    def begin(self, stage: Stage) -> None:
        """Make model and optimiser of a stage; take both from a checkpoint that was made within it."""
        self.job.begin(stage)
        freeze(dict(self.job.trained.named_parameters()), stage)
        groups = parameter_groups(self.job.model, stage, self.recipe.train.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.accelerator.free_memory()  # the wrappers of the stage before
        self.wrapped, self.optimizer = self.accelerator.prepare(self.job.model, optimizer)
        if self.pending is not None and self.step:
            self._restore(self.pending)
        self.pending = None
        self.check()

    def check(self) -> None:
        """Stop the run if a parameter is NaN or infinite: before a stage, and before anything is written."""
        check_parameters(self.named(), self._where())

    def named(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return what is trained, under the names of the model that the run leaves, where it is part of that."""
        models = (self.job.model, self.job.trained)
        return list({id(value): (name, value) for model in models for name, value in model.named_parameters()}.values())

    def _where(self) -> str:
        return f"stage {self.recipe.stages[self.stage].name!r}, step {self.step}"

    def run_stage(self, stage: Stage) -> None:
        """Train for one stage, from wherever it stands."""
        steps, options = self.lengths[self.stage], self.recipe.train
        self.begin(stage)
        if self.step == 0 and changes_weights([other.weights for other in self.recipe.stages], self.stage):
            self.best = {}
        started = time.perf_counter() - self.seconds
        for batch, seed in self.batches(stage, self.step, steps):
            factor = learning_rate(stage, self.step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            losses = self.update(stage, self.job.batch(batch, stage, seed))
            self.step += 1
            last = self.step == steps
            dev = None
            if last or (options.eval_every and self.step % options.eval_every == 0):
                dev = self.evaluate(stage, losses, time.perf_counter() - started)
            if self.accelerator.is_main_process:
                total = sum(self.lengths[: self.stage]) + self.step
                self.report(Progress(stage.name, self.step, steps, losses, dev, total, stage.lr * factor))
            if not last and options.save_every and self.step % options.save_every == 0:
                self.seconds = time.perf_counter() - started
                self.check()
                self.save()

    def update(self, stage: Stage, batch: Batch) -> dict[str, float]:
        """Make one step of the optimiser; return the losses of the batch."""
        accelerator, options = self.accelerator, self.recipe.train
        self.wrapped.train()
        found: dict[str, Tensor] = {}
        for number, ours, shares in parts_of(
            batch, options.accumulate, accelerator.process_index, accelerator.num_processes
        ):
            part = ours.to(accelerator.device)
            seed_part(options.seed, self.stage, self.step, number)
            # Not accelerate's own precision: that is one for the whole process.
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                theirs = self.job.outputs(part)
                losses: dict[str, Tensor] = self.wrapped(part, theirs, stage.loss, shares)
            accelerator.backward(losses["loss"])
            for name, value in losses.items():
                found[name] = found.get(name, torch.zeros((), device=part.ids.device)) + value.detach()
        means = accelerator.reduce(found, "mean")  # shares count the processes
        result = {name: float(value) for name, value in means.items()}
        clip_finite(self.named(), options.clip, result["loss"], self._where())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def evaluate(self, stage: Stage, losses: dict[str, float], seconds: float) -> dict[str, float]:
        """Measure the model on the dev set, keep it if it is the best, and write a line of the log."""
        self.check()
        figures = self.job.evaluate()
        if self.accelerator.is_main_process:
            first = self.recipe.task.metrics[0]
            sign = -1.0 if first in LOWER_IS_BETTER else 1.0
            if not self.best or sign * figures[first] > sign * self.best[first]:
                self.best = figures
                self.job.keep("best")
            line = {
                "stage": stage.name,
                "step": self.step,
                "seconds": round(seconds, 1),
                "losses": losses,
                "dev": figures,
            }
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        return figures

    # Files.

    def save(self) -> None:
        """Write a checkpoint."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "stage": self.stage,
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "log": self.log.stat().st_size if self.log.exists() else 0,
            "job": self.job.state(),
            "model": self.job.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(self.folder / "checkpoint.pt", self.recipe, state)

    def resume(self) -> None:
        """Go to where the last checkpoint was written."""
        self.pending = read_state(self.folder / "checkpoint.pt", self.recipe)
        self.stage, self.step, self.best = (self.pending[name] for name in ("stage", "step", "best"))
        self.seconds = self.pending.get("seconds", 0.0)  # checkpoints of earlier versions tell neither
        self.job.restore(self.pending["job"])
        self._restore(self.pending)
        self.cut_log(self.pending.get("log"))

    def cut_log(self, size: int | None) -> None:
        """Leave out of the log what comes after so many bytes: steps that are done again are logged again."""
        known = size is not None and self.accelerator.is_main_process and self.log.exists()
        if known and self.log.stat().st_size > (size or 0):
            write_whole(self.log, self.log.read_bytes()[:size])

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.job.model.load_state_dict(state["model"])
            if self.optimizer is not None:
                self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.folder / 'checkpoint.pt'} does not fit the model: {error}") from error

    def finish(self) -> TrainingResult:
        """Measure the last model and write what came of the run."""
        figures = dict(self.job.evaluate())
        rate = figures.pop("firing_rate", None)
        outcome = TrainingResult(self.folder, figures, rate, self.best, self.job.finish())
        if self.accelerator.is_main_process:
            self.job.keep("last")
            text = json.dumps({**asdict(outcome), "recipe": self.recipe.to_dict()}, indent=2, default=str)
            write_whole(self.folder / "result.json", text.encode())
        return outcome


def train(
    recipe: Recipe, folder: str | Path, resume: bool = False, report: Callable[[Progress], None] = lambda _: None
) -> TrainingResult:
    """Carry out a recipe.

    Args:
        recipe: what to do.
        folder: where log, checkpoint and models go; it is made if it does not exist.
        resume: go on from the checkpoint in ``folder``; the result is that of an uninterrupted run, bit for bit, on
            the same machine with the same number of threads and processes.
        report: called after each step, in one process.

    Raises:
        ConfigError: the recipe does not fit its teacher or data.
        DataError: the data cannot be read.
        CheckpointError: there is nothing to resume, or it is of another recipe; or, without ``resume``, the folder
            holds a checkpoint already.
        TrainingError: the loss, a gradient or a parameter is not finite; the message names the parameter.
    """
    folder = Path(folder)
    known = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(f"{folder} cannot be made: {error.strerror or error}.") from error
    if not resume and (folder / "checkpoint.pt").exists():
        raise CheckpointError(f"{folder} holds a run already; resume it (--resume), or name another folder.")
    try:
        run = _Run(recipe, folder, report)
        if resume:
            run.resume()
        else:
            run.cut_log(0)  # of a run that ended before its first checkpoint
    except SxqError:
        if not known:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        raise
    while run.stage < len(recipe.stages):
        run.run_stage(recipe.stages[run.stage])
        run.stage, run.step, run.seconds = run.stage + 1, 0, 0.0
        run.save()
    return run.finish()
