"""What the search does with workers, on a stand-in for Ray that runs tasks in this process when they are asked for."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import pytest

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import ConfigError, MissingDependencyError, SearchError
from snn_extreme_quant.precision_search import Classification, SearchResult
from snn_extreme_quant.precision_search.measuring import Reused

from .networks import chain, trained

OPTIONS: dict[str, Any] = {"max_drop": 3.0, "max_memory": "20%", "levels": [8, 2], "tiers": ["global", "block"]}


class _DiedError(Exception):
    pass


class _TaskError(Exception):
    cause: Exception | None = None


class _Ray(types.ModuleType):
    """As much of Ray as is used; the first actor dies at its fifth task."""

    def __init__(self, deaths: int) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayActorError=_DiedError, RayTaskError=_TaskError)
        self.deaths, self.tasks, self.started, self.up = deaths, 0, 0, False
        self.given: dict[str, Any] = {}
        self.unreachable: Exception | None = None

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **given: Any) -> None:
        if self.unreachable is not None:
            raise self.unreachable
        self.given, self.up = given, True

    def shutdown(self) -> None:
        self.up = False

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: Any) -> None:
        actor.dead = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def get(self, task: Any) -> Any:
        return task()

    def remote(self, **_: Any) -> Any:
        ray = self

        def of(cls: type) -> Any:
            class Actor:
                @staticmethod
                def remote(parts: Any, threads: int) -> Any:
                    ray.started += 1
                    return _Handle(ray, lambda: cls(parts, threads))

            return Actor

        return of


class _Handle:
    def __init__(self, ray: _Ray, make: Any) -> None:
        self.ray, self.make, self.made, self.dead, self.count = ray, make, None, False, 0
        self.measure = types.SimpleNamespace(remote=self._measure)
        self.reused = types.SimpleNamespace(remote=lambda: lambda: self.made.reused() if self.made else Reused())
        self.__ray_ready__ = types.SimpleNamespace(remote=lambda: self._alive)

    def _alive(self) -> None:
        if self.dead:
            raise _DiedError

    def _measure(self, precisions: Any, number: int, how: Any) -> Any:
        done: list[Any] = []

        def run() -> Any:
            self._alive()
            if not done:
                self.ray.tasks += 1
                self.count += 1
                if self.count == 5 and self.ray.deaths:
                    self.ray.deaths -= 1
                    self.dead = True
                    raise _DiedError
                self.made = self.made or self.make()
                try:
                    done.append(self.made.measure(precisions, number, how))
                except SearchError as error:
                    wrapped = _TaskError(str(error))
                    wrapped.cause = error
                    raise wrapped from error
            return done[0]

        return run


def figures(result: SearchResult) -> list[object]:
    return [candidate.to_dict() for candidate in result.candidates]


@pytest.mark.parametrize("deaths", [0, 2])
def test_workers_find_what_one_process_finds(monkeypatch: pytest.MonkeyPatch, deaths: int) -> None:
    net, evaluator = trained(8, 64)
    serial = sxq.search(copy.deepcopy(net), evaluator, **OPTIONS)
    ray = _Ray(deaths)
    monkeypatch.setitem(sys.modules, "ray", ray)
    found = sxq.search(net, evaluator, workers=2, **OPTIONS)
    assert found.plan == serial.plan
    assert figures(found) == figures(serial)
    assert found.path == serial.path
    assert ray.started == 2 + deaths
    assert not ray.up


def test_workers_that_always_die_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    net, evaluator = trained(8, 64)
    ray = _Ray(10**6)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(_Handle, "_alive", lambda self: (_ for _ in ()).throw(_DiedError))
    with pytest.raises(SearchError, match="Workers died"):
        sxq.search(net, evaluator, workers=2, **OPTIONS)


def test_what_a_worker_notices_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net, evaluator = trained(8, 64)

    def logits(model: Any, rows: Any) -> Any:
        model[0].bias.data += 1.0
        return evaluator.logits(model, rows)

    monkeypatch.setitem(sys.modules, "ray", _Ray(0))
    with pytest.raises(SearchError, match=r"The model changed between evaluations: '0.bias'"):
        sxq.search(net, Classification(logits, evaluator.labels), workers=2, **OPTIONS)


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'snn-extreme-quant\[ray\]'"):
        sxq.search(chain(), lambda _: 90.0, max_drop=1.0, workers=2)


def test_an_address_is_that_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker for each of its CPUs where no number is given; no CPUs are asked for, which a running cluster has."""
    net, evaluator = trained(8, 64)
    for asked, made in ((0, 2), (3, 3)):
        ray = _Ray(0)
        monkeypatch.setitem(sys.modules, "ray", ray)
        found = sxq.search(net, evaluator, address="10.0.0.7:6379", workers=asked, **OPTIONS)
        assert ray.given["address"] == "10.0.0.7:6379"
        assert "num_cpus" not in ray.given
        assert ray.started == made
        assert ray.tasks > 0
        assert not ray.up
        assert found.candidates


def test_a_cluster_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net, evaluator = trained(8, 64)
    for error in (ConnectionError("refused"), Exception("timed out")):
        ray = _Ray(0)
        ray.unreachable = error
        monkeypatch.setitem(sys.modules, "ray", ray)
        with pytest.raises(ConfigError, match=rf"The Ray cluster 10.0.0.7:1 cannot be reached: {error}"):
            sxq.search(net, evaluator, address="10.0.0.7:1", **OPTIONS)
