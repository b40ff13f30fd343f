"""Training objectives: one loss per sample, unreduced."""

from denoiselab.objectives.alignment import RepresentationAlignment
from denoiselab.objectives.base import Objective
from denoiselab.objectives.classification import CrossEntropy
from denoiselab.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from denoiselab.objectives.continuous import ContinuousBound
from denoiselab.objectives.denoising import DenoisingObjective
from denoiselab.objectives.flow_maps import ImprovedMeanFlow, MeanFlow, Shortcut
from denoiselab.objectives.progressive import Progressive
from denoiselab.objectives.score_matching import ImplicitScoreMatching, SlicedScoreMatching
from denoiselab.objectives.variational import Hybrid, SohlDickstein, VariationalBound

__all__ = [
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "ContinuousBound",
    "CrossEntropy",
    "DenoisingObjective",
    "Hybrid",
    "ImplicitScoreMatching",
    "ImprovedMeanFlow",
    "MeanFlow",
    "Objective",
    "Progressive",
    "RepresentationAlignment",
    "Shortcut",
    "SlicedScoreMatching",
    "SohlDickstein",
    "VariationalBound",
]
