"""Cases for other runtimes: exported files with inputs, and what each output has to be, bit for bit.

A folder of cases holds the files and ``cases.json``: a list of ``{"name", "file", "spikes", "inputs", "expected"}``,
tensors as ``{"type", "dims", "data"}``, data in base64, little end first. A program for a runtime reads it and writes
``[{"outputs": ...} | {"error": ...}]``; :func:`compare` judges them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, is_integer_layer, is_neuron, is_synchronous
from snn_extreme_quant.exported.inspection import inspect_file

Array = npt.NDArray[Any]
#: What a model takes: a tensor, or tensors by the names of the file's inputs.
Sample = Tensor | Mapping[str, Tensor]

#: Names of tensor types, the same in onnxruntime's JavaScript and here.
TYPES = {
    "float32": np.float32, "float64": np.float64, "int64": np.int64, "uint64": np.uint64, "int32": np.int32,
    "uint32": np.uint32, "int16": np.int16, "uint16": np.uint16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip


def encode(array: Array) -> dict[str, Any]:
    """Write an array as JSON."""
    kind = next(name for name, dtype in TYPES.items() if array.dtype == dtype)
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return {"type": kind, "dims": list(array.shape), "data": base64.b64encode(little.tobytes()).decode()}


def decode(tensor: Mapping[str, Any]) -> Array:
    """Read an array from JSON."""
    dtype = np.dtype(TYPES[tensor["type"]]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(tensor["data"]), dtype).reshape(tensor["dims"])


@dataclass
class Cases:
    """A folder that is being filled with cases."""

    folder: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, model: nn.Module, sample: Sample, inputs: Sample, **options: Any) -> sxq.ExportReport:
        """Export a model, verify it, and keep what it gives for ``inputs``: its outputs, and all its spikes.

        Of a streaming file each step is a case, with the states that Python has before it; of an integer file the sums
        of all layers are kept too. Inputs of a counts file are spike trains. Several inputs are tokens, by name: the
        outputs are then logits, decoded in floats that a runtime may add in another order, and no case.

        Raises:
            AssertionError: the file is not exact, or differs from torch already in Python.
        """
        path = self.folder / f"{name}.onnx"
        report = sxq.export_onnx(model, sample, path, **options)
        assert report.exact, f"{name} is not exact on any runtime:\n{report}"
        tokens = isinstance(inputs, Mapping)
        verified = sxq.verify(model, path, [inputs] if tokens else inputs)
        assert verified.ok, str(verified)
        assert tokens or verified.output_difference == 0, str(verified)
        assert verified.firing_rate > 0, f"{name}: nothing fires"
        form = options.get("form", "sequence")
        exposed = {"spikes": expose_spikes(path)}
        if options.get("integer"):
            exposed["integers"] = expose_integers(path)
        for moment, feeds in (
            _steps(path, inputs.numpy()) if form == "streaming" else [("", _feeds(path, inputs, form))]
        ):
            if not tokens:
                self.add_file(name + moment, path, feeds)
            for what, copy in exposed.items():
                self.add_file(f"{name}{moment}, {what}", copy, feeds, spikes=what == "spikes")
        return report

    def add_file(self, name: str, path: Path, inputs: Mapping[str, Array], *, spikes: bool = False) -> dict[str, Array]:
        """Keep what a file gives in Python, by its functions."""
        runtime = sxq.deploy.session(path, native=False)
        outputs = dict(zip([o.name for o in runtime.get_outputs()], runtime.run(None, dict(inputs)), strict=True))
        self.entries.append(
            {
                "name": name,
                "file": path.name,
                "spikes": spikes,
                "inputs": {key: encode(value) for key, value in inputs.items()},
                "expected": {key: encode(value) for key, value in outputs.items()},
            }
        )
        return outputs

    def write(self) -> None:
        """Write ``cases.json``."""
        (self.folder / "cases.json").write_text(json.dumps(self.entries), encoding="utf-8")


def _feeds(path: Path, inputs: Sample, form: str) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        return {name: value.numpy() for name, value in inputs.items()}
    array = inputs.numpy()
    if form == "counts":  # the file takes the rates of the train that the model was verified on
        array = array.mean(0, dtype=np.float32)
    return {onnx.load(path).graph.input[0].name: array}


def _steps(path: Path, inputs: Array) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield what a streaming file is given in each step, as Python's states go on."""
    stream = sxq.deploy.Stream(path, native=False)
    report = inspect_file(path)
    axis = report.facts["time_axis"]
    entry = next(iter(report.inputs))
    steps = np.moveaxis(inputs, axis, 0) if axis is not None else [inputs] * report.facts["steps"]
    samples = steps[0].shape[report.inputs[entry].index("B")]
    state: dict[str, Array] = {
        s.name: np.full([samples if n == "B" else int(n) for n in s.shape], s.initial, s.dtype) for s in report.states
    }
    for index, x in enumerate(steps):
        step = np.ascontiguousarray(x)
        yield f", step {index}", {entry: step, **state}
        stream.step(step)
        state = stream.state


def expose_spikes(path: Path) -> Path:
    """Write a copy of a file whose outputs are the spikes of all neuron layers, and return its path."""

    def emits(operator: str) -> bool:
        return is_neuron(operator) or is_synchronous(operator) or operator.startswith(("IntCounts", "IntSpikes"))

    return _exposed(path, "spikes", emits)


def expose_integers(path: Path) -> Path:
    """Write a copy of an integer file whose outputs are the sums of all layers, and return its path."""
    return _exposed(path, "integers", is_integer_layer)


def _exposed(path: Path, what: str, chosen: Callable[[str], bool]) -> Path:
    """Write a copy of a file whose outputs are what the chosen operators give first."""
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.domain == DOMAIN and chosen(node.op_type)]
    assert names, f"{path} has no {what}"
    del model.graph.output[:]
    # Without a type: the runtime finds it.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    copy = path.with_suffix(f".{what}.onnx")
    onnx.save(model, copy)
    return copy


@dataclass
class Comparison:
    """What a runtime gave for a folder of cases.

    Args:
        files: how many files ran.
        values: values of their outputs, spikes among them.
        spikes: values of the outputs of neuron layers.
        different: how many values differ.
        failed: what did not run or has another type, shape or name, and the first difference of each file.
    """

    files: int = 0
    values: int = 0
    spikes: int = 0
    different: int = 0
    failed: list[str] = field(default_factory=list)


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(array.shape)


def compare(entries: Sequence[Mapping[str, Any]], results: Iterable[Mapping[str, Any]]) -> Comparison:
    """Compare every bit of every output with what is expected."""
    found = Comparison()
    for entry, result in zip(entries, results, strict=True):
        if "error" in result:
            found.failed.append(f"{entry['name']}: {result['error']}"[:300])
            continue
        found.files += 1
        if set(result["outputs"]) != set(entry["expected"]):
            found.failed.append(f"{entry['name']}: outputs {sorted(result['outputs'])}")
            continue
        for name, tensor in entry["expected"].items():
            expected, given = decode(tensor), decode(result["outputs"][name])
            if (given.dtype, given.shape) != (expected.dtype, expected.shape):
                found.failed.append(f"{entry['name']}: {name} is {given.dtype} {given.shape}, not {expected.shape}")
                continue
            found.values += expected.size
            found.spikes += expected.size if entry["spikes"] else 0
            wrong = _bits(expected) != _bits(given)
            found.different += int(wrong.sum())
            if wrong.any():
                where = tuple(int(i) for i in np.argwhere(wrong)[0])
                found.failed.append(f"{entry['name']}: {name}{where} is {given[where]}, not {expected[where]}")
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """Read a folder's ``cases.json``."""
    entries: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return entries
