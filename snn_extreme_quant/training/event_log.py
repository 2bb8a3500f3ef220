"""A run's losses and dev figures for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snn_extreme_quant.errors import MissingDependencyError
from snn_extreme_quant.training.loop import Progress

__all__ = ["EventLog"]


class EventLog:
    """Writes what a run reports to a folder that TensorBoard reads; a run that goes on replaces what it does again.

    Losses are ``loss/<stage>/<name>`` and the learning rate ``lr``, every step; dev figures are ``dev/<name>``. Steps
    count on over the stages.

    Args:
        folder: it is made with the first step.

    Raises:
        MissingDependencyError: TensorBoard is not installed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with EventLog(folder) as log:
        ...     log(Progress("float", 1, 10, {"loss": 0.5}, {"accuracy": 0.8}, total=1, lr=1e-3))
        >>> len(list(folder.glob("events.*")))
        1
    """

    def __init__(self, folder: str | Path) -> None:
        """Import TensorBoard."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                'The log for TensorBoard needs: pip install "snn-extreme-quant[tensorboard]"'
            ) from error
        self.folder, self._make = Path(folder), SummaryWriter
        self._writer: Any = None

    def __call__(self, progress: Progress) -> None:
        """Write a step."""
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=progress.total)
        for name, value in progress.losses.items():
            self._writer.add_scalar(f"loss/{progress.stage}/{name}", value, progress.total)
        self._writer.add_scalar("lr", progress.lr, progress.total)
        for name, value in (progress.dev or {}).items():
            self._writer.add_scalar(f"dev/{name}", value, progress.total)

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
