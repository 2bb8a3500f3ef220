"""A distillation in two stages, and its run, which several files look at."""

from __future__ import annotations

import pytest

from tests.training.recipes import TWO_STAGES, save_recipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return save_recipe(tmp_path_factory.mktemp("recipe"), TWO_STAGES)


@pytest.fixture(scope="session")
def finished(recipe, tmp_path_factory):
    """Return the folder of a run, its result, and the progress that it reported."""
    pytest.importorskip("accelerate")
    from snn_extreme_quant.training import load_recipe, train

    folder = tmp_path_factory.mktemp("run")
    seen = []
    return folder, train(load_recipe(recipe), folder, report=seen.append), seen
