"""Denoisers that are exact, the noise of their tests, and how far a mean lies from what it should be."""

import torch
from oracles import F64

from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.noise import Noise


class Exact(torch.nn.Module):
    """The network that predicts eps as a closed-form denoiser does."""

    def __init__(self, oracle, schedule):
        super().__init__()
        self.oracle, self.schedule = oracle, schedule

    def forward(self, x, label, cond=None):
        return self.oracle(x, self.schedule.level(label)).eps


def exact(oracle, schedule, variance=None):
    return Denoiser(Exact(oracle, schedule), schedule, parameterizations.eps, ScaledTime(1.0), variance=variance)


def noise(n, seed=0):
    return Noise(seed, torch.arange(n))


def normal(n, dimension=1, seed=3):
    return Noise(seed, torch.arange(n)).normal((dimension,), F64)


def z_score(values, expected=0.0):
    return float((values.mean() - expected) / (values.std() / len(values) ** 0.5))
