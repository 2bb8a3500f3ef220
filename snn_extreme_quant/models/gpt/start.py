"""How the weights of a SpikeGPT start: decays, shares and bonuses as RWKV-4's, matrices so that neurons fire."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from snn_extreme_quant.models.gpt.config import SpikeGPTConfig
    from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT

__all__ = ["start_as_rwkv"]

#: Of the matrices that branches end with: currents have to reach a threshold of 1, and averages of values are small.
_GAINS = {"att.output": 6.0, "ffn.value": 4.0}


def _gains(config: SpikeGPTConfig) -> dict[str, float]:
    """Return how much larger than 1/sqrt(K) some matrices start."""
    if not config.spiking:
        return {}
    if config.inputs == "norms":
        return _GAINS
    # What is between two products has to reach the threshold of the neurons between them too. A gate halves an average
    # of values of few spikes, which takes the value's matrix; a square grows with the threshold's root.
    threshold = config.input_threshold
    return {**_GAINS, "att.value": 14.0 * threshold, "ffn.key": 3.5 * math.sqrt(threshold), "ffn.value": 9.0}


@torch.no_grad()
def start_as_rwkv(model: SpikeGPT) -> None:
    r"""Set all Parameters; with :math:`c = i / (d - 1)` of channel i, l of layer l, :math:`\rho = l / (L - 1)`.

    ``time_decay`` :math:`-5 + 8 c^{0.7 + 1.3 \rho}`, ``time_first`` :math:`\ln 0.3 + ((i + 1) \bmod 3 - 1) / 2`, shares
    of this token :math:`(i / d)^{1 - l / L}`, for values :math:`+ 0.3 \rho`, for receptances to the power of 1/2
    (RWKV-4, 2305.13048, appendix on initialisation). Matrices (ours): :math:`\mathcal N(0, 1/K)`; those that branches
    end with 6 (SRWKV) and 4 (SRFFN) times that in a spiking model, so that a neuron fires at about every seventh token.
    With ``inputs="spikes"`` and the threshold :math:`\theta` of those, SRWKV's values take :math:`14 \theta`, SRFFN's
    keys :math:`3.5 \sqrt\theta` and its values 9 times that, for the neurons before products to fire as often. The
    embedding :math:`\mathcal N(0, 0.1^2)`, within reach of its step's gradient.
    """
    config = model.config
    size, layers, gains = config.hidden, config.layers, _gains(config)
    channel = torch.arange(size, dtype=torch.float32)
    for number, module in enumerate(model.blocks):
        block: Any = module
        ratio, rest = number / max(1, layers - 1), 1.0 - number / layers
        share = (channel / size).pow(rest)
        att, ffn = block.att, block.ffn
        att.time_decay.copy_(-5.0 + 8.0 * (channel / (size - 1)).pow(0.7 + 1.3 * ratio))
        att.time_first.copy_(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        for part in (att, ffn):
            part.time_mix_k.copy_(share.view(1, 1, -1))
            part.time_mix_r.copy_(share.sqrt().view(1, 1, -1))
        att.time_mix_v.copy_((share + 0.3 * ratio).view(1, 1, -1))
        for part, names in (("att", ("key", "value", "receptance", "output")), ("ffn", ("key", "receptance", "value"))):
            for name in names:
                layer: nn.Linear = getattr(getattr(block, part), name)
                gain = gains.get(f"{part}.{name}", 1.0)
                nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
    nn.init.normal_(model.emb.weight, std=0.1)
    nn.init.normal_(model.head.weight, std=1.0 / math.sqrt(size))
