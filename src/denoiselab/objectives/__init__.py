"""Training objectives: one loss per sample, unreduced."""

from denoiselab.objectives.denoising import DenoisingObjective

__all__ = ["DenoisingObjective"]
