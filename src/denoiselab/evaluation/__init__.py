"""Scores of samplers, with all that they depend on.

`contracts` and `feature_contracts` say what the parts are; `metrics`, `references` and `features` have
them, `frontier` scores the cells of a frontier, `store` keeps the records, and `report` shows them.
"""

from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.contracts import (
    ContractError,
    Extractor,
    Given,
    Influences,
    Measure,
    Reference,
    Score,
    Scorer,
    Statistics,
    Workspace,
)
from denoiselab.evaluation.feature_contracts import FeatureExtractor, Layer, Metric
from denoiselab.evaluation.features.classifier import DomainClassifier
from denoiselab.evaluation.features.clip_folder import CLIPFolder
from denoiselab.evaluation.features.dinov2 import DINOv2
from denoiselab.evaluation.features.efficientnet import EfficientNetLite0
from denoiselab.evaluation.features.fidelity import CLIP, VGG16, InceptionV3
from denoiselab.evaluation.features.judge import LinearJudge
from denoiselab.evaluation.features.several import SeveralExtractors
from denoiselab.evaluation.frontier import Frontier
from denoiselab.evaluation.metrics.class_accuracy import ClassAccuracy
from denoiselab.evaluation.metrics.clip_score import CLIPScore
from denoiselab.evaluation.metrics.frechet import FrechetDistance
from denoiselab.evaluation.metrics.frechet_ratio import FrechetRatio
from denoiselab.evaluation.metrics.inception_score import InceptionScore
from denoiselab.evaluation.metrics.kernel import KernelDistance
from denoiselab.evaluation.metrics.memorisation import Memorisation
from denoiselab.evaluation.metrics.monge import MongeInceptionDistance
from denoiselab.evaluation.metrics.neighbours import DensityCoverage, PrecisionRecall
from denoiselab.evaluation.metrics.retrieval import Retrieval
from denoiselab.evaluation.metrics.wasserstein import SlicedWasserstein
from denoiselab.evaluation.optimized import OptimizedMetric
from denoiselab.evaluation.plans import Control
from denoiselab.evaluation.records import Record
from denoiselab.evaluation.standing import Stopping, Undecidable
from denoiselab.evaluation.store import Store

__all__ = [
    "CLIP",
    "VGG16",
    "CLIPFolder",
    "CLIPScore",
    "ClassAccuracy",
    "ContractError",
    "Control",
    "DINOv2",
    "DensityCoverage",
    "DomainClassifier",
    "EfficientNetLite0",
    "Extractor",
    "FeatureExtractor",
    "FrechetDistance",
    "FrechetRatio",
    "Frontier",
    "Given",
    "InceptionScore",
    "InceptionV3",
    "Influences",
    "KernelDistance",
    "Layer",
    "LinearJudge",
    "Measure",
    "Memorisation",
    "Metric",
    "MongeInceptionDistance",
    "OptimizedMetric",
    "PrecisionRecall",
    "Record",
    "Reference",
    "Retrieval",
    "Score",
    "Scorer",
    "SeveralExtractors",
    "SlicedWasserstein",
    "Statistics",
    "Stopping",
    "Store",
    "Subject",
    "Undecidable",
    "Workspace",
]
