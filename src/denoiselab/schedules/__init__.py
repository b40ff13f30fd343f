"""Noise schedules: what x_t = alpha_t x0 + sigma_t eps is at each time."""

from denoiselab.schedules.base import Level, Schedule
from denoiselab.schedules.vp import VPLinear

__all__ = ["Level", "Schedule", "VPLinear"]
