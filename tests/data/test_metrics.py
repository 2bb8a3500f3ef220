"""Metrics of tasks."""

from __future__ import annotations

import numpy as np
import pytest

from snn_extreme_quant.data import GLUE, Task
from snn_extreme_quant.data.metrics import measure


def test_every_glue_task_has_the_metrics_of_its_paper():
    accuracy = {"accuracy"}
    expected = {
        "cola": {"matthews", "accuracy"}, "mrpc": {"accuracy", "f1"}, "qqp": {"accuracy", "f1"},
        "stsb": {"pearson", "spearman"}, "mnli": accuracy, "qnli": accuracy, "rte": accuracy, "sst2": accuracy,
        "wnli": accuracy,
    }  # fmt: skip
    assert {name: set(task.metrics) for name, task in GLUE.items()} == expected
    generator = np.random.default_rng(0)
    for name, task in GLUE.items():
        classes = 1 if task.regression else max(2, len(task.labels))
        labels = generator.random(50) * 5 if task.regression else generator.integers(classes, size=50).astype(float)
        right = labels[:, None] if task.regression else np.eye(classes)[labels.astype(int)]
        assert all(value == pytest.approx(1.0) for value in measure(task, labels, right).values()), name
        assert all(value < 0.7 for value in measure(task, labels, generator.random((50, classes))).values()), name


def test_f1_of_more_than_two_classes_is_the_mean_over_them():
    from sklearn.metrics import f1_score

    task = Task("own", metrics=("f1",))
    labels, found = np.array([0.0, 1, 2, 2]), np.array([0, 2, 2, 2])
    expected = f1_score(labels, found, average="macro")
    assert measure(task, labels, np.eye(3)[found])["f1"] == pytest.approx(expected)


def test_metrics_of_every_task():
    labels, logits = np.array([0.0, 1.0, 1.0, 0.0]), np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert measure(GLUE["mrpc"], labels, logits) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    assert measure(GLUE["cola"], labels, logits)["matthews"] == pytest.approx(1 / np.sqrt(3))
    scores = np.array([1.0, 2.0, 4.0])
    assert measure(GLUE["stsb"], scores, scores[:, None] ** 3)["spearman"] == pytest.approx(1.0)
    assert measure(GLUE["stsb"], scores, np.ones((3, 1))) == {"pearson": 0.0, "spearman": 0.0}
