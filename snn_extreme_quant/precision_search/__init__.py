"""QSLM: a precision for each layer, under limits of quality and memory; ``docs/search.md``."""

from snn_extreme_quant.precision_search.evaluators import (
    Classification,
    Evaluator,
    SentenceClassification,
    TextPerplexity,
)
from snn_extreme_quant.precision_search.hierarchy import Block, Hierarchy, Part
from snn_extreme_quant.precision_search.levels import LEVELS, level_configs
from snn_extreme_quant.precision_search.losses import SentenceLoss, TextLoss
from snn_extreme_quant.precision_search.polishing import Polished, polish
from snn_extreme_quant.precision_search.result import Baseline, Candidate, PathStep, SearchResult
from snn_extreme_quant.precision_search.searching import search
from snn_extreme_quant.precision_search.settings import Settings

__all__ = [
    "LEVELS",
    "Baseline",
    "Block",
    "Candidate",
    "Classification",
    "Evaluator",
    "Hierarchy",
    "Part",
    "PathStep",
    "Polished",
    "SearchResult",
    "SentenceClassification",
    "SentenceLoss",
    "Settings",
    "TextLoss",
    "TextPerplexity",
    "level_configs",
    "polish",
    "search",
]
