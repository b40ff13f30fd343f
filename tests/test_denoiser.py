import functools

import pytest
import torch
from configurations import build, names
from oracles import F64, GeometricVE, mixture

from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, LogNoise, ScaledTime, StepIndex, UnitVariance
from denoiselab.schedules import EDM, DiscreteVP, Level, VPLinear, betas
from denoiselab.schedules.base import like

PARAMETERIZATIONS = [parameterizations.eps, parameterizations.x0, parameterizations.v]


class ExactNetwork(torch.nn.Module):
    """What a perfectly trained network of a parameterization would return."""

    def __init__(self, schedule, parameterization, scale):
        super().__init__()
        self.schedule, self.parameterization, self.scale = schedule, parameterization, scale

    def forward(self, x, label, cond=None):
        level = self.schedule.level(label / self.scale)
        x0, eps, *_ = mixture()(x, level)
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


def test_half_precision_leaves_time_labels_as_they_are():
    seen = []
    network = torch.nn.Module()
    network.forward = lambda x, label, cond: seen.append(label) or x
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())
    x = torch.zeros(3, 1, dtype=torch.bfloat16)
    assert denoiser(x, VPLinear().level(torch.tensor(0.999, dtype=F64))).x0.dtype == torch.bfloat16
    assert seen[0].tolist() == [999.0] * 3


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


@functools.cache
def configured(name):
    torch.manual_seed(0)
    return build("schedule", name, *(["width=8"] if name == "learned" else []))


@pytest.mark.parametrize("home", names("schedule"))
def test_every_schedule_serves_levels_of_every_other(home):
    """One network, trained on `home`: the prediction at equal log-SNR is the same along all paths."""
    torch.manual_seed(1)
    inner = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()

    class Network(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return inner(torch.cat((x, label[:, None]), 1))

    own = configured(home)
    denoiser = Denoiser(Network(), own, parameterizations.v, LogNoise())
    z = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for other in map(configured, names("schedule")):
            ends = [s.level(torch.tensor([s.t_max, s.t_min], dtype=F64)).lam for s in (own, other)]
            low, high = max(float(e[0]) for e in ends), min(float(e[1]) for e in ends)
            for lam in torch.linspace(max(low, -5.0), high, 7, dtype=F64)[1:-1]:
                here, there = own.at(lam), other.at(lam)
                x = z * torch.hypot(here.alpha, here.sigma)
                want = denoiser(x, here)
                got = denoiser(x * (there.sigma / here.sigma), there)
                assert torch.allclose(got.x0, want.x0, rtol=1e-6, atol=1e-6)
                assert torch.allclose(got.eps, want.eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 1e-5), (1.0, 1e4), (0.0, 1.0)])
def test_levels_beyond_the_home_schedule_still_add_up(alpha, sigma):
    level = Level(torch.zeros((), dtype=F64), torch.tensor(alpha, dtype=F64), torch.tensor(sigma, dtype=F64))
    x = torch.randn(5, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    x0, eps, *_ = exact_denoiser(parameterizations.v)(x, level)
    assert torch.allclose(alpha * x0 + sigma * eps, x, rtol=1e-9, atol=1e-12)
    assert x0.isfinite().all()


@pytest.mark.parametrize("home", ["flow", "trigonometric", "zero_snr", "vp_linear"])
@pytest.mark.parametrize("other", ["flow", "trigonometric", "zero_snr"])
def test_pure_noise_of_one_path_is_pure_noise_of_another(home, other):
    """At alpha = 0 on both, where their ratio is 0 / 0: eps is x / sigma and x0 what the network says at home."""
    own, level = configured(home), configured(other).level(torch.ones(1, dtype=F64))
    assert level.alpha == 0
    x = torch.randn(5, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    denoiser = exact_denoiser(parameterizations.v, own)
    for there in (level, level.unbind()[0]):
        got = denoiser(x, there)
        want = denoiser(x / level.sigma * own.level(torch.ones(1, dtype=F64)).sigma, own.level(there.t))
        assert torch.allclose(got.x0, want.x0, rtol=1e-9)
        assert torch.allclose(got.eps, x / level.sigma, rtol=1e-9)


def test_input_of_unit_variance():
    """E x^2 c_in^2 = 1 for data of the stated deviation, on any path."""
    for schedule in (EDM(), VPLinear()):
        level = schedule.level(torch.linspace(schedule.t_min, schedule.t_max, 9, dtype=F64))
        variance = 0.3**2 * level.alpha**2 + level.sigma**2
        assert torch.allclose(UnitVariance(0.3)(level).square() * variance, torch.ones(9, dtype=F64))

    class Echo(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return x

    plain, scaled = (Denoiser(Echo(), EDM(), parameterizations.eps, LogNoise(), s) for s in (None, UnitVariance(0.3)))
    level = EDM().level(torch.tensor(2.0, dtype=F64))
    x = torch.ones(2, 3)
    assert torch.allclose(scaled.output(x, level).out, plain.output(x, level).out / (0.09 + 4) ** 0.5)
    assert torch.allclose(scaled(x, level).eps, x / (0.09 + 4) ** 0.5)
    assert torch.allclose(scaled(x, level).x0 + 2 * scaled(x, level).eps, x)
    with pytest.raises(ValueError, match=r"sigma_data=0\.0"):
        UnitVariance(0.0)


def test_time_labels():
    chain = DiscreteVP(betas.linear(40, 1e-3, 0.3, per=40))
    assert torch.allclose(StepIndex()(chain.nodes()), torch.arange(40, dtype=F64), atol=1e-12)
    between = chain.level(torch.tensor([0.26, 0.51], dtype=F64))
    assert torch.allclose(StepIndex()(between), torch.tensor([9.4, 19.4], dtype=F64))
    assert StepIndex(nearest=True)(between).tolist() == [9.0, 19.0]
    level = EDM().level(torch.tensor([0.5, 3.0], dtype=F64))
    assert torch.allclose(LogNoise()(level), level.sigma.log() / 4)
    with pytest.raises(ValueError, match="this one is continuous"):
        StepIndex()(level)


def test_the_index_of_a_step_may_be_scaled():
    """improved-diffusion's `rescale_timesteps`: a chain of 4000 steps is told in 1000ths of itself."""
    label = StepIndex(scale=1000 / 4000)(DiscreteVP(betas.listed([1e-4] * 4000)).nodes())
    torch.testing.assert_close(label, torch.arange(4000, dtype=torch.float64) / 4, rtol=0, atol=1e-9)
