"""Samplers: from noise to data over a grid of levels."""

from denoiselab.samplers.adaptive import AdaptiveODE, DPMSolverAdaptive, DPMSolverPPAdaptive
from denoiselab.samplers.analytic_variance import Analytic
from denoiselab.samplers.ancestral import Ancestral
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler
from denoiselab.samplers.checks import check_distilled
from denoiselab.samplers.ddim import DDIM, slerp
from denoiselab.samplers.deis import IPNDM, TAB, RhoAB
from denoiselab.samplers.dpm_solver import (
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSinglestep,
    DPMSolverSinglestep,
)
from denoiselab.samplers.edm import Churn, DPMSolverPPSDE, Renoised
from denoiselab.samplers.langevin import AnnealedLangevin, NCSNLangevin
from denoiselab.samplers.measurement import Measurement, Moments
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.observers import Moment, OnStep, Tally, Trajectory
from denoiselab.samplers.pndm import FON, FPNDM, PLMS, SPNDM
from denoiselab.samplers.predictor_corrector import PredictorCorrector
from denoiselab.samplers.runge_kutta import RXDPM, PFDiff, RhoRK, TimeRK
from denoiselab.samplers.sde import ERSDE, EulerMaruyama, ReverseDiffusion
from denoiselab.samplers.unipc import SASolver, UniPC, UniPCNoise

__all__ = [
    "DDIM",
    "ERSDE",
    "FON",
    "FPNDM",
    "IPNDM",
    "PLMS",
    "RXDPM",
    "SPNDM",
    "TAB",
    "AdaptiveODE",
    "Analytic",
    "Ancestral",
    "AnnealedLangevin",
    "Churn",
    "DPMSolver",
    "DPMSolverAdaptive",
    "DPMSolverFast",
    "DPMSolverPP",
    "DPMSolverPPAdaptive",
    "DPMSolverPPFast",
    "DPMSolverPPSDE",
    "DPMSolverPPSinglestep",
    "DPMSolverSinglestep",
    "EulerMaruyama",
    "Measurement",
    "Memory",
    "Moment",
    "Moments",
    "Multistep",
    "NCSNLangevin",
    "OnStep",
    "OneStep",
    "PFDiff",
    "Planned",
    "PredictorCorrector",
    "Renoised",
    "ReverseDiffusion",
    "RhoAB",
    "RhoRK",
    "SASolver",
    "Sampler",
    "Tally",
    "TimeRK",
    "Trajectory",
    "UniPC",
    "UniPCNoise",
    "check_distilled",
    "slerp",
]
