r"""Batch normalisation as it is deployed: folded into the layer before it, or as one product and one sum a channel.

In evaluation a batch norm is affine, :math:`y = x g + h` with :math:`g = w / \sqrt{\sigma^2 + \epsilon}` and
:math:`h = b - \mu g`. Behind a quantised layer :math:`x = (s\,\gamma) + b_0`, with integer sums :math:`s`, it folds
into the scale and the bias:

.. math:: y = s\,(\gamma g) + (h + b_0 g)

The constants are computed in float64 and rounded once. The folded layer is as exact as any other: integer sums, one
product, one sum. Torch's own batch norm rounds differently, in the last bit, so a spike may differ between the model
as it is trained and as it is folded; :func:`~snn_extreme_quant.verify` runs both and tells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from snn_extreme_quant.deploy.recording.graphs import PACKED, ancestors
from snn_extreme_quant.errors import UnsupportedModelError
from snn_extreme_quant.frameworks import neurons_of
from snn_extreme_quant.layers import Embedding, IntegerFirst

__all__ = ["Fold", "deployed", "sole_layers", "unfolded", "watching"]

aten = torch.ops.aten
_RESHAPES = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.squeeze.dim, aten.unsqueeze.default, aten.contiguous.default,
}  # fmt: skip

_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Fold:
    """How one batch norm is deployed.

    Args:
        factor: :math:`g`, one for each channel, in float64.
        shift: :math:`h`, the same.
        layer: the quantised layer that it is folded into; "" if it stays a product and a sum.
    """

    factor: Tensor
    shift: Tensor
    layer: str = ""


def _affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    factor = (var.detach().double() + eps).rsqrt()
    factor = factor if weight is None else factor * weight.detach().double()
    shift = -mean.detach().double() * factor
    shift = shift if bias is None else shift + bias.detach().double()
    return factor, shift


class _Intercept(TorchFunctionMode):
    """Hands calls of ``F.batch_norm`` made inside a batch norm's ``forward`` to ``handler``."""

    def __init__(self, handler: Callable[[str, Tensor, tuple[Any, ...]], Tensor | None]) -> None:
        super().__init__()
        self.handler = handler
        self.inside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and self.inside:
            names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
            defaults = (None, None, None, None, False, 0.1, 1e-5)
            given = dict(zip(names, args[1:], strict=False)) | {k: v for k, v in kwargs.items() if k != "input"}
            values = tuple(given.get(name, default) for name, default in zip(names, defaults, strict=True))
            result = self.handler(self.inside[-1], args[0] if args else kwargs["input"], values)
            if result is not None:
                return result
        return func(*args, **kwargs)


@contextlib.contextmanager
def _inside_batch_norms(model: nn.Module, mode: _Intercept) -> Iterator[None]:
    """Tell the mode whose ``forward`` is running."""

    def wrapped(name: str, module: nn.Module) -> Callable[..., Any]:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            mode.inside.append(name)
            try:
                return own(*args, **kwargs)
            finally:
                mode.inside.pop()

        return forward

    changed = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and "forward" not in vars(m)]
    for name, module in changed:
        module.__dict__["forward"] = wrapped(name, module)
    try:
        with mode:
            yield
    finally:
        for _, module in changed:
            del module.__dict__["forward"]


@contextlib.contextmanager
def watching(model: nn.Module) -> Iterator[dict[str, Fold]]:
    """Watch a run of the model in evaluation mode; afterwards the dictionary holds each batch norm's fold, by name.

    A batch norm is folded into a quantised layer if all its inputs are that layer's outputs, and all of those go into
    it; whether they go elsewhere too, the recorded graph tells (:func:`sole_layers`). One that is called with changing
    constants is left out.

    Raises:
        UnsupportedModelError: in the context, a batch norm normalises by the batch in evaluation too.
    """
    folds: dict[str, Fold] = {}
    producers: dict[int, str] = {}
    kept: list[Tensor] = []  # an id is that of one tensor only while the tensor lives
    sources: dict[str, set[str]] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    refused: set[str] = set()
    made: dict[str, int] = {}
    taken: dict[str, int] = {}
    inside = tuple(f"{neuron.name}." for neuron in neurons_of(model))
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, IntegerFirst) and not isinstance(m, Embedding) and not name.startswith(inside)
    }

    def handler(name: str, x: Tensor, values: tuple[Any, ...]) -> None:
        mean, var, weight, bias, training, _, eps = values
        if training or mean is None or var is None:
            raise UnsupportedModelError(
                f"Batch norm {name!r} normalises by the batch in evaluation too, so what a sample gives depends on the"
                " others; build it with track_running_stats=True and let eval() reach it."
            )
        constants = _affine(mean, var, weight, bias, eps)
        if name in seen and not all(torch.equal(a, b) for a, b in zip(seen[name], constants, strict=True)):
            refused.add(name)
        seen[name] = constants
        # The channels of a linear layer are its last axis, those of a batch norm the second.
        if x.dim() != 2 and any(source and layers[source].weight.dim() == 2 for source in sources.get(name, ())):
            sources[name].add("")

    def produced(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            producers[id(output)] = name
            made[name] = made.get(name, 0) + 1
            kept.append(output)

        return hook

    def consumed(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any) -> None:
            source = producers.get(id(args[0]), "") if args else ""
            sources.setdefault(name, set()).add(source)
            taken[source] = taken.get(source, 0) + 1

        return hook

    handles = [m.register_forward_hook(produced(name)) for name, m in layers.items()]
    handles += [
        m.register_forward_pre_hook(consumed(name)) for name, m in model.named_modules() if isinstance(m, _BatchNorm)
    ]
    try:
        with _inside_batch_norms(model, _Intercept(handler)):
            yield folds
    finally:
        for handle in handles:
            handle.remove()
    for name, (factor, shift) in seen.items():
        if name in refused:
            continue
        source = next(iter(sources[name])) if len(sources.get(name, ())) == 1 else ""
        shared = sum(source in others for others in sources.values()) > 1
        alone = bool(source) and not shared and made[source] == taken[source]
        folds[name] = Fold(factor, shift, source if alone else "")


def sole_layers(graph: fx.Graph) -> set[str]:
    """Return the names of quantised layers whose outputs go into one product each, and nowhere else.

    Args:
        graph: recorded with the batch norms as products and sums of their own.
    """
    alone: dict[str, bool] = {}
    for node in graph.nodes:
        if node.target in PACKED:
            name = str(node.args[-1])
            alone[name] = alone.get(name, True) and _ends_in_product(node, name)
    return {name for name, sole in alone.items() if sole}


def _ends_in_product(node: fx.Node, layer: str) -> bool:
    """Follow a layer's output over its bias and changes of shape to the one product that it goes into."""
    while True:
        users = [user for user in node.users if user.target is not aten.sym_size.int]
        if len(users) != 1:
            return False
        (user,) = users
        others = [n for n in user.all_input_nodes if n is not node]
        if user.target is aten.mul.Tensor:
            return bool(others) and all(_is_constant(n) for n in others)
        bias_or_group = user.target is aten.add.Tensor and all(_is_constant(n) or _is_of(n, layer) for n in others)
        if not bias_or_group and user.target not in _RESHAPES:
            return False
        node = user


def _is_constant(node: fx.Node) -> bool:
    return all(n.op != "placeholder" for n in ancestors(node))


def _is_of(node: fx.Node, layer: str) -> bool:
    """Whether a node is the product of a layer with one group of its inputs, or a sum of them."""
    if node.target is aten.add.Tensor:
        return all(_is_of(n, layer) for n in node.all_input_nodes)
    return node.target in PACKED and node.args[-1] == layer


def unfolded(folds: Mapping[str, Fold]) -> dict[str, Fold]:
    """Return the same batch norms, each as a product and a sum of its own."""
    return {name: Fold(fold.factor, fold.shift) for name, fold in folds.items()}


@contextlib.contextmanager
def deployed(model: nn.Module, folds: Mapping[str, Fold]) -> Iterator[None]:
    """Let the model compute its batch norms as they are deployed, for as long as the context lasts."""
    folded = {name: fold for name, fold in folds.items() if fold.layer}
    # Rounded here: a conversion that is recorded would look like an operation that runtimes may do differently.
    affine = {name: (fold.factor.float(), fold.shift.float()) for name, fold in folds.items() if not fold.layer}

    def handler(name: str, x: Tensor, values: tuple[Any, ...]) -> Tensor | None:
        if name not in affine or values[4]:
            return None
        factor, shift = (constant.view(-1, *(1,) * (x.dim() - 2)) for constant in affine[name])
        return x * factor + shift

    modules = dict(model.named_modules())
    replaced: list[nn.Module] = []
    try:
        for name, fold in folded.items():
            layer: Any = modules[fold.layer]
            bias = 0.0 if layer.bias is None else layer.bias.detach().double() * fold.factor
            layer.folded = (fold.factor.float(), (fold.shift + bias).float())
            modules[name].__dict__["forward"] = _identity
            replaced.append(modules[name])
        with _inside_batch_norms(model, _Intercept(handler)):
            yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]
        for fold in folded.values():
            modules[fold.layer].__dict__.pop("folded", None)


def _identity(input: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return input
