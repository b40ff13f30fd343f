"""Denoisers that hold a denoiser, and steer it."""

from denoiselab.guidance.classifier_free import ClassifierFree, bind

__all__ = ["ClassifierFree", "bind"]
