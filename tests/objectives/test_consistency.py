"""Objectives of consistency models against their formulas and against the exact flow of a Gaussian."""

import math

import pytest
import torch
from oracles import F64

from denoiselab import parameterizations
from denoiselab.analytic import GaussianDenoiser
from denoiselab.denoiser import Denoiser, LogNoise, ScaledTime, UnitVariance
from denoiselab.networks import MLP
from denoiselab.noise import Noise
from denoiselab.objectives import ConsistencyDistillation, ConsistencyTraining, distances, weights
from denoiselab.objectives.consistency import Narrowing, Neighbours, constant, doubling, root
from denoiselab.objectives.level_distributions import LogNormalNoise, UniformTime
from denoiselab.schedules import EDM, DiscreteVP, Flow, VPLinear
from denoiselab.schedules.base import like
from denoiselab.schedules.betas import linear

MEAN, STD = 0.7, 0.4
GAUSSIAN = GaussianDenoiser(torch.tensor([MEAN], dtype=F64), torch.tensor([[STD**2]], dtype=F64))
PATHS = {
    "edm": (EDM(0.002, 80.0), parameterizations.edm),
    "vp": (VPLinear(), parameterizations.eps),
    "flow": (Flow(), parameterizations.velocity),
}
ECT = ConsistencyTraining(Narrowing(LogNormalNoise(-1.1, 2.0)))


class Exact(torch.nn.Module):
    """Where the Gaussian's ODE ends from x, plus `scale` times its distance from the mean, as a network's output."""

    def __init__(self, schedule, parameterization):
        super().__init__()
        self.schedule, self.parameterization, self.labels = schedule, parameterization, []
        self.scale = torch.nn.Parameter(torch.zeros((), dtype=F64))
        self.bend = torch.nn.Parameter(torch.zeros((), dtype=F64))  # towards the posterior mean

    def forward(self, x, label, cond=None):
        self.labels.append(label)
        level = self.schedule.level(label.double())
        alpha, sigma = like(level.alpha, x), like(level.sigma, x)
        total = (alpha * STD).square() + sigma.square()
        away = (x.double() - alpha * MEAN) * STD / total.sqrt()
        shrink = alpha * STD / total.sqrt()  # of the end of the ODE to the posterior mean
        x0 = MEAN + away * (1 + self.scale * sigma / (1 + sigma)) * (1 + self.bend * (shrink - 1))
        a, b = (like(one, x) for one in self.parameterization(level))
        return a * x0 + b * (x - alpha * x0) / sigma


def exact(path):
    schedule, parameterization = PATHS[path]
    return Denoiser(Exact(schedule, parameterization), schedule, parameterization, ScaledTime(1.0))


def data(n):
    return MEAN + STD * Noise(5, torch.arange(n)).normal((1,), F64)


def slopes(objective, denoiser, n=20_000):
    """z-scores of the gradient of the mean loss along two errors of the consistency function."""
    network, parts = denoiser.network, []
    x0 = data(n)
    for begin in range(0, n, n // 20):
        index = torch.arange(begin, begin + n // 20)
        loss = objective(denoiser, x0[index], Noise(1, index)).double().mean()
        parts.append(torch.stack(torch.autograd.grad(loss, (network.scale, network.bend))))
    parts = torch.stack(parts)
    return (parts.mean(0) / (parts.std(0) / len(parts) ** 0.5)).abs()


@pytest.mark.parametrize("path", PATHS)
def test_the_end_of_the_exact_flow_is_the_optimum_and_the_posterior_mean_is_not(path):
    """The gradient of the squared distance, whose bias is of the order of the gap between the levels."""
    objective = ConsistencyTraining(Neighbours(lambda fraction: 400, mean=-1.0, std=1.0), distances.squared_norm)
    denoiser = exact(path)
    assert slopes(objective, denoiser).max() < 4
    with torch.no_grad():
        denoiser.network.bend.fill_(1.0)
    assert slopes(objective, denoiser).max() > 6


@pytest.mark.parametrize("path", PATHS)
def test_distillation_along_an_exact_teacher_leaves_heuns_error(path):
    """The error at the exact consistency function is that of one Heun step: a third the levels' gap, 1 / 27 of it."""
    errors, x0 = [], data(500)
    for count in (60, 178):  # gaps of a third
        objective = ConsistencyDistillation(
            Neighbours(lambda fraction, n=count: n, mean=None), distances.norm, weights.uniform
        )
        objective._teachers = (lambda x, level, cond: GAUSSIAN(x.double(), level),)
        losses = objective(exact(path), x0, Noise(1, torch.arange(500)))
        errors.append(float(losses.detach().quantile(0.9)))  # a step to clean data, of the shortest, is Euler's
    print(path, errors)
    assert errors[0] < 0.03
    assert errors[0] / errors[1] > 15


@pytest.mark.parametrize(("fraction", "stage"), [(0.0, 0), (0.3, 2), (0.9999, 7), (1.0, 7)])
def test_ect_is_its_formula(fraction, stage):
    """Of the paper, written anew: r(t), a clean target where r = 0, the norm over t - r."""
    torch.manual_seed(0)
    network = MLP([3], width=16, depth=1)
    torch.nn.init.normal_(network.head.weight, std=0.2)
    denoiser = Denoiser(network, EDM(), parameterizations.edm, LogNoise(), UnitVariance())
    ECT.fraction = fraction
    x0, noise = torch.randn(400, 3) / 2, Noise(3, torch.arange(400))
    loss = ECT(denoiser, x0, Noise(3, torch.arange(400)))
    t = (-1.1 + 2 * torch.special.ndtri(noise.uniform())).exp().clamp(0.002, 80)
    r = t * (1 - (1 + 8 / (1 + t.exp())) / 2 ** (stage + 1)).clamp_min(0)
    r[r < 0.002] = 0
    z = noise.like(x0)

    def d(level):
        x, s = x0 + level[:, None].float() * z, level[:, None]
        c_in, c_skip, c_out = 1 / (s**2 + 0.25).sqrt(), 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
        return (c_skip * x + c_out * network((c_in * x).float(), level.log().float() / 4)).double()

    target = torch.where(r[:, None] > 0, d(r.clamp_min(1e-3)), x0.double())
    want = (d(t) - target).norm(dim=1) / (t - r)
    assert (float((r == 0).double().mean()) > 0.5) == (stage == 0)
    assert torch.allclose(loss.double(), want, rtol=2e-3, atol=2e-3)


def test_numbers_of_levels_are_those_of_the_papers():
    assert [doubling(stage / 8 + 0.01) for stage in range(8)] == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert doubling(1.0) == 1281
    # log2(100) + 1 = 7.6 stages, the last of which is cut: of 10, 20, ..., 640 and 1000 steps.
    assert [doubling((stage + 0.01) / 7.644, last=1000) for stage in (0, 6, 7)] == [11, 641, 1001]
    total, first, last = 1000, 2, 150  # Song et al., 2303.01469: k = 0, 500, 1000 of K
    for k in (0, 500, total):
        want = math.ceil(math.sqrt(k / total * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1
        assert root(k / total) == want
    assert (root(0.0), root(1.0), constant(0.7)) == (2, 151, 18)


def test_ict_draws_neighbours_by_the_error_function():
    pairs, schedule = Neighbours(), EDM()
    rho = pairs.levels(schedule, 11)
    i = torch.arange(11, dtype=F64)
    assert torch.allclose(rho, (0.002 ** (1 / 7) + i / 10 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7)
    place = torch.erf((rho.log() + 1.1) / (math.sqrt(2) * 2.0))
    want = place.diff() / place.diff().sum()
    assert torch.allclose(pairs.probabilities(rho), want)
    pair = pairs(schedule, Noise(0, torch.arange(20_000)), 0.0)
    drawn = torch.searchsorted(rho, pair.here.rho - 1e-9)
    share = torch.bincount(drawn, minlength=11)[1:] / 20_000
    assert float((share - want).abs().max()) < 0.015
    assert torch.equal(pair.clean, drawn == 1)
    assert torch.allclose(pair.gap, pair.here.rho - torch.where(drawn == 1, 0, rho[drawn - 1]))
    assert torch.allclose(pair.there.rho, rho[drawn - 1])


def test_pairs_keep_to_the_schedule():
    for path in (VPLinear(), Flow(), EDM(0.02, 10.0)):
        ends = path.level(torch.tensor([path.t_min, path.t_max], dtype=F64)).rho
        for pairs in (Neighbours(), Narrowing(UniformTime())):
            for fraction in (0.0, 0.6, 1.0):
                pair = pairs(path, Noise(2, torch.arange(300)), fraction)
                for level in (pair.here, pair.there):
                    assert bool((level.rho >= ends[0] * (1 - 1e-9)).all() and (level.rho <= ends[1] * (1 + 1e-9)).all())
                assert bool((pair.gap > 0).all() and pair.gap.isfinite().all())
                assert bool(pair.clean.any()) or fraction


@pytest.mark.parametrize("path", PATHS)
def test_the_network_is_never_called_at_clean_data(path):
    denoiser = exact(path)
    ECT.fraction = 0.0
    assert ECT(denoiser, data(300), Noise(0, torch.arange(300))).isfinite().all()
    for label in denoiser.network.labels:
        assert bool((label >= denoiser.schedule.t_min).all())


def test_distances_of_samples():
    e = torch.randn(7, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    length = e.square().sum((1, 2)).sqrt()
    assert torch.allclose(distances.norm(e), length)
    assert torch.allclose(distances.squared_norm(e), length**2)
    c = 0.00054 * math.sqrt(6)
    assert torch.allclose(distances.sample_pseudo_huber(e), (length**2 + c**2).sqrt() - c)
    assert torch.allclose(distances.sample_pseudo_huber(e, 0.3), (length**2 + 0.09).sqrt() - 0.3)
    for distance in (distances.norm, distances.squared_norm, distances.sample_pseudo_huber):
        zero = torch.zeros(2, 3, requires_grad=True)
        distance(zero).sum().backward()
        assert torch.equal(zero.grad, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"c=0\.0: it must be positive"):
        distances.sample_pseudo_huber(e, 0.0)


@pytest.mark.parametrize("name", ["x0", "previous_mean"])
def test_a_parameterization_without_the_boundary_is_refused(name):
    path = DiscreteVP(linear(1000)) if name == "previous_mean" else VPLinear()
    denoiser = Denoiser(torch.nn.Identity(), path, getattr(parameterizations, name), ScaledTime())
    with pytest.raises(ValueError, match="parameterization: the x0 of a consistency model must be x itself"):
        ECT.check(denoiser)


def test_all_others_are_taken_on_all_schedules():
    for path in (VPLinear(), DiscreteVP(linear(1000)), Flow(), EDM()):
        for name in ("eps", "v", "edm", "score", "ncsn", "velocity"):
            ECT.check(Denoiser(torch.nn.Identity(), path, getattr(parameterizations, name), ScaledTime()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Narrowing(UniformTime(), q=1), "q=1: it must be more than 1"),
        (lambda: Narrowing(UniformTime(), stages=0), "stages=0: it must be at least 1"),
        (lambda: Narrowing(UniformTime(), k=-1), "k=-1 and b=1.0: they must not be negative"),
        (lambda: Neighbours(least=2, most=1), "least=2 and most=1: they must rise"),
        (lambda: Neighbours(std=0), "std=0: it must be positive"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_first_call_has_a_gradient_and_the_target_has_none():
    torch.manual_seed(0)
    denoiser = Denoiser(MLP([2], width=8, depth=1), EDM(), parameterizations.edm, LogNoise(), UnitVariance())
    grads, inner = [], denoiser.network.forward
    denoiser.network.forward = lambda *given: (out := inner(*given), grads.append(out.requires_grad))[0]
    ECT(denoiser, torch.randn(4, 2), Noise(0, torch.arange(4)))
    assert grads == [True, False]
