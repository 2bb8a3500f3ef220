r"""Fixed points a* = f(a*): solvers, and what decides whether they converge.

Anderson's and Broyden's methods are scipy's; the plain iteration is a line of our own and needs no package.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from snn_extreme_quant.errors import ConfigError, EquilibriumError, MissingDependencyError

__all__ = [
    "Failure",
    "Method",
    "Solution",
    "Solver",
    "graph_radius",
    "jacobian_product",
    "solve_fixed_point",
    "spectral_radius",
]

Method = Literal["iteration", "anderson", "broyden"]
Failure = Literal["error", "warn"]
#: scipy's functions and what they are given: the last evaluations that are mixed; no more corrections than evaluations.
_SCIPY: dict[Method, tuple[str, dict[str, int]]] = {"anderson": ("anderson", {"M": 5}), "broyden": ("broyden1", {})}


@dataclass(frozen=True)
class Solver:
    r"""How a fixed point is found.

    Args:
        method: ``"iteration"``: :math:`a \leftarrow a + d\,(f(a) - a)`; ``"anderson"``: a mixture of the last 5
            (Anderson 1965); ``"broyden"``: a secant method (Broyden 1965). The last two need scipy.
        tolerance: largest :math:`|f(a) - a|` of an entry at which to stop.
        evaluations: of f, at most.
        damping: :math:`d` in (0, 1]; the first step of the other methods.
        failure: what is done where it does not converge: ``"error"``, or ``"warn"`` and take the place of the least
            residual.

    Raises:
        ConfigError: a value that means nothing.

    Example:
        >>> Solver("anderson", tolerance=1e-8).evaluations
        100
    """

    method: Method = "iteration"
    tolerance: float = 1e-5
    evaluations: int = 100
    damping: float = 1.0
    failure: Failure = "error"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.method not in get_args(Method):
            raise ConfigError(f"Solver(method={self.method!r}): use " + " or ".join(map(repr, get_args(Method))) + ".")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ConfigError(f"Solver(tolerance={self.tolerance!r}): use a positive number.")
        if type(self.evaluations) is not int or self.evaluations < 1:
            raise ConfigError(f"Solver(evaluations={self.evaluations!r}): use a whole number from 1.")
        if self.failure not in get_args(Failure):
            raise ConfigError(f"Solver(failure={self.failure!r}): use 'error' or 'warn'.")
        if not 0.0 < self.damping <= 1.0:
            raise ConfigError(f"Solver(damping={self.damping!r}): use a number above 0 and up to 1.")


@dataclass(frozen=True)
class Solution:
    r"""A fixed point, or the best try.

    Args:
        value: a.
        evaluations: of f.
        residual: largest :math:`|f(a) - a|` of an entry.
    """

    value: Tensor
    evaluations: int
    residual: float

    def __repr__(self) -> str:
        """Say what was found, and of the value its shape alone: it is a whole state."""
        return (
            f"Solution(evaluations={self.evaluations}, residual={self.residual:.3g},"
            f" value={tuple(self.value.shape)} of {self.value.dtype})"
        )


class _FoundError(Exception):
    """Ends a solver's loop: the residual is small enough, or evaluations are used up."""


class _Residual:
    """f(a) - a, counted; remembers the place where it is smallest."""

    def __init__(self, f: Callable[[Tensor], Tensor], start: Tensor, solver: Solver) -> None:
        self.f, self.solver = f, solver
        self.best, self.least, self.evaluations = start, math.inf, 0

    def __call__(self, a: Tensor) -> Tensor:
        """Return the residual; raise :class:`_FoundError` where nothing is left to do."""
        value = self.f(a)
        if value.shape != a.shape:
            raise ConfigError(f"A fixed point needs f(a) of a's shape {tuple(a.shape)}; got {tuple(value.shape)}.")
        difference = value - a
        size = float(difference.abs().max()) if a.numel() else 0.0
        self.evaluations += 1
        if size < self.least:
            self.best, self.least = a, size
        done = size <= self.solver.tolerance or self.evaluations >= self.solver.evaluations
        if done or not math.isfinite(size):
            raise _FoundError
        return difference


@torch.no_grad()
def solve_fixed_point(
    f: Callable[[Tensor], Tensor],
    start: Tensor,
    solver: Solver | None = None,
    explain: Callable[[Solution], str] | None = None,
) -> Solution:
    r"""Find :math:`a^* = f(a^*)`, without gradient.

    Args:
        f: gives a tensor of the shape of its argument, and the same for the same argument.
        start: where to start, any shape.
        solver: how; None: the plain iteration.
        explain: says more where it does not converge.

    Raises:
        EquilibriumError: no convergence, unless the solver is to warn of it, or only values that are not finite;
            ``error.solution`` is the best try.
        MissingDependencyError: the method needs scipy, and it is not installed.

    Example:
        >>> solution = solve_fixed_point(lambda a: 0.5 * a + 1.0, torch.zeros(3), Solver("anderson"))
        >>> [round(x, 4) for x in solution.value.tolist()], solution.evaluations
        ([2.0, 2.0, 2.0], 4)
    """
    solver = solver or Solver()
    residual = _Residual(f, start, solver)
    try:
        if solver.method == "iteration":
            _iterate(residual, start, solver.damping)
        else:
            _by_scipy(residual, start, solver)
    except _FoundError:
        pass
    solution = Solution(residual.best, residual.evaluations, residual.least)
    if solution.residual <= solver.tolerance:
        return solution
    message = (
        f"No fixed point after {solution.evaluations} evaluations by {solver.method!r}: the least residual is"
        f" {solution.residual:.3g}, the tolerance {solver.tolerance:g}."
    )
    if explain is not None:
        message = f"{message} {explain(solution)}"
    if solver.failure == "error" or not math.isfinite(solution.residual):
        raise EquilibriumError(message, solution)
    warnings.warn(f"{message} The place of the least residual is taken.", RuntimeWarning, stacklevel=2)
    return solution


def _iterate(residual: _Residual, a: Tensor, damping: float) -> None:
    while True:
        a = a + damping * residual(a)


def _by_scipy(residual: _Residual, start: Tensor, solver: Solver) -> None:
    try:
        import scipy.optimize
    except ImportError as error:
        raise MissingDependencyError(
            f"The solver {solver.method!r} needs scipy ({error}). Install it:"
            ' pip install "snn-extreme-quant[train]", or use "iteration".'
        ) from error
    name, options = _SCIPY[solver.method]

    def evaluate(values: Any) -> Any:
        a = torch.from_numpy(values).to(start).reshape(start.shape)
        return residual(a).double().flatten().cpu().numpy()

    # It ends by _FoundError, after our own count and our own measure of the residual.
    getattr(scipy.optimize, name)(
        evaluate, start.double().flatten().cpu().numpy(), alpha=solver.damping, line_search=None,
        maxiter=solver.evaluations + 1, f_tol=0.0, **options,
    )  # fmt: skip


def spectral_radius(f: Callable[[Tensor], Tensor], at: Tensor, steps: int = 30) -> float:
    r"""Estimate the spectral radius of :math:`J = \partial f / \partial a`.

    .. math:: \rho(J) = \lim_k \lVert (J^T)^k v \rVert^{1/k}

    by products with :math:`J^T` (power iteration); of ``steps`` growths the first half is left out and the others are
    averaged geometrically, as complex eigenvalues make them swing.

    The plain iteration converges near a fixed point if :math:`\rho < 1`.

    Args:
        f: as for :func:`solve_fixed_point`, differentiable.
        at: where, any shape; f keeps one graph there.
        steps: products.

    Example:
        >>> matrix = torch.tensor([[0.5, 3.0], [0.0, -0.8]])
        >>> round(spectral_radius(lambda a: torch.tanh(matrix @ a), torch.zeros(2)), 3)
        0.8
    """
    with torch.enable_grad():
        a = at.detach().requires_grad_()
        return graph_radius(f(a), a, steps)


def graph_radius(value: Tensor, a: Tensor, steps: int = 30) -> float:
    """Do what :func:`spectral_radius` does where f(a) and its graph are there already; the graph stays."""
    if not value.requires_grad:
        return 0.0
    v = torch.randn(a.shape, generator=torch.Generator().manual_seed(0)).to(a)
    v, logarithms = v / v.norm(), []
    for _ in range(steps):
        product = jacobian_product([value], a, [v])
        size = 0.0 if product is None else float(product.norm())
        if product is None or size == 0.0 or not math.isfinite(size):
            return size
        v = product / size
        logarithms.append(math.log(size))
    kept = logarithms[steps // 2 :]
    return math.exp(sum(kept) / len(kept))


def jacobian_product(outputs: Sequence[Tensor], a: Tensor, vectors: Sequence[Tensor]) -> Tensor | None:
    """Return the sum of vectors times Jacobians by a, and keep the graph; None where no output depends on a."""
    return torch.autograd.grad(list(outputs), a, list(vectors), retain_graph=True, allow_unused=True)[0]
