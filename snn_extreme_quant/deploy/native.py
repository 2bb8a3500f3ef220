"""Finds the native kernels, which are optional."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from snn_extreme_quant.errors import NativeLibraryError

from .functions import DOMAIN, NeuronFunction, is_integer_neuron, is_neuron, is_synchronous

__all__ = ["NativeStatus", "faster_natively", "native_library", "native_status"]

#: Products of spikes with codes of one or two bits: the kernels' time goes with the bits of codes and inputs.
_SPIKE_PRODUCTS = frozenset(
    packing + product for packing in ("Binary", "Ternary") for product in ("LinearInteger", "LinearIntegerSigned")
)
#: The same of integers, whose inputs say nothing of whether they are spikes.
_INTEGER_PRODUCTS = frozenset(
    packing + product for packing in ("Binary", "Ternary") for product in ("MatMulInteger", "MatMulIntegerSigned")
)
#: What carries spikes on as they are.
_CARRIES = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)

#: Looked up by name: the core depends on no plugin.
_PACKAGE = "snn_extreme_quant_native"


@dataclass(frozen=True)
class NativeStatus:
    """Whether the native kernels can be used here.

    Args:
        available: whether they can.
        reason: why not, and what to do; empty if they can.
        path: the library's file.
        instruction_set: what its kernels use: ``"avx512"``, ``"avx2"`` or ``"portable"``.
    """

    available: bool
    reason: str = ""
    path: Path | None = None
    instruction_set: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        return f"native kernels ({self.instruction_set}): {self.path}" if self.available else self.reason


def native_library() -> Any:
    """Return the library of native kernels, compiling it if this is the first time.

    Raises:
        NativeLibraryError: it cannot be had.
    """
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        raise NativeLibraryError(
            f"The native kernels are not available: the package {_PACKAGE} is not installed. Install snn-extreme-quant"
            " with pip, which brings it, or run with native=False."
        ) from error
    return package.load()


def faster_natively(model: onnx.ModelProto) -> set[str]:
    """Return the operators of a model whose native kernels are faster than the functions in the file.

    Neurons and embeddings always are. Products are where their inputs are spikes: counts and fixed-point numbers cost a
    kernel one pass for each bit, and onnxruntime's own integer product one in all. An operator is taken or left for
    all its nodes.
    """
    functions = {function.name for function in model.functions if function.domain == DOMAIN}
    fixed_point = {name for name in functions if is_integer_neuron(name)}
    neurons = {name for name in functions if is_neuron(name)} - fixed_point
    chosen = neurons | fixed_point
    chosen |= {name for name in functions if name.endswith("Embedding") or is_synchronous(name)}
    chosen |= _of_spikes_alone(model, functions & _INTEGER_PRODUCTS)
    if any(NeuronFunction.from_name(name).spec.fire == "count" for name in neurons):
        return chosen
    counted = {
        node.op_type
        for node in model.graph.node
        for attribute in node.attribute
        if node.domain == DOMAIN and attribute.name == "grid" and attribute.f != 1.0
    }
    return chosen | ((functions & _SPIKE_PRODUCTS) - counted)


def _of_spikes_alone(model: onnx.ModelProto, products: set[str]) -> set[str]:
    """Which of these operators read nothing but spikes of fixed-point neurons, in all their nodes."""
    spikes: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.domain == DOMAIN and is_integer_neuron(node.op_type) and "_count" not in node.op_type:
            spikes.add(node.output[0])
        elif not node.domain and node.op_type in _CARRIES:
            joined = node.input if node.op_type == "Concat" else node.input[:1]
            if spikes.issuperset(joined):
                spikes.update(node.output)
    return {
        product
        for product in products
        if all(node.input[0] in spikes for node in model.graph.node if node.op_type == product)
    }


def native_status() -> NativeStatus:
    """Say whether the native kernels can be used here, and if not why; compiles them if this is the first time.

    Example:
        >>> print(native_status())  # doctest: +SKIP
        native kernels (avx512): ~/.cache/snn_extreme_quant/sxq_native-0123456789abcdef.so
    """
    try:
        library = native_library()
        library.register(onnxruntime.SessionOptions(), sorted(library.operators)[:1])
    except NativeLibraryError as error:
        return NativeStatus(False, str(error))
    return NativeStatus(True, "", library.path, library.instruction_set)
