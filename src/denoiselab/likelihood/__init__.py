"""Likelihood in bits per dimension.

`base` says what a method is; `ode` and `bounds` are the methods, `dequantisation` turns bytes into real numbers for
them, and `bits_per_dim` measures a data set and reports it.
"""

from denoiselab.likelihood.base import Estimate, Likelihood
from denoiselab.likelihood.bits_per_dim import BitsPerDim, Draws, Mean, measure
from denoiselab.likelihood.bounds import ChainBound, ContinuousTimeBound
from denoiselab.likelihood.ode import ExactTrace, FlowLikelihood, Hutchinson, Trace

__all__ = [
    "BitsPerDim",
    "ChainBound",
    "ContinuousTimeBound",
    "Draws",
    "Estimate",
    "ExactTrace",
    "FlowLikelihood",
    "Hutchinson",
    "Likelihood",
    "Mean",
    "Trace",
    "measure",
]
