import pytest
import torch
from oracles import F64, GeometricVE, mixture

from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.schedules import VPLinear
from denoiselab.schedules.base import like

PARAMETERIZATIONS = [parameterizations.eps, parameterizations.x0, parameterizations.v]


class ExactNetwork(torch.nn.Module):
    """What a perfectly trained network of a parameterization would return."""

    def __init__(self, schedule, parameterization, scale):
        super().__init__()
        self.schedule, self.parameterization, self.scale = schedule, parameterization, scale

    def forward(self, x, label):
        level = self.schedule.level(label / self.scale)
        x0, eps, _ = mixture()(x, level)
        a, b = self.parameterization(level)
        return like(a, x) * x0 + like(b, x) * eps


def exact_denoiser(parameterization, schedule=None):
    schedule = schedule or VPLinear()
    return Denoiser(ExactNetwork(schedule, parameterization, 10.0), schedule, parameterization, ScaledTime(10.0))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_recovers_x0_and_eps(parameterization):
    x = torch.randn(7, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    for level in VPLinear().level(torch.tensor([1e-3, 0.1, 0.5, 1.0], dtype=F64)).unbind():
        exact = mixture()(x, level)
        got = exact_denoiser(parameterization)(x, level)
        assert torch.allclose(got.x0, exact.x0, rtol=1e-9, atol=1e-9)
        assert torch.allclose(got.eps, exact.eps, rtol=1e-9, atol=1e-9)
        assert torch.allclose(level.alpha * got.x0 + level.sigma * got.eps, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_serves_levels_of_another_schedule(parameterization):
    ve = GeometricVE()
    x = torch.randn(7, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    for level in ve.level(torch.tensor([0.1, 0.5, 0.9], dtype=F64)).unbind():
        exact = mixture()(x, level)
        got = exact_denoiser(parameterization)(x, level)
        assert torch.allclose(got.x0, exact.x0, rtol=1e-6, atol=1e-6)
        assert torch.allclose(got.eps, exact.eps, rtol=1e-6, atol=1e-6)


def test_a_level_for_each_sample():
    x = torch.randn(3, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    levels = VPLinear().level(torch.tensor([0.1, 0.5, 0.9], dtype=F64))
    whole = exact_denoiser(parameterizations.v)(x, levels)
    for i, level in enumerate(levels.unbind()):
        assert torch.allclose(whole.x0[i], exact_denoiser(parameterizations.v)(x[i : i + 1], level).x0[0])
