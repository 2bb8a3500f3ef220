"""Running exported models on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from snn_extreme_quant.errors import ModelFileError

__all__ = ["session"]


def session(
    model: str | Path | onnx.ModelProto, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> Any:
    """Open an exported model and return an ordinary ``onnxruntime.InferenceSession``.

    Args:
        model: a file, or a model in memory.
        threads: threads within an operator; default onnxruntime's.
        providers: execution providers; default the CPU.

    Raises:
        ModelFileError: onnxruntime cannot load the model.

    Example:
        >>> session("net.onnx").run(None, {"input": spikes})  # doctest: +SKIP
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=list(providers or ["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        name = "The model" if isinstance(model, onnx.ModelProto) else str(model)
        raise ModelFileError(f"{name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
