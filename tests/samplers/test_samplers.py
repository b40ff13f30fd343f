import itertools

import pytest
import torch
from oracles import F64, interior_levels, mixture

from denoiselab import samplers
from denoiselab.noise import Noise
from denoiselab.samplers import count_calls
from denoiselab.samplers.spacing import Karras, UniformLogSNR, UniformTime
from denoiselab.schedules import VPLinear

KINDS = [samplers.Ancestral, samplers.DDIM, samplers.DPMSolverPlusPlus2M, samplers.Heun]
SPACINGS = [UniformTime, UniformLogSNR, Karras]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("to_clean", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_nfe_is_what_is_called(kind, spacing, to_clean, steps):
    sampler = kind(spacing=spacing(to_clean=to_clean), steps=steps)
    denoise = count_calls(mixture())
    x = sampler(denoise, VPLinear(), (1,), Noise(0, torch.arange(5)), dtype=F64)
    assert x.isfinite().all()
    assert denoise.calls == sampler.nfe(steps)
    assert sampler.steps_for(sampler.nfe(steps)) == steps
    assert sampler.steps_for(sampler.nfe(steps) + sampler.calls_per_step - 1) == steps


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match="nfe=1: Heun takes at least 2"):
        samplers.Heun(Karras(to_clean=False), 3).steps_for(1)
    with pytest.raises(ValueError, match="steps=0"):
        samplers.DDIM(UniformTime(), 0)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings(spacing):
    schedule = VPLinear()
    clean = spacing()(schedule, 10)
    assert len(clean) == 11
    assert clean[0].t == schedule.t_max
    assert clean[-1].sigma == 0
    stop = spacing(to_clean=False)(schedule, 10)
    assert len(stop) == 11
    assert float(stop[-1].t) == pytest.approx(schedule.t_min, rel=1e-9)
    for levels in (clean[:-1], stop):
        assert all(a.lam < b.lam for a, b in itertools.pairwise(levels))


def test_karras_spacing_is_the_published_one():
    levels = Karras()(VPLinear(), 6)[:-1]
    rho = torch.stack([level.rho for level in levels]) ** (1 / 7)
    assert torch.allclose(rho.diff(), rho.diff().mean().expand(5), rtol=1e-9)


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    args = (mixture(), VPLinear(), (1,))
    a = samplers.DDIM(UniformTime(), 20, eta=1.0)(*args, Noise(0, torch.arange(9)), dtype=F64)
    b = samplers.Ancestral(UniformTime(), 20)(*args, Noise(0, torch.arange(9)), dtype=F64)
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_moving_by_constant_x0_or_eps_is_exact():
    here, there = interior_levels(VPLinear(), 1)
    x0, eps = torch.tensor([[0.3]], dtype=F64), torch.tensor([[-1.2]], dtype=F64)
    x, y = (level.alpha * x0 + level.sigma * eps for level in (here, there))
    assert torch.allclose(samplers.move_x0(x, here, there, x0), y)
    assert torch.allclose(samplers.move_eps(x, here, there, eps), y)


@pytest.mark.parametrize("large", [0.0, 0.5, 1.0])
def test_ancestral_samples_have_the_data_distribution(large):
    """Mean and variance of the mixture, within four standard errors of 20,000 samples at 400 steps."""
    oracle = mixture()
    sampler = samplers.Ancestral(UniformTime(), 400, large=large)
    x = sampler(oracle, VPLinear(), (1,), Noise(1, torch.arange(20_000)), dtype=F64)[:, 0]
    w, m, s = oracle.weights, oracle.means[:, 0], oracle.stds
    mean = (w * m).sum()
    variance = (w * (s**2 + m**2)).sum() - mean**2
    assert abs(x.mean() - mean) < 4 * (variance / len(x)) ** 0.5
    # Discretisation leaves about a percent; the standard error of a variance is sqrt(2/n) at most here.
    assert abs(x.var() / variance - 1) < 4 * (2 / len(x)) ** 0.5 + 0.01


def test_a_sample_does_not_depend_on_its_batch():
    for kind in KINDS:
        sampler = kind(spacing=UniformTime(), steps=6)
        whole = sampler(mixture(), VPLinear(), (1,), Noise(0, torch.arange(10)))
        parts = [sampler(mixture(), VPLinear(), (1,), Noise(0, i)) for i in torch.arange(10).split(3)]
        assert torch.allclose(whole, torch.cat(parts), rtol=0, atol=1e-6)


def test_on_step_can_stop_a_run():
    seen = []

    def on_step(step):
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        samplers.DDIM(UniformTime(), 9)(mixture(), VPLinear(), (1,), Noise(0, torch.arange(2)), on_step=on_step)
    assert seen == [1, 2, 3]
