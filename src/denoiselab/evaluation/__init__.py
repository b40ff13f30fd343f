"""Scores of samplers, with their protocol."""

from denoiselab.evaluation.features import DomainClassifier
from denoiselab.evaluation.frontier import Frontier

__all__ = ["DomainClassifier", "Frontier"]
