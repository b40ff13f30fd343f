"""Guidance: denoisers that change the predictions of another denoiser."""

from denoiselab.guidance.classifier import ClassifierGuided, LogPosterior, NoisyClassifier
from denoiselab.guidance.classifier_free import ClassifierFree, bind

__all__ = ["ClassifierFree", "ClassifierGuided", "LogPosterior", "NoisyClassifier", "bind"]
