"""Noise schedules: what x_t = alpha_t x0 + sigma_t eps is at each time."""

from denoiselab.schedules.base import Level, Schedule
from denoiselab.schedules.discrete import DiscreteVE, DiscreteVP
from denoiselab.schedules.flow import Flow, Trigonometric
from denoiselab.schedules.learned import LearnedLogSNR
from denoiselab.schedules.log_snr import Laplace, LogSNR, Shifted
from denoiselab.schedules.ve import EDM, VEGeometric
from denoiselab.schedules.vp import SubVP, VPCosine, VPFitted, VPLinear, VPQuadratic, VPSigmoid

__all__ = [
    "EDM",
    "DiscreteVE",
    "DiscreteVP",
    "Flow",
    "Laplace",
    "LearnedLogSNR",
    "Level",
    "LogSNR",
    "Schedule",
    "Shifted",
    "SubVP",
    "Trigonometric",
    "VEGeometric",
    "VPCosine",
    "VPFitted",
    "VPLinear",
    "VPQuadratic",
    "VPSigmoid",
]
