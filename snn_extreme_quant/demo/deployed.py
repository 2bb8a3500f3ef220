"""The files in onnxruntime: their output spikes, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.deploy import session

__all__ = ["LATENCY_THREADS", "accuracy_by_steps", "latencies_ms", "output_spikes"]

Array = npt.NDArray[np.float32]

LATENCY_THREADS = 1
_WARM_UP = 20


def output_spikes(path: Path, sequence: Array) -> Array:
    """Run a file on images over time ``(T, B, 1, 8, 8)``; returns its output spikes ``(T, B, 10)``."""
    runtime = session(path, native=False)
    return cast("Array", runtime.run(None, {runtime.get_inputs()[0].name: sequence})[0])


def accuracy_by_steps(spikes: Array, labels: npt.NDArray[np.int64]) -> list[float]:
    """Return the accuracy after 1, 2, ... T steps: the class with the most spikes so far, the first of equals."""
    return [float(np.mean(counts.argmax(1) == labels)) for counts in spikes.cumsum(0)]


def latencies_ms(paths: Sequence[Path], sequence: Array, rounds: int) -> list[float]:
    """Return each file's median time for one run on ``sequence``, in milliseconds.

    All files take turns in one process, so that whatever else the machine does falls on all of them alike.
    """
    runtimes = [session(path, threads=LATENCY_THREADS, native=False) for path in paths]
    feeds = [{runtime.get_inputs()[0].name: sequence} for runtime in runtimes]
    times: list[list[float]] = [[] for _ in paths]
    for index in range(_WARM_UP + rounds):
        for runtime, feed, taken in zip(runtimes, feeds, times, strict=True):
            start = time.perf_counter()
            runtime.run(None, feed)
            if index >= _WARM_UP:
                taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in times]
