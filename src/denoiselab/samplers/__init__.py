"""Samplers: from noise to data over a grid of levels."""

from denoiselab.samplers.ancestral import Ancestral
from denoiselab.samplers.base import Sampler, count_calls, integrate, move_eps, move_x0
from denoiselab.samplers.ddim import DDIM
from denoiselab.samplers.dpm_solver import DPMSolverPlusPlus2M
from denoiselab.samplers.edm import Heun

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolverPlusPlus2M",
    "Heun",
    "Sampler",
    "count_calls",
    "integrate",
    "move_eps",
    "move_x0",
]
