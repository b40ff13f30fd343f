"""What single continuous schedules promise beyond the common suite."""

import math

import pytest
import torch
from oracles import F64

from denoiselab.schedules import (
    EDM,
    Flow,
    Laplace,
    LearnedLogSNR,
    Shifted,
    SubVP,
    VEGeometric,
    VPCosine,
    VPLinear,
    VPQuadratic,
    VPSigmoid,
    betas,
)
from denoiselab.schedules.discrete import DiscreteVP

T = torch.linspace(1e-3, 1, 101, dtype=F64)


def test_sub_vp_diffusion_is_that_of_its_paper():
    """g^2 = beta (1 - exp(-2 B)) (arXiv 2011.13456, eq. 34)."""
    f, g2 = SubVP().drift_diffusion(T)
    beta, integral = 0.1 + 19.9 * T, 0.1 * T + 9.95 * T**2
    assert torch.allclose(f, -beta / 2, rtol=1e-12)
    assert torch.allclose(g2, -beta * torch.expm1(-2 * integral), rtol=1e-11)


@pytest.mark.parametrize(
    ("discrete", "continuous"),
    [
        (betas.linear(100_000, per=1000), VPLinear()),
        (betas.scaled_linear(100_000, per=1000), VPQuadratic()),
        (betas.cosine(100_000), VPCosine()),
    ],
)
def test_long_chains_approach_the_continuous_schedules(discrete, continuous):
    t = torch.linspace(0.01, 0.99, 23, dtype=F64)
    chain, limit = DiscreteVP(discrete).level(t).lam, continuous.level(t).lam
    assert torch.allclose(chain, limit, atol=2e-3)


def test_shift_is_that_of_simple_diffusion_and_of_sd3():
    """log snr + 2 log ratio; on straight paths t becomes s t / (1 + (s - 1) t) with s = 1 / ratio."""
    t = torch.linspace(0.05, 0.9, 20, dtype=F64)
    assert torch.allclose(Shifted(VPCosine(), 0.25).level(t).lam, VPCosine().level(t).lam + math.log(0.25))
    level = Shifted(Flow(), 1 / 3).level(t)
    assert torch.allclose(level.sigma, 3 * t / (1 + 2 * t))
    assert torch.allclose(level.alpha + level.sigma, torch.ones_like(t))
    assert torch.allclose(Shifted(EDM(), 0.5).level(t).sigma, 2 * t)


def test_laplace_quantiles():
    """For uniform t the log-SNR has the Laplace distribution: scipy's quantile at 1 - t."""
    from scipy.stats import laplace

    t = torch.linspace(0.01, 0.99, 33, dtype=F64)
    got = 2 * Laplace(mean=0.4, scale=0.7).level(t).lam
    assert torch.allclose(got, torch.from_numpy(laplace(0.4, 0.7).isf(t.numpy())), atol=1e-12)


def test_a_learned_schedule_is_trained_through_its_levels_and_its_diffusion():
    torch.manual_seed(0)
    schedule = LearnedLogSNR(width=16)
    t = torch.linspace(0.05, 0.95, 9, dtype=F64)
    parameters = list(schedule.parameters())

    def loss():
        level = schedule.level(t)
        return (level.alpha * level.sigma).sum() + schedule.drift_diffusion(t)[1].log().sum()

    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert (gradient != 0).any()
        with torch.no_grad():  # a float32 parameter, so a coarse difference
            place = int(gradient.abs().flatten().argmax())
            flat, h = parameter.view(-1), 1e-2
            old = float(flat[place])
            flat[place] = old + h
            up = loss()
            flat[place] = old - h
            down = loss()
            flat[place] = old
        assert float((up - down) / (2 * h)) == pytest.approx(float(gradient.flatten()[place]), rel=1e-2)


def test_learned_ends():
    schedule = LearnedLogSNR(log_snr_max=6.0, log_snr_min=-3.0, width=4)
    with torch.no_grad():
        assert schedule.nodes(2).lam.tolist() == pytest.approx([3.0, -1.5])
        schedule.ends.copy_(torch.tensor([8.0, -2.0]))
        assert schedule.nodes(2).lam.tolist() == pytest.approx([4.0, -1.0])
    assert not any(name == "ends" for name, _ in LearnedLogSNR(learn_ends=False).named_parameters())


def test_a_learned_schedule_survives_a_rehearsal():
    with torch.device("meta"):
        schedule = LearnedLogSNR(width=8)
    assert {parameter.device.type for parameter in schedule.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "schedule",
    [
        VPSigmoid(0.0, 3.0, 0.3),
        VPSigmoid(-3.0, 3.0, 0.1),
        VPSigmoid(1.0, 2.0, 5.0, 1e-6, 1.0),
        VPQuadratic(0.1, 40.0, 1e-6),
        VPCosine(0.1, 1e-6, 1.0),
        SubVP(0.2, 12.0, 1e-6),
    ],
)
def test_closed_inverses_with_other_options(schedule):
    t = torch.cat((torch.logspace(-6, -2, 9, dtype=F64), torch.linspace(0.02, 0.999, 30, dtype=F64)))
    t = t.clamp(schedule.t_min, schedule.t_max)
    level = schedule.level(t)
    d_alpha, d_sigma = schedule.derivatives(t)
    slope = (d_alpha / level.alpha - d_sigma / level.sigma).abs()
    blur = 8 * torch.finfo(F64).eps * (1 + level.lam.abs()) / slope  # what lam's last digit moves t by
    assert ((schedule.time_of(level.lam) - t).abs() <= 1e-13 * t + blur).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VEGeometric(50.0, 0.01), "sigma_min=50.0 and sigma_max=0.01"),
        (lambda: EDM(0.0, 80.0), "sigma_min=0.0"),
        (lambda: VPQuadratic(12.0, 0.85), "beta_min=12.0 and beta_max=0.85"),
        (lambda: VPCosine(s=0.0), "s=0.0"),
        (lambda: VPCosine(t_max=1.5), "t_max=1.5"),
        (lambda: VPSigmoid(3.0, -3.0), "start=3.0 and end=-3.0"),
        (lambda: VPSigmoid(tau=0.0), "tau=0.0"),
        (lambda: VPSigmoid(tau=math.nan), "tau=nan"),
        (lambda: VPSigmoid(tau=0.001), "tau=0.001: start=-3.0 and end=3.0"),
        (lambda: VPCosine(s=math.nan), "s=nan"),
        (lambda: VPLinear(beta_max=math.inf), "beta_max=inf"),
        (lambda: EDM(sigma_max=math.inf), "sigma_max=inf"),
        (lambda: Laplace(mean=math.nan), "mean=nan"),
        (lambda: Laplace(scale=math.nan), "scale=nan"),
        (lambda: Shifted(Flow(), math.nan), "ratio=nan"),
        (lambda: Shifted(Flow(), math.inf), "ratio=inf"),
        (lambda: LearnedLogSNR(log_snr_max=math.inf), "log_snr_max=inf"),
        (lambda: Laplace(scale=-1.0), "scale=-1.0"),
        (lambda: Laplace(t_max=1.0), "t_max=1.0"),
        (lambda: LearnedLogSNR(log_snr_max=-5.0, log_snr_min=5.0), "log_snr_min=5.0 and log_snr_max=-5.0"),
        (lambda: LearnedLogSNR(width=0), "width=0"),
        (lambda: VPLinear().nodes(), "steps=null: VPLinear is continuous"),
        (lambda: VPLinear().nodes(1), "steps=1"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
