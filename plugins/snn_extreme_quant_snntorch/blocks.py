r"""A quantised synapse and a ``snntorch.Leaky`` in one module, time first.

snnTorch's own ``LinearLeaky`` is a linear map and a leaky integrator *without reset*, evaluated by one convolution over
time. The blocks here have the full neuron of ``snntorch.Leaky``: threshold, reset mechanism and reset delay.

.. math:: U_t = \beta\,U_{t-1} + (x_t * c)\,\gamma + b - R_t,\qquad S_t = \Theta(U_t - \theta)

Each call takes a whole sequence and starts from :math:`U = 0`, so that nothing has to be reset between sequences.

Example:
    >>> import torch
    >>> from snn_extreme_quant import Binary
    >>> hidden = QuantLinearLeaky(0.9, 784, 128, config=Binary())
    >>> hidden(torch.ones(25, 8, 784)).shape
    torch.Size([25, 8, 128])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from snn_extreme_quant.errors import SampleError
from snn_extreme_quant.layers import Conv2d, Linear

if TYPE_CHECKING:
    from snn_extreme_quant.config import WeightConfig

__all__ = ["QuantConv2dLeaky", "QuantLinearLeaky"]


class _SynapseLeaky(nn.Module):
    """Run the synapse over all steps at once, then the neuron step by step."""

    synapse: nn.Module
    _SEQUENCE: tuple[str, ...]

    def __init__(self, beta: Any, **neuron: Any) -> None:
        """Create the neuron."""
        import snntorch

        super().__init__()
        self.leaky = snntorch.Leaky(beta, init_hidden=False, **neuron)

    def forward(self, input: Tensor) -> Tensor:
        """Return the spikes of a sequence.

        Raises:
            SampleError: the input is no sequence of batches.
        """
        if input.dim() != len(self._SEQUENCE):
            raise SampleError(
                f"{type(self).__name__} takes ({', '.join(self._SEQUENCE)}), time first; got {tuple(input.shape)}."
            )
        steps, batch = input.shape[:2]
        currents = self.synapse(input.flatten(0, 1)).unflatten(0, (steps, batch))
        potential = torch.zeros_like(currents[0])
        spikes = []
        for current in currents:
            spike, potential = self.leaky(current, potential)
            spikes.append(spike)
        # The neuron keeps its last potential, and with it the graph of the whole sequence: nobody needs either.
        self.leaky.reset_mem()
        return torch.stack(spikes)


class QuantLinearLeaky(_SynapseLeaky):
    r"""A fully connected layer of low precision and ``snntorch.Leaky`` neurons.

    Unlike ``snntorch.LinearLeaky``, the neurons fire *and reset*, and the weights are quantised.

    Shapes:
        input ``(T, B, in_features)``, output (spikes) ``(T, B, out_features)``.

    Args:
        beta: decay of the membrane potential a step; a number, or a tensor of shape ``(out_features,)``.
        in_features: inputs of each neuron.
        out_features: neurons.
        bias: whether the synapse adds a bias current.
        threshold: potential above which a neuron fires.
        spike_grad: surrogate gradient, from ``snntorch.surrogate``; snnTorch's own default if None.
        learn_beta: whether ``beta`` is trained.
        learn_threshold: whether ``threshold`` is trained.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether a spike resets in the next step.
        config: precision of the weights; :class:`~snn_extreme_quant.Ternary` by default.
    """

    _SEQUENCE = ("T", "B", "in_features")

    def __init__(  # noqa: PLR0913 - those of snnTorch's neuron and of the synapse
        self,
        beta: Any,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        config: WeightConfig | None = None,
    ) -> None:
        """Create synapse and neurons."""
        super().__init__(
            beta,
            threshold=threshold,
            spike_grad=spike_grad,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            reset_mechanism=reset_mechanism,
            reset_delay=reset_delay,
        )
        self.synapse = Linear(in_features, out_features, bias, config)


class QuantConv2dLeaky(_SynapseLeaky):
    r"""A convolution of low precision and ``snntorch.Leaky`` neurons.

    Shapes:
        input ``(T, B, C, H, W)``, output (spikes) ``(T, B, N, H', W')``.

    Args:
        beta: decay of the membrane potential a step; a number, or a tensor that broadcasts to ``(N, H', W')``.
        in_channels: C.
        out_channels: N.
        kernel_size: as of ``nn.Conv2d``, like the next four.
        stride: step of the kernel.
        padding: zeros around the input, or ``"same"``.
        dilation: distance of the kernel's points.
        groups: groups of channels.
        bias: whether the synapse adds a bias current.
        threshold: potential above which a neuron fires.
        spike_grad: surrogate gradient, from ``snntorch.surrogate``; snnTorch's own default if None.
        learn_beta: whether ``beta`` is trained.
        learn_threshold: whether ``threshold`` is trained.
        reset_mechanism: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether a spike resets in the next step.
        config: precision of the weights; :class:`~snn_extreme_quant.Ternary` by default.

    Example:
        >>> QuantConv2dLeaky(0.5, 1, 4, 3, padding=1)(torch.ones(5, 2, 1, 8, 8)).shape
        torch.Size([5, 2, 4, 8, 8])
    """

    _SEQUENCE = ("T", "B", "C", "H", "W")

    def __init__(  # noqa: PLR0913 - those of snnTorch's neuron and of the synapse
        self,
        beta: Any,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        config: WeightConfig | None = None,
    ) -> None:
        """Create synapse and neurons."""
        super().__init__(
            beta,
            threshold=threshold,
            spike_grad=spike_grad,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            reset_mechanism=reset_mechanism,
            reset_delay=reset_delay,
        )
        self.synapse = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, config=config
        )
