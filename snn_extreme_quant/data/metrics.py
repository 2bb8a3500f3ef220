"""What a task's quality is measured by, from scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from snn_extreme_quant.data.tasks import Task
from snn_extreme_quant.errors import MissingDependencyError

__all__ = ["METRICS", "measure"]

_Numbers = npt.NDArray[np.float64]


def _accuracy(labels: _Numbers, found: _Numbers) -> float:
    return float(np.mean(labels == found))


def _f1(labels: _Numbers, found: _Numbers) -> float:
    from sklearn.metrics import f1_score

    average = "binary" if max(labels.max(), found.max()) <= 1 else "macro"
    return float(f1_score(labels, found, average=average, zero_division=0.0))


def _matthews(labels: _Numbers, found: _Numbers) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, found))


def _pearson(labels: _Numbers, found: _Numbers) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(labels, found)[0]) if np.ptp(found) and np.ptp(labels) else 0.0


def _spearman(labels: _Numbers, found: _Numbers) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(labels, found)[0]) if np.ptp(found) and np.ptp(labels) else 0.0


#: By name: a function of labels and predictions, in [-1, 1]; correlations of a constant are 0, F1 of more than two
#: classes is the mean over them.
METRICS: dict[str, Callable[[_Numbers, _Numbers], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}


def measure(task: Task, labels: _Numbers, logits: _Numbers) -> dict[str, float]:
    """Return the task's metrics.

    Args:
        task: which metrics.
        labels: ``(N,)``.
        logits: ``(N, classes)``, or probabilities.

    Raises:
        MissingDependencyError: scikit-learn or SciPy is not installed; accuracy needs neither.

    Example:
        >>> from snn_extreme_quant.data import GLUE
        >>> measure(GLUE["sst2"], np.array([0.0, 1.0]), np.array([[1.0, 0.0], [2.0, 0.0]]))
        {'accuracy': 0.5}
    """
    found = logits[:, 0] if task.regression else logits.argmax(-1).astype(np.float64)
    try:
        return {name: METRICS[name](labels, found) for name in task.metrics}
    except ImportError as error:
        names = ", ".join(task.metrics)
        raise MissingDependencyError(f"{names} of {task.name!r}: pip install 'snn-extreme-quant[train]'.") from error
