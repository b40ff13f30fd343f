"""Scores of samplers, with their protocol."""

from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.features.classifier import DomainClassifier
from denoiselab.evaluation.features.pretrained import CLIP, VGG16, DINOv2, EfficientNetLite0, InceptionV3
from denoiselab.evaluation.frontier import Control, Frontier
from denoiselab.evaluation.metrics.neighbours import DensityCoverage, PrecisionRecall
from denoiselab.evaluation.metrics.of_features import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Metric,
)
from denoiselab.evaluation.metrics.wasserstein import SlicedWasserstein
from denoiselab.evaluation.optimized import OptimizedMetric
from denoiselab.evaluation.scorer import Extractor, Given, Measure, Reference, Score, Scorer, Statistics
from denoiselab.evaluation.store import Record, Store

__all__ = [
    "CLIP",
    "VGG16",
    "Control",
    "DINOv2",
    "DensityCoverage",
    "DomainClassifier",
    "EfficientNetLite0",
    "Extractor",
    "FrechetDistance",
    "Frontier",
    "Given",
    "InceptionScore",
    "InceptionV3",
    "KernelDistance",
    "Measure",
    "Metric",
    "OptimizedMetric",
    "PrecisionRecall",
    "Record",
    "Reference",
    "Score",
    "Scorer",
    "SlicedWasserstein",
    "Statistics",
    "Store",
    "Subject",
]
