"""Scores of samplers, with their protocol."""

from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.features import DomainClassifier
from denoiselab.evaluation.frontier import Frontier
from denoiselab.evaluation.optimized import OptimizedMetric
from denoiselab.evaluation.scorer import Extractor, Score, Scorer, Statistics
from denoiselab.evaluation.store import Record, Store
from denoiselab.evaluation.wasserstein import SlicedWasserstein

__all__ = [
    "DomainClassifier",
    "Extractor",
    "Frontier",
    "OptimizedMetric",
    "Record",
    "Score",
    "Scorer",
    "SlicedWasserstein",
    "Statistics",
    "Store",
    "Subject",
]
