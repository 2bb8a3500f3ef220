"""GPTQ for one weight matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError

__all__ = ["gptq_codes", "relative_error"]

#: Columns that are quantised before what is right of them is updated in one product.
_BLOCK = 64


def gptq_codes(
    weight: Tensor,
    scale: Tensor,
    gram: Tensor,
    nearest: Callable[[Tensor, Tensor], Tensor],
    damping: float = 0.01,
) -> Tensor:
    r"""Choose codes column by column; each column's error is made up for by the columns to its right.

    With :math:`H = X^\top X + \lambda I` and the upper Cholesky factor U of :math:`H^{-1}`, column j becomes
    :math:`c_j = \mathrm{nearest}(w_j)`, and :math:`W_{:,j+1:}` changes by
    :math:`-(w_j - s_j c_j)\,U_{j,j+1:} / U_{jj}` (Frantar et al. 2022, algorithm 1).

    Args:
        weight: W, ``(N, K)``, float64.
        scale: of each weight, ``(N, K)``.
        gram: :math:`X^\top X`, ``(K, K)``. Inputs that never were other than 0 do not matter.
        nearest: the nearest codes for ``(N, 1)`` weights and scales.
        damping: :math:`\lambda` in units of the mean diagonal.

    Returns:
        Codes, ``(N, K)``.

    Raises:
        ConfigError: the matrix is singular, because ``damping`` is too small.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [1.0, 0.9]], dtype=torch.float64)
        >>> w, one = torch.full((1, 2), 0.4, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        >>> gptq_codes(w, one, x.T @ x, lambda w, s: (w / s).round()).tolist()  # nearest would be [0, 0]
        [[0.0, 1.0]]
    """
    hessian, weight = gram.clone(), weight.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if not dead.all() else torch.ones((), dtype=hessian.dtype)
    diagonal[dead] = mean
    diagonal += damping * mean
    # torch.linalg.LinAlgError is a RuntimeError.
    try:
        upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    except RuntimeError as failure:
        raise ConfigError(
            f"damping={damping} leaves the inputs' matrix singular; use a larger one (0.01, say)."
        ) from failure
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, start:stop])
        for j in range(start, stop):
            column, step = weight[:, j : j + 1], scale[:, j : j + 1]
            codes[:, j : j + 1] = nearest(column, step)
            error = (column - codes[:, j : j + 1] * step) / upper[j, j]
            weight[:, j + 1 : stop] -= error * upper[j, j + 1 : stop]
            errors[:, j - start] = error[:, 0]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes


def relative_error(weight: Tensor, chosen: Tensor, gram: Tensor) -> float:
    """Squared output error by the squared output, over blocks ``(groups, N / groups, K)``."""
    difference = weight - chosen
    wrong, whole = ((part @ gram * part).sum().item() for part in (difference, weight))
    return max(0.0, wrong) / whole if whole > 0 else 0.0
