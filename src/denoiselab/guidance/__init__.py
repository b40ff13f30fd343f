"""Guidance: denoisers that change the predictions of another denoiser."""

from denoiselab.guidance.base import ClassifierFree, Guidance, Guider, bind
from denoiselab.guidance.classifier import ClassifierGuided, LogPosterior, NoisyClassifier

__all__ = ["ClassifierFree", "ClassifierGuided", "Guidance", "Guider", "LogPosterior", "NoisyClassifier", "bind"]
