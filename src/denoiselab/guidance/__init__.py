"""Guidance: denoisers that change the predictions of another denoiser."""

from denoiselab.guidance.classifier import ClassifierGuided, Form, LogLikelihood, LogPosterior, NoisyClassifier
from denoiselab.guidance.classifier_free import Auto, CFGPlusPlus, ClassifierFree
from denoiselab.guidance.guided import Guidance, Guided, bind
from denoiselab.guidance.guider import Guider, SpaceGuider, State
from denoiselab.guidance.nonlinear import AdaptiveProjected, CFGZeroStar, MagnitudeAware, Tangential
from denoiselab.guidance.scale_schedules import CosineScale, LinearScale, PowerCosineScale, ScaleSchedule

__all__ = [
    "AdaptiveProjected",
    "Auto",
    "CFGPlusPlus",
    "CFGZeroStar",
    "ClassifierFree",
    "ClassifierGuided",
    "CosineScale",
    "Form",
    "Guidance",
    "Guided",
    "Guider",
    "LinearScale",
    "LogLikelihood",
    "LogPosterior",
    "MagnitudeAware",
    "NoisyClassifier",
    "PowerCosineScale",
    "ScaleSchedule",
    "SpaceGuider",
    "State",
    "Tangential",
    "bind",
]
