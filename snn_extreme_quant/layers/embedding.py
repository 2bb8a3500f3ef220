"""The quantised embedding table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.config import Ternary, WeightConfig
from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers.integer_first import IntegerFirst
from snn_extreme_quant.quantizers.injectors import injector_for

if TYPE_CHECKING:
    from torch.nn import Embedding as _Base
else:
    from brevitas.nn import QuantEmbedding as _Base

__all__ = ["Embedding"]

#: Options of ``nn.Embedding`` that cannot be carried over, the value each must have, and why.
_FIXED_OPTIONS = {
    "max_norm": (None, "max_norm rescales rows of the float table in the forward pass, which the codes do not see"),
    "scale_grad_by_freq": (False, "scale_grad_by_freq divides a gradient that reaches the table through its codes"),
    "sparse": (False, "sparse gradients cannot pass from the codes to the table"),
}


class Embedding(IntegerFirst, _Base):
    r"""``nn.Embedding`` with low-bit rows: :math:`y = c_i\,\gamma_i` for the token :math:`i`.

    A scale belongs to a row (``per="channel"``), to the table, or to a group along the row. A row ``padding_idx`` that
    is all zero stays exactly zero: its scale is 0, whatever the codes. As in torch, ``padding_idx`` gets no gradient.

    Shapes:
        input: integers of any shape ``(...)``, output ``(..., embedding_dim)``; codes
        ``(num_embeddings, embedding_dim)``, scales ``(num_embeddings,)``, or ``(num_embeddings, groups)``.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: length of a row.
        padding_idx: row that is not trained; may count from the end.
        max_norm: refused.
        norm_type: as torch's; it has no effect without ``max_norm``.
        scale_grad_by_freq: refused.
        sparse: refused.
        config: precision of the rows, :class:`~snn_extreme_quant.Ternary` by default.
        device: where the table lives.
        dtype: type of the latent table.

    Raises:
        ConfigError: an option that is refused; the message says why.

    Example:
        >>> layer = Embedding(5, 8, padding_idx=0)
        >>> ids = torch.tensor([[1, 4, 0]])
        >>> layer(ids).shape, layer(ids)[0, 2].abs().max().item()
        (torch.Size([1, 3, 8]), 0.0)
    """

    #: There is none; the attribute is what the shared forward pass and :meth:`from_float` ask for.
    bias = None

    def __init__(  # noqa: PLR0913 - torch's arguments
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        config: WeightConfig | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with a freshly initialised table."""
        given = {"max_norm": max_norm, "scale_grad_by_freq": scale_grad_by_freq, "sparse": sparse}
        for name, (value, why) in _FIXED_OPTIONS.items():
            if given[name] != value:
                raise ConfigError(f"Embedding({name}={given[name]!r}): {why}; use {name}={value!r}.")
        config = Ternary() if config is None else config
        options: dict[str, Any] = {"weight_quant": injector_for(config), "device": device, "dtype": dtype}
        super().__init__(num_embeddings, embedding_dim, padding_idx, norm_type=norm_type, **options)
        self._finish(config)

    @classmethod
    def unfit(cls, module: Any) -> str:
        """Return why this class cannot take the place of the ``nn.Embedding`` ``module``, or ""."""
        return next((why for name, (value, why) in _FIXED_OPTIONS.items() if getattr(module, name) != value), "")

    @classmethod
    def _empty_like(cls, module: Any, config: WeightConfig) -> Self:
        return cls(
            module.num_embeddings,
            module.embedding_dim,
            module.padding_idx,
            norm_type=module.norm_type,
            config=config,
            device="meta",
        )

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return codes (shape of ``weight``) and scales (one a row, or a group of a row; 0 for a zero padding row)."""
        codes, scale = super().integer_weight()
        if self.padding_idx is None:
            return codes, scale
        # Without this a binary padding row would come out as +-1 times the least scale.
        keep = torch.ones(scale.shape[0], *(1,) * (scale.dim() - 1), dtype=scale.dtype, device=scale.device)
        keep[self.padding_idx] = (self.weight.detach()[self.padding_idx] != 0).any().to(scale.dtype)
        return codes, scale * keep

    def _sums(self, input: Tensor, codes: Tensor) -> Tensor:
        return F.embedding(input, codes, self.padding_idx)

    def product(self, input: Tensor) -> Tensor:
        r"""Return :math:`c_i\,\gamma_i`: look up rows of codes and their scales, then multiply."""
        codes, scale = self.integer_weight()
        if scale.dim() == 1:
            return self._sums(input, codes) * self._sums(input, scale.unsqueeze(-1))
        scales = self._sums(input, scale).repeat_interleave(self.quantizer.granularity.group_size or 1, -1)
        return self._sums(input, codes) * scales[..., : self.embedding_dim]

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the tokens."""
        return self.product(input)

    def to_float(self) -> nn.Embedding:
        """Return an ``nn.Embedding`` with the dequantised table."""
        layer = nn.Embedding(
            self.num_embeddings, self.embedding_dim, self.padding_idx, norm_type=self.norm_type, device="meta"
        )
        layer.weight = self._float_weight()
        return layer.train(self.training)
