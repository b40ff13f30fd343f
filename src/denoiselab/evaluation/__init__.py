"""Scores of samplers, with their protocol."""

from denoiselab.evaluation.features import DomainClassifier
from denoiselab.evaluation.frontier import Frontier
from denoiselab.evaluation.scorer import Extractor, Score, Scorer, Statistics
from denoiselab.evaluation.wasserstein import SlicedWasserstein

__all__ = ["DomainClassifier", "Extractor", "Frontier", "Score", "Scorer", "SlicedWasserstein", "Statistics"]
