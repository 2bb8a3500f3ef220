"""Running exported models on onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
from onnx.external_data_helper import uses_external_data

from snn_extreme_quant.deploy.runtime.native import native_library
from snn_extreme_quant.deploy.runtime.native_choice import choose_kernels
from snn_extreme_quant.errors import ConfigError, ModelFileError, NativeLibraryError
from snn_extreme_quant.exported.operators import DOMAIN, is_language, is_language_integer
from snn_extreme_quant.exported.packed import damaged_weights

__all__ = ["Opened", "open_session", "session"]

_CPU = ["CPUExecutionProvider"]
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Opened:
    """A session, and who computes in it.

    Args:
        runtime: onnxruntime's session.
        native: whether native kernels compute at least one node.
        detail: which kernels compute how many nodes, or why none do.
    """

    runtime: Any
    native: bool
    detail: str

    @property
    def name(self) -> str:
        """What computes: onnxruntime's version, and whether with native kernels."""
        return f"onnxruntime {onnxruntime.__version__}{' with native kernels' if self.native else ''}"


def session(
    model: str | Path | onnx.ModelProto,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    native: bool | Literal["auto"] = "auto",
) -> Any:
    """Open an exported model and return an ordinary ``onnxruntime.InferenceSession``.

    Args:
        model: a file, or a model in memory.
        threads: threads within an operator, from 1, or 0 for one a core; default onnxruntime's.
        providers: execution providers; default the CPU.
        native: whether our native kernels run in place of functions that the file carries, where they are faster. Both
            give the same bits. ``"auto"`` uses them on the CPU where they can be had
            (:func:`~snn_extreme_quant.deploy.native_status` says whether, and why not); the first use compiles them. A
            library that onnxruntime refuses is left out with a ``RuntimeWarning``.

    Raises:
        ModelFileError: onnxruntime cannot load the model, or packed weights in it hold what is no code.
        NativeLibraryError: ``native=True``, and the kernels cannot be had.
        ConfigError: ``native`` is something else, or True for other providers than the CPU; ``threads`` is no number
            of threads; a provider is not available here.

    Example:
        >>> session("net.onnx").run(None, {"input": spikes})  # doctest: +SKIP
    """
    return open_session(model, threads=threads, providers=providers, native=native).runtime


def open_session(
    model: str | Path | onnx.ModelProto,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    native: bool | Literal["auto"] = "auto",
    name: str = "",
) -> Opened:
    """Do what :func:`session` does, and say whether native kernels were taken.

    Errors call the model ``name``: the file that a model in memory comes from.
    """
    name = name or ("The model" if isinstance(model, onnx.ModelProto) else str(model))
    chosen = _checked_providers(providers)
    _check_threads(threads)
    wanted = _wants_native(native, chosen)
    try:
        proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)
        _check_weights(proto, name, "" if isinstance(model, onnx.ModelProto) else Path(model).parent)
        kernels = _Kernels(_options(threads), model if isinstance(model, onnx.ModelProto) else str(model))
        if wanted:
            kernels = _with_kernels(kernels, proto, threads, required=native is True)
        else:
            kernels.detail = "they were not asked for" if not native else "they are for the CPU"
        # onnxruntime compares each buffer of a shape that it does not know with all others, which takes 18 layers of a
        # language model's functions about 20 seconds: it allocates them as they come instead.
        kernels.options.enable_mem_reuse = not any(
            is_language(function.name) or is_language_integer(function.name) for function in proto.functions
        )
        source = kernels.model if isinstance(kernels.model, str) else kernels.model.SerializeToString()
        del proto  # room for what onnxruntime makes of it
        kernels.model = ""
        runtime = onnxruntime.InferenceSession(source, kernels.options, providers=chosen)
        if kernels.native and hasattr(runtime, "_model_bytes"):
            # Kept to start anew on another provider, of which there is none: as large as all weights.
            runtime._model_bytes = None
    except (NativeLibraryError, ModelFileError):
        raise
    except Exception as error:  # onnxruntime raises a class of its own for every failure
        raise ModelFileError(f"{name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
    return Opened(runtime, kernels.native, kernels.detail)


def _check_weights(proto: onnx.ModelProto, name: str, folder: str | Path) -> None:
    """Refuse packed bytes that hold no codes: the functions in a file would compute something with them."""
    damaged = next(damaged_weights(proto, folder), None)
    if damaged is not None:
        raise ModelFileError(
            f"{name} is damaged: the packed weights of layer {damaged!r} hold what is no code, or are not as"
            " many as their shape says. Export the model again."
        )


def _checked_providers(providers: Any) -> list[Any]:
    """Return the execution providers; onnxruntime itself would run on the CPU where one of them is missing."""
    if providers is None:
        return list(_CPU)
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise ConfigError(f"session(providers={providers!r}): give a list of names, such as {_CPU}.")
    available = onnxruntime.get_available_providers()
    for provider in providers:
        name = provider[0] if isinstance(provider, tuple) and provider else provider  # with options, a pair
        if name not in available:
            raise ConfigError(
                f"session(providers=...): {name!r} is not available; this onnxruntime has {', '.join(available)}."
            )
    return list(providers)


def _check_threads(threads: object) -> None:
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= _MOST_THREADS:
        raise ConfigError(f"session(threads={threads!r}): use a whole number from 0 to {_MOST_THREADS}, or None.")


def _wants_native(native: bool | str, providers: list[str]) -> bool:
    if not isinstance(native, bool) and native != "auto":
        raise ConfigError(f"session(native={native!r}): use True, False or 'auto'.")
    if native is True and providers != _CPU:
        raise ConfigError(
            f"session(native=True): the native kernels are for the CPU, not for {', '.join(map(str, providers))}."
        )
    return bool(native) and providers == _CPU


def _options(threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


@dataclass
class _Kernels:
    """How a model is opened: with which options, as what, and what is said of native kernels."""

    options: Any
    model: str | onnx.ModelProto
    native: bool = False
    detail: str = ""


def _with_kernels(plain: _Kernels, proto: onnx.ModelProto, threads: int | None, *, required: bool) -> _Kernels:
    """Register the native kernels; where they need not be, failing is no error."""
    try:
        library = native_library()
    except NativeLibraryError as error:
        if required:
            raise
        plain.detail = str(error)
        return plain
    choice = choose_kernels(proto, library.instruction_set)
    total = sum(node.domain == DOMAIN for node in proto.graph.node)
    opened, names = proto, set(choice.operators)
    from_file = not isinstance(plain.model, onnx.ModelProto)
    beside = from_file and _has_external_data(proto)
    if not beside:
        opened, names = choice.applied(proto, own=from_file, wide=library.instruction_set == "avx512")
    # Where no node was fused or renamed, onnxruntime reads the file itself: handing it over would be one copy more.
    unchanged = names == choice.operators
    try:
        found = set(library.register(plain.options, names))
    except NativeLibraryError as error:
        if required:
            raise
        warnings.warn(f"{error} The functions in the file run instead.", RuntimeWarning, stacklevel=4)
        return _Kernels(_options(threads), plain.model, detail=str(error))
    # A fused node stands for several of the file's, so those are counted that are left.
    left = sum(node.domain == DOMAIN and node.op_type not in found for node in opened.graph.node)
    detail = "no operator of the file has a kernel that is faster than its function"
    if found:
        detail = f"{library.instruction_set} kernels compute {total - left} of {total} nodes of {DOMAIN}"
    return _Kernels(plain.options, plain.model if unchanged else opened, bool(found), detail)


def _has_external_data(model: onnx.ModelProto) -> bool:
    """Whether a part of the weights lies in files beside the model, which onnxruntime finds by the model's path."""
    return any(uses_external_data(tensor) for tensor in model.graph.initializer)
