"""Distilling spiking language models: recipes, losses, one resumable loop."""

from snn_extreme_quant.training.loop import TrainingResult, train
from snn_extreme_quant.training.recipe import Recipe
from snn_extreme_quant.training.recipe_files import load_recipe

__all__ = ["Recipe", "TrainingResult", "load_recipe", "train"]
