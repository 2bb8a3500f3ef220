"""torch's layers as NIR nodes, and NIR nodes as torch's layers: one function each, in two tables.

A NIR node describes one sample in one time step: no batch axis, no time axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import ModelEditedError, ModelFileError, UnsupportedModelError
from snn_extreme_quant.exchange.metadata import KEY
from snn_extreme_quant.exchange.tracing import FlowNode, known_name
from snn_extreme_quant.layers import IntegerFirst

__all__ = ["layer_from_node", "node_from_layer"]


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().float().numpy().copy()


def _pair(value: Any) -> np.ndarray:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return np.array(pair)


def _weights(layer: Any, at: FlowNode, axes: int) -> Any:
    """Return the weight and bias of a convolution, checked."""
    if layer.padding_mode != "zeros":
        raise UnsupportedModelError(f"Layer {at.name!r} pads with {layer.padding_mode!r}; NIR convolves with zeros.")
    _check_axes(at, axes)
    weight = _dense(_array(layer.weight), layer.groups)
    return weight, np.zeros(len(weight), np.float32) if layer.bias is None else _array(layer.bias)


def _dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """Return a grouped convolution's weight as that of a convolution without groups: zeros outside the blocks.

    nir takes a weight's second axis for the input's channels, so its files with groups do not load, and SpikingJelly
    refuses groups.
    """
    blocks = np.split(weight, groups)
    dense = [np.zeros((len(block), groups, *block.shape[1:]), weight.dtype) for block in blocks]
    for group, block in enumerate(blocks):
        dense[group][:, group] = block
    return np.concatenate(dense).reshape(len(weight), groups * weight.shape[1], *weight.shape[2:])


def _blocks(name: str, weight: np.ndarray, groups: int) -> np.ndarray:
    """Undo :func:`_dense`; raises ModelEditedError if there are other weights than zeros outside the blocks."""
    parts = np.split(weight, groups)
    blocks = np.concatenate([np.split(part, groups, axis=1)[group] for group, part in enumerate(parts)])
    if not np.array_equal(_dense(blocks, groups), weight):
        raise ModelEditedError(
            f"The weight of node {name!r} connects channels that were of different groups: it was changed after"
            f" to_nir(). Delete node.metadata[{KEY!r}] to load it as a convolution without groups."
        )
    return blocks


def _check_axes(at: FlowNode, axes: int) -> None:
    if len(at.input_shape) != axes:
        raise UnsupportedModelError(
            f"Layer {at.name!r} ({type(at.module).__name__}) gets input {at.input_shape}; NIR's node takes {axes} axes"
            " with batch (and time, in a multi-step model)."
        )


def _linear(nir: Any, layer: Any, at: FlowNode, lead: int) -> Any:
    _check_axes(at, lead + 1)
    if layer.bias is None:
        return nir.Linear(weight=_array(layer.weight))
    return nir.Affine(weight=_array(layer.weight), bias=_array(layer.bias))


def _conv1d(nir: Any, layer: Any, at: FlowNode, lead: int) -> Any:
    weight, bias = _weights(layer, at, lead + 2)
    padding = layer.padding if isinstance(layer.padding, str) else layer.padding[0]
    return nir.Conv1d(
        input_shape=None,
        weight=weight,
        stride=layer.stride[0],
        padding=padding,
        dilation=layer.dilation[0],
        groups=1,
        bias=bias,
    )


def _conv2d(nir: Any, layer: Any, at: FlowNode, lead: int) -> Any:
    weight, bias = _weights(layer, at, lead + 3)
    if weight.shape[2] != weight.shape[3] and layer.padding != "same":
        raise UnsupportedModelError(
            f"Layer {at.name!r} has a kernel of {weight.shape[2]}x{weight.shape[3]}: nir computes output shapes as if"
            " kernels were square, and its files with others do not load. Use a square kernel or padding='same'."
        )
    return nir.Conv2d(
        input_shape=None,
        weight=weight,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=1,
        bias=bias,
    )


def _avg_pool2d(nir: Any, layer: Any, at: FlowNode, lead: int) -> Any:
    _check_axes(at, lead + 3)
    padded = bool(_pair(layer.padding).any())
    if layer.ceil_mode or (padded and not layer.count_include_pad) or layer.divisor_override not in (None, 1):
        raise UnsupportedModelError(
            f"Layer {at.name!r}: NIR pools with ceil_mode=False, count_include_pad=True and no divisor (or 1) alone."
        )
    cls = nir.AvgPool2d if layer.divisor_override is None else nir.SumPool2d
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return cls(kernel_size=_pair(layer.kernel_size), stride=_pair(stride), padding=_pair(layer.padding))


def _flatten(nir: Any, layer: Any, at: FlowNode, lead: int) -> Any:
    axes = len(at.input_shape)
    # SpikingJelly's multi-step Flatten counts its axes without time.
    before = 1 if getattr(layer, "step_mode", "s") == "m" else lead
    axes -= lead - before
    start, end = (dim if dim >= 0 else dim + axes for dim in (layer.start_dim, layer.end_dim))
    if start < before:
        raise UnsupportedModelError(f"Layer {at.name!r} flattens the batch or time axis; use Flatten(1).")
    end = -1 if end == axes - 1 else end - before
    return nir.Flatten(input_type={"input": None}, start_dim=start - before, end_dim=end)


_WRITERS: dict[str, Callable[[Any, Any, FlowNode, int], Any]] = {
    "Linear": _linear,
    "Conv1d": _conv1d,
    "Conv2d": _conv2d,
    "AvgPool2d": _avg_pool2d,
    "Flatten": _flatten,
}


def node_from_layer(nir: Any, at: FlowNode, lead: int) -> Any:
    """Return the NIR node of a layer; a quantised one is baked to codes times scale.

    Args:
        nir: the module.
        at: the layer and its place in the model.
        lead: axes before those of one sample: batch, and time in a multi-step model.

    Raises:
        UnsupportedModelError: NIR has no such node, or not with these options.
    """
    layer = at.module.to_float() if isinstance(at.module, IntegerFirst) else at.module
    cls = type(layer)
    writer = _WRITERS.get(known_name(layer) or "")
    if writer is None:
        raise UnsupportedModelError(
            f"Layer {at.name!r}: NIR has no node for {cls.__module__}.{cls.__name__}; it has {', '.join(_WRITERS)} and"
            " neurons (batch norm has no node in NIR; export_onnx folds it)."
        )
    return writer(nir, layer, at, lead)


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32))


def _plain(value: Any) -> Any:
    """Return what HDF5 gave as the int, tuple or str that torch's constructors take."""
    if isinstance(value, (str, int)):
        return value
    array = np.asarray(value)
    return int(array) if array.ndim == 0 else tuple(int(v) for v in array)


def _parameters(layer: nn.Module, weight: Any, bias: Any) -> nn.Module:
    layer.register_parameter("weight", nn.Parameter(_tensor(weight)))
    layer.register_parameter("bias", None if bias is None else nn.Parameter(_tensor(bias)))
    return layer


def _to_linear(node: Any, bias: bool) -> nn.Module:
    rows, columns = node.weight.shape[-2:]
    if len(node.weight.shape) != 2:
        raise ModelFileError(f"a weight of {len(node.weight.shape)} axes; torch's Linear has 2")
    return _parameters(nn.Linear(columns, rows, bias, device="meta"), node.weight, node.bias if bias else None)


def _to_conv(node: Any, bias: bool, name: str, groups: int) -> nn.Module:
    weight = np.asarray(node.weight)
    cls: Any = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
    stride, padding, dilation, own = (
        _plain(getattr(node, field)) for field in ("stride", "padding", "dilation", "groups")
    )
    weight, groups = (weight, own) if groups == 1 else (_blocks(name, weight, groups), groups)
    layer = cls(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride,
        padding,
        dilation,
        groups,
        bias,
        device="meta",
    )
    return _parameters(layer, weight, node.bias if bias else None)


def _to_pool(node: Any, divisor: int | None) -> nn.Module:
    kernel, stride, padding = (_plain(getattr(node, name)) for name in ("kernel_size", "stride", "padding"))
    return nn.AvgPool2d(kernel, stride, padding, divisor_override=divisor)


def _to_flatten(node: Any) -> nn.Module:
    start, end = _plain(node.start_dim), _plain(node.end_dim)
    return nn.Flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)


_READERS: dict[str, Callable[[Any, bool, str, int], nn.Module]] = {
    "Linear": lambda node, *_: _to_linear(node, bias=False),
    "Affine": lambda node, *_: _to_linear(node, bias=True),
    "Conv1d": _to_conv,
    "Conv2d": _to_conv,
    "AvgPool2d": lambda node, *_: _to_pool(node, None),
    "SumPool2d": lambda node, *_: _to_pool(node, 1),
    "Flatten": lambda node, *_: _to_flatten(node),
}


def layer_from_node(name: str, node: Any, bias: bool = True, groups: int = 1) -> nn.Module:
    """Return the float layer of a NIR node.

    Args:
        name: the node's, for errors.
        node: a NIR node that is no neuron.
        bias: whether the layer has one; NIR's convolutions always do, if only of zeros.
        groups: of the convolution that the node was made from.

    Raises:
        UnsupportedModelError: there is no layer for the node.
        ModelFileError: its fields do not fit each other.
        ModelEditedError: its weight is not one of so many groups any more.
    """
    kind = type(node).__name__
    reader = _READERS.get(kind)
    if reader is None:
        raise UnsupportedModelError(
            f"Node {name!r} is a NIR {kind}, for which there is no layer; there are {', '.join(_READERS)} and neurons."
        )
    try:
        return reader(node, bias, name, groups)
    except ModelEditedError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ModelFileError(f"Node {name!r} ({kind}) does not make a layer: {error}.") from error
