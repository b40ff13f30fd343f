"""SA-Solver, ER-SDE-Solver, RX-DPM and PFDiff against their released algorithms, written independently."""

import itertools
import math

import pytest
import torch
from oracles import F64
from peers import DRAWS, ORACLE, X, distance, ours, rule
from scipy.integrate import quad
from test_peers import CHAIN, EXACT, index_level, levels_of, scheduler, theirs

from denoiselab import samplers
from denoiselab.noise import Noise
from denoiselab.samplers import ERSDE, RXDPM, DPMSolverPP, PFDiff, RhoRK, SASolver, UniPC
from denoiselab.samplers.partial import last_steps
from denoiselab.samplers.sde import PowerScale, SmoothScale
from denoiselab.samplers.tableaus import midpoint
from denoiselab.samplers.unipc import BH1
from denoiselab.schedules import EDM, VPLinear

VE = EDM(0.002, 80.0)


class ByLevel(Noise):
    """The draw of a step is that of the number of its first level."""

    def __init__(self, levels):
        self.levels = [float(level.t) for level in levels]

    def between(self, x, here, there):
        return DRAWS[self.levels.index(float(here.t))]


@pytest.mark.parametrize(("order", "corrector"), [(1, 2), (2, 2), (2, 3), (3, 2), (3, 4)])
@pytest.mark.parametrize("tau", ["everywhere", "between", "nowhere"])
def test_sa_solver_is_that_of_diffusers(order, corrector, tau):
    low, high = {"everywhere": (-1, 1001), "between": (250, 750), "nowhere": (2000, 3000)}[tau]
    peer = scheduler(
        "SASolver",
        predictor_order=order,
        corrector_order=corrector,
        tau_func=lambda t: 0.8 if low <= t <= high else 0.0,
    )
    bounds = {} if tau == "nowhere" else {
        "low": float(index_level(max(low, 0)).rho) if low > 0 else 0.0,
        "high": float(index_level(high).rho) if high < 1000 else math.inf,
    }  # fmt: skip
    mine = rule(SASolver, order, corrector_order=corrector, tau=0.8 * (tau != "nowhere"), **bounds)
    levels = levels_of(peer)
    found = mine.run(ORACLE, CHAIN, levels, X, ByLevel(levels))
    assert distance(found, theirs(peer, X)) < EXACT


def test_sa_solver_without_noise_is_unipc_and_without_corrector_the_sde_of_dpm_solver():
    levels = VPLinear().at(torch.linspace(-3, 3, 9, dtype=F64)).unbind()
    ode = ours(rule(SASolver, tau=0.0), VPLinear(), levels, X)
    assert torch.equal(ode, ours(rule(UniPC, 3, BH1()), VPLinear(), levels, X))
    sde = ours(rule(SASolver, low=0.0, high=math.inf, corrector=False, tau=0.7), VPLinear(), levels, X)
    eta = rule(DPMSolverPP, 3, published=False, eta=0.49, lower_order_final=True)
    nearly = ours(eta, VPLinear(), levels, X)  # whose steps of order 2, at the ends, have no BH1
    assert distance(sde, nearly) < 0.02
    same = samplers.unipc.VaryingCoefficients()
    sde = ours(rule(SASolver, 3, same, low=0.0, high=math.inf, corrector=False, tau=0.7), VPLinear(), levels, X)
    assert distance(sde, nearly) < EXACT


def released_er_sde(order, phi, levels, x, terms):
    """The released `ve_*_order_taylor` and `vp_*_order_taylor` for y = x / alpha; 0 terms are the exact integrals."""
    draws, y, past, slopes = iter(DRAWS), x / levels[0].alpha, [], []
    rho = [float(level.rho) for level in levels]

    def integral(f, low, high):
        if not terms:
            return quad(f, low, high, epsabs=0, epsrel=1e-12)[0]
        return sum(f(low + k / terms * (high - low)) for k in range(terms)) * (high - low) / terms

    for i, (t, s) in enumerate(itertools.pairwise(rho)):
        x0, ratio = ORACLE(levels[i].alpha * y, levels[i]).x0, phi(s) / phi(t)
        noise = math.sqrt(max(0.0, 1 - (t * ratio / s) ** 2)) * s
        noise = noise if noise > 1e-6 * s else 0.0  # as released: what rounding leaves of the ODE
        guess = ratio * y + (1 - ratio) * x0
        if order > 1 and past:
            slopes.append((x0 - past[-1]) / (t - rho[i - 1]))
            guess = guess + (s - t + phi(s) * integral(lambda r: 1 / phi(r), s, t)) * slopes[-1]
        if order > 2 and len(slopes) > 1:
            bend = 2 * (slopes[-1] - slopes[-2]) / (t - rho[i - 2])
            guess = guess + ((s - t) ** 2 / 2 + phi(s) * integral(lambda r, t=t: (r - t) / phi(r), s, t)) * bend
        past.append(x0)
        y = guess + noise * next(draws) if noise else guess
    return levels[-1].alpha * y


@pytest.mark.parametrize("schedule", [VPLinear(), VE], ids=["vp", "ve"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_is_the_released_algorithm_with_exact_integrals(schedule, order):
    levels = schedule.at(torch.linspace(-3, 3, 9, dtype=F64)).unbind()
    scales = {
        SmoothScale(): lambda rho: rho * (math.exp(rho**0.3) + 10),
        PowerScale(0.5): lambda rho: rho**1.5,
        PowerScale(0.0): lambda rho: rho,
    }
    for scale, phi in scales.items():
        found = ours(rule(ERSDE, order, scale), schedule, levels, X)
        assert distance(found, released_er_sde(order, phi, levels, X, 0)) < EXACT
        off = [distance(found, released_er_sde(order, phi, levels, X, terms)) for terms in (100, 400)]
        assert off[0] < 0.02
        assert order == 1 or 3.5 < off[0] / off[1] < 4.5  # the error of their sums


def test_er_sde_of_a_power_is_the_reverse_sde_at_order_1():
    levels = VPLinear().at(torch.linspace(-3, 3, 9, dtype=F64)).unbind()
    for eta in (0.0, 0.5, 1.0):
        found = ours(rule(ERSDE, 1, PowerScale(eta)), VPLinear(), levels, X)
        assert distance(found, ours(rule(DPMSolverPP, 1, eta=eta), VPLinear(), levels, X)) < EXACT


def test_rx_dpm_is_the_released_extrapolation_of_euler():
    """Its `rx_euler_sampler`, of 12 steps in groups that divide them, on EDM's schedule; there to clean data too."""
    levels = VE.at(torch.linspace(-3, 3, 14, dtype=F64)).unbind()
    rho = [float(level.rho) for level in levels]
    for group, alone in ((2, 0), (3, 0), (4, 0), (2, 1), (3, 1)):
        x = X
        if alone:
            x = X + (rho[1] - rho[0]) * (X - ORACLE(X, levels[0]).x0) / rho[0]
        for i in range(alone, 12 + alone, group):
            fine, first = x, None
            for j in range(i, i + group):
                slope = (fine - ORACLE(fine, levels[j]).x0) / rho[j]
                first = slope if first is None else first
                fine = fine + (rho[j + 1] - rho[j]) * slope
            coarse = x + (rho[i + group] - rho[i]) * first
            share = sum(((rho[j] - rho[j + 1]) / (rho[i] - rho[i + group])) ** 2 for j in range(i, i + group))
            x = (fine - share * coarse) / (1 - share)
        mine = rule(RXDPM, group=group, alone=alone)
        assert distance(ours(mine, VE, levels[: 13 + alone], X), x) < EXACT


def test_two_equal_steps_of_rx_dpm_are_the_midpoint_rule():
    levels = VE.at(-torch.linspace(5.0, 0.2, 9, dtype=F64).log()).unbind()
    found = ours(rule(RXDPM, alone=0), VE, levels, X)
    assert distance(found, ours(rule(RhoRK, midpoint()), VE, levels[::2], X)) < EXACT


def test_the_last_calls_of_pfdiff_are_along_the_end_of_its_own_grid():
    for k in (1, 2):
        sampler = PFDiff(steps=8, k=k)
        own, part = sampler.grid(VPLinear()), last_steps(sampler, VPLinear(), 4)
        last = part.grid(VPLinear())
        assert [float(level.t) for level in last] == [float(level.t) for level in own[-len(last) :]]
        assert part.nfe(4, VPLinear()) == 4
        assert len(last) == 2 + 2 * (k + 1) + 1


@pytest.mark.parametrize(("k", "h"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize("calls", [2, 3, 6])
def test_pfdiff_is_the_released_algorithm(k, h, calls):
    """Its `generalized_steps` with eta = 0, whose last step from a noisy level to clean data is DDIM's."""
    sampler = PFDiff(samplers.spacing.UniformTime(), calls, k=k, h=h)
    levels = sampler.grid(VPLinear())
    x, old, made = float(levels[0].sigma) * X, None, 0

    def move(eps, x, here, there):
        return there.alpha * (x - here.sigma * eps) / here.alpha + there.sigma * eps

    i = 0
    while i < len(levels) - 1:
        made += 1
        if old is None or i + 1 == len(levels) - 1:
            old = ORACLE(x, levels[i]).eps
            x, i = move(old, x, levels[i], levels[i + 1]), i + 1
        else:
            old = ORACLE(move(old, x, levels[i], levels[i + h]), levels[i + h]).eps
            x, i = move(old, x, levels[i], levels[i + k + 1]), i + k + 1
    assert made == calls == sampler.nfe(calls, VPLinear())
    found = sampler.run(ORACLE, VPLinear(), levels, float(levels[0].sigma) * X, Noise(0, torch.arange(len(X))))
    assert distance(found, x) < EXACT
