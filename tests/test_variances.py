"""Variances of reverse steps against DDPM's formulas from betas, and the learned ones between their bounds."""

import pytest
import torch
from oracles import F64

from denoiselab import variances
from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import Ancestral, Memory
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import DiscreteVP, Level, betas

BETA = betas.linear(30, 1e-3, 0.3, per=30)
CHAIN = DiscreteVP(BETA)
BAR = (1 - BETA).cumprod(0)
BEFORE = torch.cat((torch.ones(1, dtype=F64), BAR[:-1]))
POSTERIOR = BETA * (1 - BEFORE) / (1 - BAR)
HERE = CHAIN.nodes()
X = torch.zeros(30, 2, dtype=F64)


def step(model, raw=None):
    """Log-variances of all steps of the chain, the last one to clean data."""
    out = model(X, raw)(HERE, CHAIN.previous(HERE), CHAIN.following(HERE))
    return out.expand(30, 2)[:, 0]


def test_fixed_variances_are_those_of_ddpm():
    """The first entry is the posterior's second, for small and for large (Ho et al.'s code)."""
    small = torch.cat((POSTERIOR[1:2], POSTERIOR[1:]))
    large = torch.cat((POSTERIOR[1:2], BETA[1:]))
    assert torch.allclose(step(variances.FixedSmall()), small.log(), rtol=1e-9)
    assert torch.allclose(step(variances.FixedLarge()), large.log(), rtol=1e-9)


def test_learned_range_runs_between_the_bounds_in_log_space():
    """At -1 the posterior, at 1 beta itself, in the last step too; at 0 the geometric mean (arXiv 2102.09672)."""
    small = torch.cat((POSTERIOR[1:2], POSTERIOR[1:])).log()
    model = variances.LearnedRange()
    for raw in (-1.0, -0.4, 0.0, 1.0):
        f = (raw + 1) / 2
        want = f * BETA.log() + (1 - f) * small
        assert torch.allclose(step(model, torch.full_like(X, raw)), want, rtol=1e-9)


def test_learned_is_an_offset_from_beta():
    raw = torch.randn(30, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(step(variances.Learned(), raw), BETA.log() + raw[:, 0], rtol=1e-9)


def test_bounds_are_accurate_for_short_steps():
    """sigma from 1 to 1 + h, where log-SNRs keep their digits: 1 - exp has lost the h^2 of beta = 2 h + h^2."""
    one, h = torch.tensor(1.0, dtype=F64), 2.0**-28
    posterior, beta = variances.posterior_variances(Level(one, one, one + h), Level(one, one, one))
    assert float(beta) == pytest.approx(2 * h + h**2, rel=1e-14, abs=0)
    assert float(posterior) == pytest.approx((2 * h + h**2) / (1 + h) ** 2, rel=1e-14, abs=0)


def test_the_ancestral_sampler_uses_the_models_variance_unless_told_otherwise():
    here, there = HERE.unbind()[20], HERE.unbind()[10]

    def denoise(raw):
        def call(x, level):
            return Prediction(torch.zeros_like(x), x / level.sigma, variances.LearnedRange()(x, raw))

        return call

    x = torch.ones(500, 2, dtype=F64)

    def spread(raw, **options):
        step = Ancestral(UniformTime(), 10, **{"large": None, **options}).between(CHAIN, here, there)
        out = step(denoise(raw * torch.ones_like(x)), x, Memory(), Noise(0, torch.arange(500)))
        return out - out.mean()

    small, large = (v.sqrt() for v in variances.posterior_variances(here, there))
    assert torch.allclose(spread(-1.0), spread(1.0) * small / large)
    assert torch.allclose(spread(-1.0), spread(0.5, large=0.0))
    assert torch.allclose(spread(1.0), spread(0.5, large=1.0))
