r"""A layer whose output is a fixed point, with the gradient of the implicit function theorem.

.. math:: a^* = f(a^*, w), \qquad
   \frac{dL}{dw} = \frac{\partial L}{\partial w} + v^T \frac{\partial f}{\partial w}, \qquad
   v = J^T v + \frac{\partial L}{\partial a}, \qquad J = \frac{\partial f}{\partial a}\Big|_{a^*}

(Bai, Kolter & Koltun 2019, arXiv:1909.01377; for average spiking rates Xiao et al. 2021 and Bal & Sengupta 2024,
arXiv:2308.10873.) The graph of one evaluation of f is kept, however many a solver needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snn_extreme_quant.neurons.fixed_point_solvers import (
    Solution,
    Solver,
    graph_radius,
    jacobian_product,
    solve_fixed_point,
    spectral_radius,
)

__all__ = ["ImplicitLayer"]

#: From a to f(a), and to whatever else is read at a.
Map = Callable[[Tensor], tuple[Tensor, ...]]
#: Units of the last place of the largest value that a residual may have by the sums in f alone.
_ROUNDINGS = 16.0


class ImplicitLayer(nn.Module):
    r"""Find a fixed point and read a network there, with its gradient.

    The equations are the module's. f gives f(a) and any number of other tensors that are read at a; losses may use
    all of them. Random numbers, as of dropout, are the same in all evaluations of a call. All is computed in the
    precision of ``start``, also under autocast, whose rounding a solver would not get below.

    A :math:`v` exists if 1 is no eigenvalue of J. The plain iteration converges if the spectral radius of J is below 1.

    Args:
        solver: for :math:`a^*`, with its tolerance as it is, and for :math:`v`, with its tolerance relative to the
            largest entry of :math:`\partial L / \partial a`; None: the plain iteration.

    Attributes:
        forward_report: evaluations and residual of the last :math:`a^*`; None where it was given.
        backward_report: of the last :math:`v`; None where there was nothing to solve.

    Raises:
        EquilibriumError: in the forward or the backward pass: no convergence, with an estimate of the spectral radius;
            a ``RuntimeWarning`` with the same words where the solver has ``failure="warn"``.

    Example:
        >>> w = torch.tensor(0.5, requires_grad=True)
        >>> layer = ImplicitLayer(Solver(tolerance=1e-7))
        >>> (a,) = layer(lambda a: (w * a + 1.0,), torch.zeros(()))  # a = 1 / (1 - w)
        >>> a.backward()
        >>> round(a.item(), 4), round(w.grad.item(), 4)  # and da/dw = 1 / (1 - w)^2
        (2.0, 4.0)
    """

    def __init__(self, solver: Solver | None = None) -> None:
        """Keep the solver."""
        super().__init__()
        self.solver = solver or Solver()
        self.forward_report: Solution | None = None
        self.backward_report: Solution | None = None

    def forward(self, f: Map, start: Tensor, known: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what f gives at its fixed point, or at a ``known`` place that stands for it.

        Args:
            f: see above; its first result has the shape of its argument.
            start: where the solver starts.
            known: what is taken for the fixed point, as the rates of a simulation; then nothing is solved but the
                equation of the gradient.
        """
        self.forward_report = self.backward_report = None
        with torch.autocast(start.device.type, enabled=False):
            f = _repeatable(f, start.device)
            if known is None:
                self.forward_report = self._settle(f, start)
                known = self.forward_report.value
            if not torch.is_grad_enabled():
                return f(known)
            state = known.detach().requires_grad_()
            found = f(state)
            if not any(result.requires_grad for result in found):
                return found
            return _AtFixedPoint.apply(self, state, *found)  # type: ignore[no-any-return, no-untyped-call]

    def _settle(self, f: Map, start: Tensor) -> Solution:
        def explain(tried: Solution) -> str:
            place = tried.value if math.isfinite(tried.residual) else start
            return _advice(spectral_radius(lambda a: f(a)[0], place), tried)

        return solve_fixed_point(lambda a: f(a)[0], start, self.solver, explain)

    def adjoint(self, state: Tensor, found: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor | None:
        """Solve the equation of the gradient; the backward pass calls it.

        Args:
            state: where f was evaluated.
            found: what it gave, with its graph.
            gradients: of the loss by each of ``found``.

        Returns:
            v; None where the loss does not change with the state.
        """
        pairs = [(x, g) for x, g in zip(found, gradients, strict=True) if g is not None and x.requires_grad]
        given = jacobian_product([x for x, _ in pairs], state, [g for _, g in pairs]) if pairs else None
        size = 0.0 if given is None else float(given.abs().max())
        if given is None or size == 0.0 or not found[0].requires_grad:
            return None if size == 0.0 else given
        if not math.isfinite(size):  # a loss that overflowed: not the equation's fault, and not hidden
            return given
        unit = given / size

        def step(v: Tensor) -> Tensor:
            product = jacobian_product([found[0]], state, [v])
            return unit if product is None else unit + product

        def explain(solution: Solution) -> str:
            return f"This was the backward pass. {_advice(graph_radius(found[0], state), solution)}"

        self.backward_report = solve_fixed_point(step, unit, self.solver, explain)
        return self.backward_report.value * size

    def extra_repr(self) -> str:
        """Show the solver."""
        return repr(self.solver)


class _AtFixedPoint(torch.autograd.Function):
    """Adds v to the gradient of f(a), after which the ordinary backward pass goes on through f."""

    @staticmethod
    def forward(ctx: Any, layer: ImplicitLayer, state: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
        """Return ``found``."""
        ctx.layer, ctx.state, ctx.found = layer, state, found
        ctx.set_materialize_grads(False)
        return tuple(result.view_as(result) for result in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """Return the gradients, the first one with v."""
        v, first = ctx.layer.adjoint(ctx.state, ctx.found, gradients), gradients[0]
        if v is not None:
            first = v if first is None else first + v
        return None, None, first, *gradients[1:]


def _advice(radius: float, solution: Solution) -> str:
    found = f"The spectral radius of its Jacobian is about {radius:.3g}: "
    if not radius < 1.0:
        return found + "from 1 on there is no stable fixed point. Make what feeds back smaller."
    if _is_rounding(solution):
        wider = "" if solution.value.dtype == torch.float64 else ", or compute in float64"
        return found + (
            f"below 1, but the residual is already as small as the rounding of {solution.value.dtype} leaves it, so"
            f" more evaluations do not help. Use a larger tolerance{wider}."
        )
    return found + "below 1, so allow more evaluations or a larger tolerance, or use another method."


def _is_rounding(solution: Solution) -> bool:
    """Whether what is left of a residual is the rounding of the values themselves."""
    value = solution.value
    size = float(value.abs().max()) if value.numel() else 0.0
    return solution.residual <= _ROUNDINGS * torch.finfo(value.dtype).eps * size


def _repeatable(f: Map, device: torch.device) -> Map:
    """Give every call of f the random numbers of the first."""
    here = torch.get_rng_state()
    there: Any = None if device.type == "cpu" else torch.get_device_module(device)
    theirs = None if there is None else there.get_rng_state(device)

    def repeated(a: Tensor) -> tuple[Tensor, ...]:
        torch.set_rng_state(here)
        if there is not None:
            there.set_rng_state(theirs, device)
        return f(a)

    return repeated
