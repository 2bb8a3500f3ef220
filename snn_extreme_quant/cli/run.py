"""``sxq run``: a file on an array, or on one for each of its inputs."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import OutputPathError

from .arrays import read_inputs
from .output import AsJson, print_json, print_table
from .streams import note, quiet_onnxruntime, to_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    from snn_extreme_quant.deploy import FileRun

__all__ = ["run"]

Native = StrEnum("Native", ["auto", "yes", "no"])
_NATIVE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}


def run(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported file.")],
    arrays: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARRAYS]...", help="What it takes: FILE.npy, FILE.npz by name, NAME=FILE.npy.", show_default=False
        ),
    ] = None,
    input: Annotated[Path | None, typer.Option(metavar="FILE", help="The same as an option.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what it gives, as .npz.")] = None,
    spikes: Annotated[bool, typer.Option("--spikes", help="Give the spikes of every neuron layer too.")] = False,
    native: Annotated[Native, typer.Option(help="Whether native kernels run.")] = Native.auto,
    allow_edited: Annotated[bool, typer.Option("--allow-edited", help="Run a file that was changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a file on onnxruntime, and show or write what it gives."""
    from snn_extreme_quant.output_files import check_writable

    if output is not None:
        if output.suffix != ".npz":
            raise OutputPathError(f"--output {output}: several arrays go into a .npz file; name it so.")
        check_writable(output)
    sources = [*(arrays or ()), *([str(input)] if input is not None else ())]
    if not sources:
        context.fail(f"Say what {file} is run on: FILE.npy, or NAME=FILE.npy for each input.")
    given = read_inputs(sources)
    with to_stderr():
        from snn_extreme_quant.deploy import run_file

        quiet_onnxruntime()
        result = run_file(file, given, spikes=spikes, native=_NATIVE[native.value], allow_edited=allow_edited)
    if native is Native.auto:
        note("native kernels", result.native_detail if result.native else f"not used: {result.native_detail}")
    if output is not None:
        _write(result, output)
    layers = [
        {"name": name, "shape": value.shape, "type": value.dtype.name, "firing_rate": result.firing_rate(name)}
        for name, value in result.spikes.items()
    ]
    outputs = [_summary(name, value) for name, value in result.outputs.items()]
    if as_json:
        facts = {
            "path": file, "runtime": result.runtime, "native": result.native, "native_detail": result.native_detail,
            "counted_steps": result.counted_steps, "outputs": outputs,
        }  # fmt: skip
        print_json({**facts, "layers": layers} if spikes else facts)
        return
    typer.echo(f"{file} on {result.runtime}")
    print_table(("output", *list(outputs[0])[1:]), (list(entry.values()) for entry in outputs))
    if spikes:
        rows = ((e["name"], e["shape"], e["type"], f"{e['firing_rate']:.4f}") for e in layers)
        title = "" if result.counted_steps is None else f"numbers of spikes in {result.counted_steps} steps"
        print_table(("layer", "shape", "type", "firing rate"), rows, title)


def _summary(name: str, value: npt.NDArray[Any]) -> dict[str, Any]:
    import numpy as np

    known = {"name": name, "shape": value.shape, "type": value.dtype.name}
    with np.errstate(all="ignore"):  # a mean of infinite values is NaN, and shown as that
        numbers = {key: float(getattr(value, key)()) if value.size else math.nan for key in ("min", "max", "mean")}
    return {**known, **numbers}


def _write(result: FileRun, path: Path) -> None:
    import io

    import numpy as np

    from snn_extreme_quant.output_files import write_whole

    data = io.BytesIO()
    arrays: dict[str, Any] = {**result.outputs, **{f"spikes.{name}": value for name, value in result.spikes.items()}}
    np.savez(data, **arrays)
    write_whole(path, data.getvalue())
