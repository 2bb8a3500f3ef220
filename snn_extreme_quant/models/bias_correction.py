r"""Another precision for a student's layers, with the mean of what each layer gives kept.

.. math:: b \leftarrow b + (W - \hat W)\, m

where m is the mean of what the layer reads on some sentences, W what multiplied it before and :math:`\hat W` what
does afterwards (bias correction: Nagel et al. 2019, arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.models.config import Weights
from snn_extreme_quant.models.spiking_bert import SpikingBert

__all__ = ["switch_weights"]

#: Token ids, mask and types of some sentences.
Tokens = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def switch_weights(student: SpikingBert, weights: Weights, batches: Iterable[Tokens]) -> None:
    """Give a student another precision and correct the biases of its linear layers.

    Args:
        student: whose mode and training flag are as before afterwards.
        weights: as :meth:`SpikingBert.set_weights` takes them.
        batches: token ids, masks and types of sentences for the means.

    Raises:
        UnmatchedNameError: a name in the plan matches no layer.
    """
    means = _mean_inputs(student, batches)
    before = {name: _layer(student, name)(mean) for name, mean in means.items()}
    student.set_weights(weights)
    for name, mean in means.items():
        layer = _layer(student, name)
        if layer.bias is not None:
            layer.bias.add_(before[name] - layer(mean))


def _layer(student: SpikingBert, name: str) -> Any:
    return student.get_submodule(name)


def _mean_inputs(student: SpikingBert, batches: Iterable[Tokens]) -> dict[str, Tensor]:
    """Return the mean over tokens of what each linear layer reads."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    mask = torch.ones(())

    def hook(name: str) -> Callable[..., None]:
        def keep(_: Any, given: tuple[Tensor, ...]) -> None:
            rows = given[0][mask] if given[0].dim() == 3 else given[0]
            sums[name] = sums.get(name, 0) + rows.double().sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return keep

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in student.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with _still(student):
            for ids, kept, types in batches:
                mask = kept.bool()
                student(ids, kept, types)
    finally:
        for handle in handles:
            handle.remove()
    dtype = student.classifier.weight.dtype
    return {name: (total / counts[name]).to(dtype) for name, total in sums.items()}


@contextmanager
def _still(student: SpikingBert) -> Iterator[None]:
    """Run at the steady state, which has one current a token on every schedule, without dropout."""
    mode, training = student.mode, student.training
    student.mode = "equilibrium"
    student.eval()
    try:
        yield
    finally:
        student.mode = mode
        student.train(training)
