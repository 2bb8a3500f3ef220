"""The file side of ``verify``: its inputs, and what a file gives for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snn_extreme_quant.deploy.export import as_tensor
from snn_extreme_quant.deploy.integer.verify import IntegerReference
from snn_extreme_quant.deploy.runtime.input_arrays import as_array
from snn_extreme_quant.deploy.runtime.sessions import Opened
from snn_extreme_quant.deploy.runtime.stream import run_streamed
from snn_extreme_quant.deploy.verification.report import LayerVerification, VerifyReport
from snn_extreme_quant.errors import SampleError

__all__ = ["VerifiedFile", "batches", "empty_report", "run_batch"]


def empty_report(path: Path, opened: Opened, facts: Mapping[str, Any], names: Iterable[str]) -> VerifyReport:
    """Return the report of a file before the first input, with what the exporter promised of the named layers."""
    promised = {entry["name"]: entry for entry in facts["layers"]}
    report = VerifyReport(path, opened.name)
    report.layers = [LayerVerification(name, promised[name]["exact"], promised[name]["why"]) for name in names]
    return report


def batches(inputs: Any) -> Iterator[Tensor]:
    """Give the inputs one after the other, as tensors.

    Raises:
        SampleError: they are something else.
    """
    if _is_array(inputs):
        inputs = as_array(inputs, "The input")
    if isinstance(inputs, (Tensor, np.ndarray)):
        yield as_tensor(inputs, "The input")
        return
    if not isinstance(inputs, Iterable):
        raise SampleError(f"verify() takes a tensor, an array or an iterable of them; got {type(inputs).__name__}.")
    for index, batch in enumerate(inputs):
        yield as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch, f"Input {index}")


def _is_array(inputs: Any) -> bool:
    """Whether lists in lists hold numbers."""
    innermost = inputs
    while isinstance(innermost, (list, tuple)) and innermost:
        innermost = innermost[0]
    return innermost is not inputs and isinstance(innermost, (bool, int, float))


def run_batch(runtime: Any, names: list[str] | None, batch: Tensor) -> list[npt.NDArray[Any]]:
    """Run onnxruntime's session on a batch; ``names`` are those of what is wanted, None for all outputs.

    Raises:
        SampleError: the file does not take it.
    """
    entry = runtime.get_inputs()[0]
    try:
        outputs: list[npt.NDArray[Any]] = runtime.run(names, {entry.name: batch.numpy()})
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        raise SampleError(f"The file takes input {entry.shape}, not {tuple(batch.shape)}: {error}") from error
    return outputs


@dataclass(frozen=True)
class VerifiedFile:
    """A file as it is run.

    Args:
        plain: onnxruntime's session of it.
        inner: a session that gives the spikes of all neuron layers.
        tensors: names of those, by layer.
        facts: what the file says of itself: how the model is called, by batch norm the layer it is folded into, and the
            file's form.
        integer: what an integer file is compared with.
    """

    plain: Any
    inner: Any
    tensors: dict[str, list[str]]
    facts: Mapping[str, Any]
    integer: IntegerReference | None = None

    def run(self, batch: Tensor) -> tuple[list[npt.NDArray[Any]], dict[str, list[npt.NDArray[Any]]]]:
        """Return the outputs, and by layer what its neurons give: of all steps in one, or of each step."""
        names = [name for group in self.tensors.values() for name in group]
        if self.facts.get("form") == "streaming":
            outputs, _ = run_streamed(self.plain, self.facts, batch.numpy(), [])
            _, steps = run_streamed(self.inner, self.facts, batch.numpy(), names)
            by_name = dict(zip(names, steps, strict=True))
            # A layer's calls in the order of the steps, and of each step.
            layers = {
                layer: [np.stack([value for row in zip(*(by_name[n] for n in group), strict=True) for value in row])]
                for layer, group in self.tensors.items()
            }
            return outputs, layers
        flat = iter(run_batch(self.inner, names, batch))
        return run_batch(self.plain, None, batch), {
            layer: [next(flat) for _ in group] for layer, group in self.tensors.items()
        }
