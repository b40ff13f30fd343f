"""What guidance samples, where it is known: it is not p(x | c)^w p(x)^(1 - w)."""

import functools
import math
from itertools import pairwise

import pytest
import torch
from guided_models import Always, Pair, bound, classes, gaussian, modes, values
from oracles import F64

from denoiselab import sampler as build
from denoiselab.guidance import Auto, CFGPlusPlus, ClassifierFree, Guidance
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, Ancestral, DPMSolverPP, PredictorCorrector
from denoiselab.samplers.spacing import Asinh
from denoiselab.schedules import Trigonometric, VPLinear

QUANTILES = torch.special.ndtri((torch.arange(1000, dtype=F64) + 0.5) / 1000)[:, None]


class Basis:
    """Noise that is 1 at draw k in row k, and else 0: by it an affine sampler's moments are known exactly."""

    def __init__(self, rows):
        self.rows, self.draws = rows, 0

    def draw(self, *_):
        self.draws += 1
        return torch.nn.functional.one_hot(torch.tensor(self.draws), self.rows).to(F64)[:, None]

    normal = like = between = draw


def moments(sampler, model, scale):
    rows = sampler.steps + 2 if sampler.stochastic else 2
    x = sampler(bound(model, scale, rows), Trigonometric(), (1,), Basis(rows), dtype=F64)[:, 0]
    return float(x[0]), float((x[1:] - x[0]).square().sum())


def pushed(sampler, denoise):
    """Samples of all quantiles of the noise: a flow on the line keeps their order."""
    return sampler(denoise, Trigonometric(), (1,), Noise(0, torch.arange(1000)), start=QUANTILES, dtype=F64)[:, 0]


def test_gaussians_of_equal_covariances_are_tilted_exactly():
    for w, mean in ((1.0, 1.0), (4.0, 4.0), (-1.0, -1.0)):
        found = moments(DPMSolverPP(Asinh(), 120), Pair(gaussian(1.0, 0.25), gaussian(0.0, 0.25)), w)
        assert found == pytest.approx((mean, 0.25), rel=5e-3)


@pytest.mark.parametrize(
    ("w", "ode", "sde"), [(2.0, (1.3802, 0.0625), (1.25, 0.1094)), (4.0, (1.5176, 0.003906), (1.3281, 0.04762))]
)
def test_gaussians_of_unequal_covariances_are_not(w, ode, sde):
    """N(1, 1/4) guided from N(0, 1): the tilted moments are 1.1429, 0.1429 at w = 2 and 1.2308, 0.0769 at w = 4."""
    model = Pair(gaussian(1.0, 0.25), gaussian(0.0, 1.0))
    assert moments(DPMSolverPP(Asinh(), 200), model, w) == pytest.approx(ode, rel=6e-3)
    mean, variance = moments(Ancestral(Asinh(), 200), model, w)
    assert mean == pytest.approx(sde[0], rel=3e-3)
    finer = moments(Ancestral(Asinh(), 400), model, w)[1]
    assert 2 * finer - variance == pytest.approx(sde[1], rel=0.01)  # the error is of order 1 / N


@pytest.mark.parametrize(
    ("std", "w", "mean", "of", "below"),
    [(0.5, 2.0, 1.3245, 0.3599, 0.0), (0.5, 4.0, 1.6816, 0.2914, 0.0), (1.0, 2.0, 1.6125, 0.7617, 0.0093)],
)
def test_a_class_of_a_mixture_by_the_ode(std, w, mean, of, below):
    """Of 480 steps; the tilted means are 1.0355, 1.0616 and 1.29, the standard deviations 0.468, 0.45 and 0.863."""
    x = pushed(DPMSolverPP(Asinh(), 120), bound(Pair(modes(std, 1.0), modes(std, -1.0, 1.0)), w, 1000))
    assert (float(x.mean()), float(x.std())) == pytest.approx((mean, of), abs=1e-3)
    assert float((x < 0).double().mean()) == pytest.approx(below, abs=1e-3)


def test_corrections_at_each_level_repair_it():
    """Langevin steps leave the tilted density of each level as it is; its mean is 1.0355, the sampler's alone 1.17."""
    index, means = torch.arange(2000), []
    for sampler in (
        Ancestral(Asinh(), 40),
        PredictorCorrector(Asinh(), 40, Ancestral(), corrector_steps=4, snr=0.45, annealed=True),
    ):
        denoise = bound(Pair(modes(0.5, 1.0), modes(0.5, -1.0, 1.0)), 2.0, len(index))
        means.append(float(sampler(denoise, VPLinear(), (1,), Noise(0, index), dtype=F64).mean()))
    assert means[0] == pytest.approx(1.17, abs=0.03)
    assert means[1] == pytest.approx(1.0355, abs=0.04)


def test_autoguidance_narrows_modes_and_keeps_them():
    for scale, std in ((1.0, 0.482), (1.5, 0.407), (2.0, 0.346), (3.0, 0.253)):
        guidance = Guidance(scale, Auto(guide=Always(modes(0.8, -1.0, 1.0)), named="wide"))
        x = pushed(DPMSolverPP(Asinh(), 120), bound(Always(modes(0.5, -1.0, 1.0)), guidance, 1000))
        assert float(x[x > 0].std()) == pytest.approx(std, abs=2e-3)
        assert float((x > 0).double().mean()) == 0.5


def test_cfg_plus_plus_is_ddim_with_a_scale_that_grows_with_the_steps():
    schedule, model = Trigonometric(), Pair(modes(0.5, 1.0), modes(0.5, -1.0, 1.0))
    found = []
    for steps in (10, 20, 50, 200):
        sampler = DDIM(Asinh(), steps)
        x = pushed(sampler, bound(model, Guidance(0.6, CFGPlusPlus()), 1000))
        found.append(float(x.mean()))
        if steps == 200:
            break
        levels = sampler.grid(schedule, steps)
        y = sampler.run(bound(model, 0.6, 1000), schedule, levels[:2], QUANTILES, Noise(0, torch.arange(1000)))
        for here, there in pairwise(levels[1:]):
            h = float(there.lam - here.lam)
            cond, null = (model(y, here, classes(number, 1000)).eps for number in (1, 0))
            eps = null + 0.6 / -math.expm1(-h) * (cond - null)
            y = there.alpha * (y - here.sigma * eps) / here.alpha + there.sigma * eps
        # At alpha = 0 a step adds the same eps with either.
        assert float((x - y[:, 0]).abs().max()) < 1e-9
    assert found == pytest.approx([1.04, 1.29, 1.69, 2.67], rel=0.01)


ENDS = [-math.log(rho) for rho in (10.0, 3.0, 0.3, 0.02)]


def grids(count):
    """Levels before, in and after the interval (0.3, 3], about `count` steps, equal in log-SNR in each."""
    spans = [(a, b, max(2, round(count * (b - a) / (ENDS[-1] - ENDS[0])))) for a, b in pairwise(ENDS)]
    return [VPLinear().at(torch.linspace(a, b, steps + 1, dtype=F64)).unbind() for a, b, steps in spans]


def ends_of(sampler, levels, interval):
    x = torch.linspace(-2, 2, 11, dtype=F64)[:, None]
    for part, guidance in zip(levels, interval, strict=True):
        denoise = bound(Pair(modes(0.5, 1.0), modes(0.5, -1.0, 1.0)), guidance, len(x))
        x = sampler.run(denoise, VPLinear(), part, x, Noise(0, torch.arange(len(x))))
    return x


@functools.cache
def exact():
    return ends_of(build("rho_rk4"), grids(200), (1.0, 3.0, 1.0))


@pytest.mark.parametrize(("name", "kept", "alone"), [("dpmpp_2m", 0.94, 2.02), ("dpmpp_3m", 0.98, 1.87),
                                                     ("unipc", 0.99, 2.02), ("heun", 2.03, 2.03)])  # fmt: skip
def test_order_across_the_ends_of_an_interval(name, kept, alone):
    """Kept past predictions cost multistep samplers their order; Heun's calls of a step decide together."""
    inside = Guidance(3.0, ClassifierFree(interval=(0.3, 3.0)))
    errors, counts = [], (80, 320)
    for count in counts:
        before, within, after = grids(count)
        joined = [[*before, *within[1:], *after[1:]]]
        runs = ((joined, (inside,)), (grids(count), (1.0, 3.0, 1.0)))
        errors.append([float((ends_of(build(name), *run) - exact()).abs().max()) for run in runs])
    slopes = (values(*errors[0]) / values(*errors[-1])).log() / math.log(counts[-1] / counts[0])
    assert slopes.tolist() == pytest.approx([kept, alone], abs=0.12)
