import math

import pytest
import torch
from oracles import F64, GeometricVE

from denoiselab.schedules import Level, Schedule, VPFitted, VPLinear

T = torch.linspace(1e-3, 1, 101, dtype=F64)


def test_is_the_published_schedule():
    level = VPLinear().level(torch.tensor([1.0, 1e-3, 1e-4, 1e-5], dtype=F64))
    # papers: half log-SNR and sigma/alpha of the continuous linear schedule
    assert level.lam.tolist() == pytest.approx([-5.025, 4.558, 5.752, 6.907], abs=6e-4)
    assert level.rho.tolist() == pytest.approx([152.2, 0.01049, 0.00318, 0.0010], rel=4e-3)
    assert torch.allclose(level.alpha**2 + level.sigma**2, torch.ones(4, dtype=F64), rtol=0, atol=1e-15)
    exact = [math.sqrt(-math.expm1(-(0.1 * t + 9.95 * t * t))) for t in (1.0, 1e-3, 1e-4, 1e-5)]
    assert level.sigma.tolist() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("schedule", [VPLinear(), VPLinear(0.2, 12.0, 1e-5), VPLinear(0.0), VPFitted(), GeometricVE()])
def test_inverse(schedule):
    t = torch.linspace(schedule.t_min, schedule.t_max, 57, dtype=F64)
    lam = schedule.level(t).lam
    assert (lam.diff() < 0).all()
    assert torch.allclose(schedule.at(lam).t, t, rtol=1e-12, atol=1e-12)
    assert torch.allclose(Schedule.time_of(schedule, lam), t, rtol=1e-10, atol=1e-13)


def test_drift_and_diffusion_of_the_sde():
    f, g2 = VPLinear().drift_diffusion(T)
    beta = 0.1 + 19.9 * T
    assert torch.allclose(f, -beta / 2, rtol=1e-13)
    assert torch.allclose(g2, beta, rtol=1e-12)


def test_float32_sigma_is_accurate_near_the_data():
    schedule = VPLinear()
    t = torch.tensor([1e-5, 1e-4, 1e-3])
    assert torch.allclose(schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=1e-6)


@pytest.mark.parametrize("bad", [(20.0, 0.1, 1e-3), (-0.0101, 20.0, 1e-3), (0.1, 20.0, 0.0), (0.1, 20.0, 1.0)])
def test_impossible_values_are_refused(bad):
    with pytest.raises(ValueError, match=r"beta_min=|t_min="):
        VPLinear(*bad)


def test_level_is_a_value():
    level = VPLinear().level(T)
    parts = level.unbind()
    assert len(parts) == len(T)
    assert parts[3].alpha == level.alpha[3]
    assert torch.allclose(level.snr.log(), 2 * level.lam)
    assert Level.clean().is_end
    assert not parts[0].is_end


def test_edms_fit_has_its_range():
    """`ablation_sampler` of NVlabs/edm: beta_d and beta_min of sigma_min = 0.002 at 1e-3, and sigma_max = 80 at 1."""
    beta_d = 2 * (math.log(0.002**2 + 1) / 1e-3 - math.log(80**2 + 1)) / (1e-3 - 1)
    beta_min = math.log(80**2 + 1) - 0.5 * beta_d
    schedule = VPFitted(0.002, 80.0, 1e-3)
    assert schedule.beta_min == pytest.approx(beta_min, rel=1e-10)
    assert -0.005 < schedule.beta_min < -0.004
    assert schedule.beta_max - schedule.beta_min == pytest.approx(beta_d, rel=1e-14)
    level = schedule.level(torch.tensor([1e-3, 0.3, 1.0], dtype=F64))
    assert level.rho[[0, 2]].tolist() == pytest.approx([0.002, 80.0], rel=1e-9)
    t = torch.tensor([0.3], dtype=F64)
    assert torch.allclose(level.rho[1], (torch.exp(0.5 * beta_d * t**2 + beta_min * t) - 1).sqrt(), rtol=1e-12)
    assert (schedule.drift_diffusion(T)[1] > 0).all()
    for bad in ({"rho_min": 0.0}, {"rho_min": 90.0}, {"t_min": 1.0}):
        with pytest.raises(ValueError, match=r"rho_min=|t_min="):
            VPFitted(**bad)
