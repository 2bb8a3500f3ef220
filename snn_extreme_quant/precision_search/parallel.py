"""Evaluations on Ray: what the search will probably ask for is measured ahead, and taken in the search's order."""

from __future__ import annotations

import contextlib
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self

from snn_extreme_quant.errors import ConfigError, MissingDependencyError, SearchError
from snn_extreme_quant.precision_search.evaluators import Evaluator
from snn_extreme_quant.precision_search.measuring import LocalWorker, Rounds
from snn_extreme_quant.precision_search.outcomes import How, Outcome, Precisions, Reused
from snn_extreme_quant.precision_search.working_model import WorkingModel

__all__ = ["RayWorkers"]

#: What a worker is made of: model, evaluator, rounds, names of blocks, bytes of activations.
Parts = tuple[WorkingModel, Evaluator, Rounds, tuple[str, ...], float]
#: What is measured of a candidate: on which round, and how.
_Task = tuple[Precisions, int, How]
#: How often a round is tried anew on another worker before the search gives up.
_TRIES = 5
#: Rounds that a worker has before it: more would be for nothing where candidates are dropped early.
_AHEAD = 3


class _Remote:
    """What runs on a worker: a copy of the model, and the evaluator."""

    def __init__(self, parts: Callable[[], Parts], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.worker = LocalWorker(*parts())

    def measure(self, precisions: Precisions | None, number: int, how: How) -> Outcome:
        """Evaluate a round."""
        return self.worker.measure(precisions, number, how)

    def reused(self) -> Reused:
        """Return what was saved by activations that were kept."""
        return self.worker.reused()


class RayWorkers:
    """Workers of a Ray cluster.

    Args:
        parts: what a :class:`LocalWorker` is made of; it is pickled to the workers.
        workers: how many; 0: one for each CPU of the cluster.
        address: of a cluster; None starts one on this machine, which ends with the search.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster cannot be reached, or model or evaluator cannot be pickled.
    """

    def __init__(self, parts: Parts, workers: int, address: str | None) -> None:
        """Keep what the workers need."""
        self._given = parts
        self._asked, self._address = workers, address
        self._actors: list[Any] = []
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, tuple[Any, int]] = {}
        self._done: set[Any] = set()
        self._turn = 0
        self._started = False

    def __enter__(self) -> Self:
        """Start the workers."""
        ray = _ray()
        if not ray.is_initialized():
            given = {"address": self._address} if self._address else {"num_cpus": max(1, self._asked)}
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **given)
            except Exception as error:  # Ray's own, as where a cluster does not answer in time
                raise ConfigError(f"The Ray cluster {self._address or 'here'} cannot be reached: {error}.") from error
            self._started = True
        count = self._asked or int(ray.cluster_resources().get("CPU", 1))
        try:
            parts = ray.put(self._packed())
        except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:
            self.__exit__()
            raise ConfigError(
                f"Model or evaluator cannot be pickled for the workers: {error}. Models with quantised layers cannot:"
                " give the float one, or leave workers out."
            ) from error
        self._kind = ray.remote(max_restarts=0)(_Remote)
        self._parts = parts
        self._actors = [self._start() for _ in range(count)]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers, and the cluster if it was started here."""
        ray = _ray()
        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._actors, self._running = [], {}
        if self._started:
            ray.shutdown()
            self._started = False

    def measure(self, precisions: Precisions | None, number: int, how: How = "scores") -> Outcome:
        """Return what a round gives, measured ahead or now."""
        ray = _ray()
        key = _key(precisions, number, how)
        self._done.add(key)
        for _ in range(_TRIES):
            running = self._running.pop(key, None)
            reference, actor = self._submit(precisions, number, how) if running is None else running
            self._fill()
            try:
                found: Outcome = ray.get(reference)
            except ray.exceptions.RayActorError:  # the worker died
                self._replace(actor)
                continue
            except ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None)
                raise cause if isinstance(cause, SearchError) else SearchError(str(error)) from error
            return found
        raise SearchError(f"Workers died {_TRIES} times over one round; is there too little memory for so many?")

    def reused(self) -> Reused:
        """Return what was saved by activations that were kept, by all workers that are alive."""
        ray = _ray()
        found = []
        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayActorError):
                found.append(ray.get(actor.reused.remote()))
        why = next((each.why_not for each in found if each.why_not), "")
        return Reused(sum(each.given for each in found), sum(each.computed for each in found), why)

    def expect(self, rounds: Iterable[_Task], *, first: bool = False) -> None:
        """Say what will probably be asked for: in the place of what was said before, or ``first``, before it."""
        if first:
            self._waiting.extendleft(reversed(list(rounds)))
        else:
            self._waiting = deque(rounds)
            # What was measured ahead for nothing must not keep others from being so.
            wanted = {_key(*each) for each in self._waiting}
            self._running = {key: entry for key, entry in self._running.items() if key in wanted}
        self._fill()

    def _fill(self) -> None:
        """Give workers that are about to be idle something to do."""
        while self._waiting and len(self._running) < _AHEAD * len(self._actors):
            task = self._waiting.popleft()
            key = _key(*task)
            if key not in self._running and key not in self._done:
                self._running[key] = self._submit(*task)

    def _submit(self, precisions: Precisions | None, number: int, how: How) -> tuple[Any, int]:
        place = self._turn % len(self._actors)
        self._turn += 1
        return self._actors[place].measure.remote(precisions, number, how), place

    def _start(self) -> Any:
        return self._kind.remote(self._parts, 1)

    def _replace(self, place: int) -> None:
        """Put a new worker in the place of one that died, unless that has been done."""
        ray = _ray()
        try:
            ray.get(self._actors[place].__ray_ready__.remote())
        except ray.exceptions.RayActorError:
            self._actors[place] = self._start()
            # What was under way on it is lost.
            self._running = {key: entry for key, entry in self._running.items() if entry[1] != place}

    def _packed(self) -> Callable[[], Parts]:
        """Return what makes a worker's model."""
        model, *others = self._given
        parts = model.parts

        def make() -> Parts:
            return (WorkingModel(*parts), *others)  # type: ignore[return-value]

        return make


def _key(precisions: Precisions | None, number: int, how: How) -> Any:
    return None if precisions is None else frozenset(precisions.items()), number, how


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("workers=... needs Ray: pip install 'snn-extreme-quant[ray]'.") from error
    return ray
