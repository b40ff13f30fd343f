"""Likelihoods against exact densities and the entropies of known distributions."""

import functools
import math

import pytest
import torch
from exact import exact, normal, z_score
from oracles import F64, mixture

from denoiselab import schedules, variances
from denoiselab.analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from denoiselab.evaluation.dequantisation import Real, TruncatedNormal, Uniform
from denoiselab.evaluation.likelihood import ChainBound, ContinuousTimeBound, ExactTrace, FlowLikelihood, Hutchinson
from denoiselab.noise import Noise
from denoiselab.objectives import projections
from denoiselab.objectives.decoders import Categorical, ContinuousGaussian, DiscretisedGaussian
from denoiselab.schedules import betas

LOG2 = math.log(2)
SCHEDULES = {
    "vp": schedules.VPLinear(),
    "flow": schedules.Flow(),  # from pure noise
    "cosine": schedules.VPCosine(t_max=1.0),
    "edm": schedules.EDM(),
    "sub_vp": schedules.SubVP(),
    "discrete": schedules.DiscreteVP(betas.linear(1000)),
}


def noise(n, seed=0):
    return Noise(seed, torch.arange(n))


def ends(schedule):
    return schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=F64)).unbind()


def plane_mixture():
    """Two components in the plane, of unequal width."""
    return MixtureDenoiser(
        torch.tensor([[-1.0, 0.3], [0.8, -0.2]], dtype=F64), torch.tensor([0.3, 0.5], dtype=F64),
        torch.tensor([0.4, 0.6], dtype=F64),
    )  # fmt: skip


def draw(oracle, n):
    """Points of a mixture."""
    which = torch.multinomial(oracle.weights, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return oracle.means[which] + oracle.stds[which, None] * normal(n, oracle.means.shape[1])


def density(oracle, schedule, y):
    """Log-density of y = x / alpha at the least noisy level."""
    first = ends(schedule)[0]
    return oracle.log_density(first.alpha * y, first) + y.shape[1] * first.alpha.log()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-5, 1e-8])
def test_the_ode_has_the_exact_density(name, tolerance):
    """At every point, to the solver's tolerance and what the prior is off by."""
    schedule, oracle = SCHEDULES[name], plane_mixture()
    if name == "discrete" and tolerance < 1e-5:
        pytest.skip("its log-SNR has kinks")
    y = draw(oracle, 40)
    method = FlowLikelihood(Real(), ExactTrace(), tolerance, tolerance)
    got = sum(method.log_density(oracle, schedule, y, noise(40), F64))
    want = density(oracle, schedule, y)
    print(name, tolerance, (got - want).abs().max())
    assert (got - want).abs().max() < 1e-3
