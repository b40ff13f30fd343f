"""Our samplers end where the papers' released codes do, which are written anew here from their algorithms."""

import itertools
import math

import pytest
import torch
from configurations import build
from oracles import F64, GeometricVE
from peers import DRAWS, ORACLE, X, distance, ours, rule

from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import (
    DDIM,
    Analytic,
    Churn,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPSinglestep,
    DPMSolverSinglestep,
    Moments,
    Renoised,
    RhoRK,
    TimeRK,
    UniPC,
    UniPCNoise,
)
from denoiselab.samplers.spacing import PowerTime, UniformLogSNR, UniformTime
from denoiselab.samplers.spacing.ends import DenoiseToZero
from denoiselab.samplers.tableaus import euler, heun
from denoiselab.samplers.thresholding import Clip, Dynamic
from denoiselab.samplers.transfer import Time
from denoiselab.samplers.unipc import ReleasedVaryingCoefficients, VaryingCoefficients
from denoiselab.schedules import EDM, Level, VPLinear
from denoiselab.schedules.betas import linear
from denoiselab.schedules.discrete import DiscreteVP

EXACT = 1e-10
CHAIN = DiscreteVP(linear(1000))
VP = VPLinear()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_analytic_ddim_clips_x0_and_keeps_eps(eta):
    """baofff/Analytic-DPM, `reverse_ddim_ms_eps` with clip_sigma_idx = 1: steps 1..N, mean squares of eps, 2 pixels."""
    steps, bound = 10, 0.8
    betas = torch.cat([torch.zeros(1, dtype=F64), linear(1000)])
    kept = (1 - betas).cumprod(0)
    ns = [round(1 + k * 999 / (steps - 1)) for k in range(steps)]
    squares = {r: 1.02 - 0.3 * (1 - r / 1000) ** 2 for r in ns}  # above 1 at high noise, as estimates are
    x, draws = X, iter(DRAWS)
    for s, r in reversed(list(zip([0, *ns], ns, strict=False))):
        step_beta = 1 - kept[r] / kept[s]
        own = eta**2 * step_beta * (1 - kept[s]) / (1 - kept[r])
        prediction = ORACLE(x, CHAIN.level(torch.tensor(r / 1000, dtype=F64)))
        rest = 1 - kept[s] - own
        mean = kept[s].sqrt() * prediction.x0.clamp(-bound, bound) + rest.sqrt() * prediction.eps
        covariance = min(max(0.0, float((1 - kept[r]) / kept[r]) * (1 - squares[r])), 1.0)
        variance = own + (kept[s].sqrt() - (rest * kept[r] / (1 - kept[r])).sqrt()) ** 2 * covariance
        if s == ns[0]:
            variance = variance.clamp(max=(2 * 2 / 255 * math.sqrt(math.pi / 2)) ** 2)
        x = mean + variance.sqrt() * next(draws) if s else mean
    sampler = build("sampler", "analytic_ddim_released", f"eta={eta}", f"threshold.bound={bound}")
    levels = sampler.grid(CHAIN, steps)
    at = [CHAIN.level(torch.tensor(r / 1000, dtype=F64)) for r in reversed(ns)]
    assert [float(level.t) for level in levels[:-1]] == pytest.approx([float(level.t) for level in at])
    error = torch.stack([level.rho**2 * (1 - squares[r]) for level, r in zip(at, reversed(ns), strict=True)])
    sampler.measurement.moments = Moments(torch.stack([level.lam for level in at]), error)
    assert distance(ours(sampler, CHAIN, levels, X), x) < EXACT
    sampler.threshold = Clip(bound)
    assert distance(ours(sampler, CHAIN, levels, X), x) > 1e-3


def null_and_guided(x, level):
    """CFG++ (Chung et al., arXiv 2406.08070): x0 of the guided eps, and the eps of the null model to add back."""
    null, eps = ORACLE(x, level).eps, ORACLE(x, level).eps + 0.6 * torch.tanh(x)
    return Prediction((x - level.sigma * eps) / level.alpha, eps, renoise=null)


@pytest.mark.parametrize("threshold", [None, Clip(0.9), Clip(0.9, keep_eps=True), Dynamic(keep_eps=True)])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_denoiser_says_which_noise_ddim_adds_back(eta, threshold):
    sampler = rule(DDIM, eta, threshold=threshold)
    levels, x, draws = UniformTime()(CHAIN, 6), X, iter(DRAWS)
    for here, there in itertools.pairwise(levels):
        x0, _, _, added, _ = null_and_guided(x, here)
        variance = eta**2 * there.sigma**2 / here.sigma**2 * (1 - (here.alpha / there.alpha) ** 2)
        x = there.alpha * (x0 if threshold is None else threshold(x0)) + (there.sigma**2 - variance).sqrt() * added
        x = x + variance.sqrt() * next(draws) if eta and there.sigma else x

    class Drawn(Noise):
        draws = iter(DRAWS)

        def between(self, x, here, there):
            return next(self.draws)

    out = sampler.run(null_and_guided, CHAIN, levels, X, Drawn(0, torch.arange(len(X))))
    assert distance(out, x) < EXACT


def test_rules_that_add_no_eps_to_x0_refuse_another():
    for make in (
        lambda threshold: rule(DPMSolverPP, threshold=threshold),
        lambda threshold: rule(Renoised, rule(RhoRK, euler(), threshold=threshold)),
    ):
        with pytest.raises(ValueError, match=r"threshold\.keep_eps=true: .* keep_eps=false"):
            make(Clip(keep_eps=True))
        with pytest.raises(ValueError, match="predicts a noise to add back"):
            ours(make(Clip()), CHAIN, UniformTime()(CHAIN, 4), X, null_and_guided)
    for kind in (Renoised, Churn):  # the rule inside re-noises
        assert rule(kind, rule(DDIM, threshold=Clip(keep_eps=True))).renoises
    assert rule(Analytic, threshold=Clip(keep_eps=True)).renoises


class Released:
    """DPM-Solver as released: LuChengTHU/dpm-solver, `dpm_solver_pytorch.py`, on the linear VP schedule."""

    def __init__(self, data, taylor=False):
        self.data, self.taylor = data, taylor

    @staticmethod
    def of(t):
        log_alpha = -0.25 * t**2 * 19.9 - 0.5 * t * 0.1
        return log_alpha.exp(), (1 - (2 * log_alpha).exp()).sqrt()

    def lam(self, t):
        alpha, sigma = self.of(t)
        return alpha.log() - sigma.log()

    @staticmethod
    def time(lam):
        whole = 2 * 19.9 * torch.logaddexp(-2 * lam, torch.zeros((), dtype=F64))
        return whole / ((0.1**2 + whole).sqrt() + 0.1) / 19.9

    def times(self, skip, first, last, count):
        if skip == "logSNR":
            return self.time(torch.linspace(float(self.lam(first)), float(self.lam(last)), count + 1, dtype=F64))
        power = {"time_uniform": 1, "time_quadratic": 2}[skip]
        return torch.linspace(float(first) ** (1 / power), float(last) ** (1 / power), count + 1, dtype=F64) ** power

    def call(self, x, t):
        prediction = ORACLE(x, VP.level(t))
        return prediction.x0 if self.data else prediction.eps

    def phis(self, h):
        """(phi_1, phi_2, phi_3) with the signs of the data prediction's, as the code writes them for noise too."""
        if self.data:
            first = torch.expm1(-h)
            second = first / h + 1
            return first, second, second / h - 0.5
        first = torch.expm1(h)
        second = first / h - 1
        return first, second, second / h - 0.5

    def base(self, x, s, t, m):
        h, (a_s, s_s), (a_t, s_t) = self.lam(t) - self.lam(s), self.of(s), self.of(t)
        return s_t / s_s * x - a_t * torch.expm1(-h) * m if self.data else a_t / a_s * x - s_t * torch.expm1(h) * m

    def scale(self, t):
        return self.of(t)[0 if self.data else 1]

    def second(self, x, s, t, r, ms):
        s1 = self.time(self.lam(s) + r * (self.lam(t) - self.lam(s)))
        ms1 = self.call(self.base(x, s, s1, ms), s1)
        phi_1, phi_2, _ = self.phis(self.lam(t) - self.lam(s))
        size = self.scale(t)
        if not self.taylor:
            return self.base(x, s, t, ms) - 0.5 / r * size * phi_1 * (ms1 - ms), ms1
        return self.base(x, s, t, ms) + (1 if self.data else -1) / r * size * phi_2 * (ms1 - ms), ms1

    def third(self, x, s, t, r1, r2, ms, ms1=None):
        h, sign, size = self.lam(t) - self.lam(s), 1 if self.data else -1, self.scale(t)
        s1, s2 = self.time(self.lam(s) + r1 * h), self.time(self.lam(s) + r2 * h)
        if ms1 is None:
            ms1 = self.call(self.base(x, s, s1, ms), s1)
        phi_22 = torch.expm1(-r2 * h) / (r2 * h) + 1 if self.data else torch.expm1(r2 * h) / (r2 * h) - 1
        ms2 = self.call(self.base(x, s, s2, ms) + sign * r2 / r1 * self.scale(s2) * phi_22 * (ms1 - ms), s2)
        _, phi_2, phi_3 = self.phis(h)
        if not self.taylor:
            return self.base(x, s, t, ms) + sign / r2 * size * phi_2 * (ms2 - ms)
        d0, d1 = (ms1 - ms) / r1, (ms2 - ms) / r2
        first, bend = (r2 * d0 - r1 * d1) / (r2 - r1), 2 * (d1 - d0) / (r2 - r1)
        return self.base(x, s, t, ms) + sign * size * phi_2 * first - size * phi_3 * bend

    def fixed(self, x, steps, order, skip):
        outer = self.times(skip, torch.ones((), dtype=F64), torch.tensor(1e-3, dtype=F64), steps // order)
        for s, t in itertools.pairwise(outer):
            lam = self.lam(self.times(skip, s, t, order))
            r1, r2 = ((lam[i] - lam[0]) / (lam[-1] - lam[0]) for i in (1, 2))
            ms = self.call(x, s)
            x = self.second(x, s, t, r1, ms)[0] if order == 2 else self.third(x, s, t, r1, r2, ms)
        return x

    def multistep(self, x, steps, order, skip, lower):
        times = self.times(skip, torch.ones((), dtype=F64), torch.tensor(1e-3, dtype=F64), steps)
        past = []
        for i, (s, t) in enumerate(itertools.pairwise(times)):
            past = [(s, self.call(x, s)), *past][:3]
            left = min(order, i + 1, steps - i if lower and steps < 10 else order)
            lam, m = [self.lam(at) for at, _ in past], [value for _, value in past]
            h, sign, size = self.lam(t) - lam[0], 1 if self.data else -1, self.scale(t)
            phi_1, phi_2, phi_3 = self.phis(h)
            x = self.base(x, s, t, m[0])
            if left == 1:
                continue
            r0 = (lam[0] - lam[1]) / h
            d0 = (m[0] - m[1]) / r0
            if left == 2:
                x = x + sign * size * phi_2 * d0 if self.taylor else x - 0.5 * size * phi_1 * d0
                continue
            r1 = (lam[1] - lam[2]) / h
            d1 = (m[1] - m[2]) / r1
            x = x + sign * size * phi_2 * (d0 + r0 / (r0 + r1) * (d0 - d1)) - size * phi_3 * (d0 - d1) / (r0 + r1)
        return x

    def adaptive(self, x, order, rtol=0.05, atol=0.0078, theta=0.9):
        s, last = torch.ones((), dtype=F64), torch.tensor(1e-3, dtype=F64)
        h, before = torch.tensor(0.05, dtype=F64), x
        while float((s - last).abs()) > 1e-5:
            t, ms = self.time(self.lam(s) + h), self.call(x, s)
            if order == 2:
                low, high = self.base(x, s, t, ms), self.second(x, s, t, 0.5, ms)[0]
            else:
                low, ms1 = self.second(x, s, t, 1 / 3, ms)
                high = self.third(x, s, t, 1 / 3, 2 / 3, ms, ms1)
            delta = torch.maximum(torch.full_like(x, atol), rtol * torch.maximum(low.abs(), before.abs()))
            error = ((high - low) / delta).square().mean().sqrt()
            if error <= 1:
                x, s, before = high, t, low
            h = torch.minimum(theta * h * error ** (-1 / order), self.lam(last) - self.lam(s))
        return x

    def to_zero(self, x):
        return ORACLE(x, VP.level(torch.tensor(1e-3, dtype=F64))).x0


SKIPS = {"logSNR": UniformLogSNR, "time_uniform": UniformTime, "time_quadratic": lambda **ends: PowerTime(2.0, **ends)}
AXES = {"logSNR": None, "time_uniform": Time(), "time_quadratic": Time(2.0)}


@pytest.mark.parametrize("taylor", [False, True])
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(("order", "steps"), [(2, 8), (3, 8), (3, 12)])
def test_multistep_runs_end_as_the_released_dpm_solver(order, steps, data, taylor):
    """`denoise_to_zero` is no step: the orders of 8 steps fall before it, those of 12 (not under 10) do not."""
    for skip, grid in SKIPS.items():
        kind, theirs = DPMSolverPP if data else DPMSolver, Released(data, taylor)
        options = {"published": True, "taylor": taylor, "lower_order_final": 10}
        end = theirs.multistep(X, steps, order, skip, lower=True)
        for spacing, want in ((grid(to_clean=False), end), (DenoiseToZero(grid()), theirs.to_zero(end))):
            sampler = kind(spacing, steps, order, **options)
            assert distance(ours(sampler, VP, sampler.grid(VP), X), want) < EXACT, (skip, spacing)
            assert sampler.nfe(steps, VP) == steps + (want is not end)


@pytest.mark.parametrize("taylor", [False, True])
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_fixed_singlestep_runs_place_their_calls_as_the_released_dpm_solver(order, data, taylor):
    kind, theirs = DPMSolverPPSinglestep if data else DPMSolverSinglestep, Released(data, taylor)
    for skip, grid in SKIPS.items():
        end = theirs.fixed(X, 5 * order, order, skip)
        sampler = kind(DenoiseToZero(grid()), 5, order, taylor, stages=AXES[skip])
        assert distance(ours(sampler, VP, sampler.grid(VP), X), theirs.to_zero(end)) < EXACT, skip
    for name in ("dpm_solver_3s_time", "dpmpp_3s_time"):
        assert isinstance(build("sampler", name).stages, Time)


@pytest.mark.parametrize("calls", [7, 8, 9])
def test_denoise_to_zero_leaves_the_steps_of_dpm_solver_fast_equal(calls):
    grid, plain = (
        DPMSolverFast(spacing, calls).grid(VP)
        for spacing in (DenoiseToZero(UniformLogSNR()), UniformLogSNR(to_clean=False))
    )
    assert [float(level.t) for level in grid[:-1]] == [float(level.t) for level in plain]
    assert grid[-1].is_end


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_runs_for_x0_are_those_of_the_released_dpm_solver(order):
    """Its error is the batch's largest, ours each sample's: one sample at a time."""
    sampler = build("sampler", f"dpmpp_{order - 1}{order}")
    ends = VP.level(torch.tensor([1.0, 1e-3], dtype=F64)).unbind()
    for x in X.split(1)[::3]:
        assert distance(ours(sampler, VP, ends, x), Released(data=True).adaptive(x, order)) < EXACT


def released_unipc(x, levels, order, data):
    """wl-zhao/UniPC, `multistep_uni_pc_vary_update` in `sample`, without lower final orders."""

    def calls(x, level):
        return ORACLE(x, level).x0 if data else ORACLE(x, level).eps

    past = [(levels[0], calls(x, levels[0]))]
    for i, (s, t) in enumerate(itertools.pairwise(levels)):
        count = min(order, i + 1)
        h, m0 = t.lam - s.lam, past[0][1]
        r = [(node.lam - s.lam) / h for node, _ in past[1:count]]
        d = [(m - m0) / rk for (_, m), rk in zip(past[1:count], r, strict=True)]
        r = torch.stack([*r, torch.ones((), dtype=F64)])
        c = torch.stack([r**k / math.factorial(k + 1) for k in range(count)], 1)
        hh = -h if data else h
        phis = [torch.expm1(hh)]
        for k in range(1, count + 1):
            phis.append(phis[-1] / hh - 1 / math.factorial(k))
        size = t.alpha if data else t.sigma
        base = (t.sigma / s.sigma if data else t.alpha / s.alpha) * x - size * phis[0] * m0

        def moved(a, rows, d, base=base, size=size, phis=phis):
            for k in range(rows):
                base = base - size * phis[k + 1] * sum(a[k, j] * dj for j, dj in enumerate(d))
            return base

        x = moved(torch.linalg.inv(c[:-1, :-1]), count - 1, d) if count > 1 else base
        if i == len(levels) - 2:
            return x
        m = calls(x, t)
        a = torch.linalg.inv(c)
        x = moved(a, count - 1, d) - size * phis[count] * (m - m0) * a[max(0, count - 2), -1]
        past = [(t, m), *past][:order]
    return x


@pytest.mark.parametrize("kind", [UniPC, UniPCNoise])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_unipcs_varying_coefficients_are_the_released_ones_by_name(order, kind):
    levels = UniformTime(to_clean=False)(VP, 12)
    want = released_unipc(X, levels, order, kind is UniPC)
    for coefficients, agree in ((ReleasedVaryingCoefficients(), True), (VaryingCoefficients(), order == 1)):
        sampler = rule(kind, order, coefficients, lower_order_final=False)
        off = distance(ours(sampler, VP, levels, X), want)
        assert off < EXACT if agree else off > 1e-4


def released_edm(x, schedule, sigmas, churn, s_max, noise):
    """NVlabs/edm, `edm_sampler`: Heun with churn, which takes the first level above sigma_max."""
    x, steps = x * sigmas[0], len(sigmas) - 1
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        gamma = min(churn / steps, math.sqrt(2) - 1) if 0 <= now <= s_max else 0
        hat = now + gamma * now
        x_hat = x + (hat**2 - now**2).sqrt() * noise * DRAWS[i]
        d = (x_hat - denoised(x_hat, hat)) / hat
        x = x_hat + (then - hat) * d
        if i < steps - 1:
            x = x_hat + (then - hat) * (d + (x - denoised(x, then)) / then) / 2
    return x


def denoised(x, sigma):
    one = torch.ones((), dtype=F64)
    return ORACLE(x, Level(sigma, one, sigma)).x0


def test_churn_without_its_cap_starts_above_sigma_max_as_edm():
    schedule = EDM(0.002, 80.0)
    sampler = build("sampler", "edm_sde", "s_churn=8", "s_tmin=0", "s_tmax=1000", "s_noise=1.003", "+cap=false")
    levels = sampler.grid(schedule, 10)
    want = released_edm(X, schedule, torch.stack([level.sigma for level in levels]), 8, math.inf, 1.003)
    assert distance(ours(sampler, schedule, levels, 80 * X), want) < EXACT
    sampler.cap = True

    class Skipped(Noise):
        """The first step, at the schedule's end, draws nothing."""

        draws = iter(DRAWS[1:])

        def like(self, x):
            return next(self.draws)

    capped = sampler.run(ORACLE, schedule, levels, 80 * X, Skipped(0, torch.arange(len(X))))
    assert distance(capped, want) > 1e-3
    sampler.cap = False
    with pytest.raises(ValueError, match="cap=false: GeometricVE has no levels above its end"):
        sampler.plan(GeometricVE(), sampler.grid(GeometricVE(), 10))


@pytest.mark.parametrize("tableau", [euler, heun])
def test_edms_vp_configuration_is_its_time_rule_over_its_own_fit(tableau):
    """NVlabs/edm, `ablation_sampler` with discretization, schedule and scaling `vp`, for networks of EDM's range.

    Its last step is Euler's in t from 1e-3 to 0, ours the transfer to x0.
    """
    beta_d = 2 * (math.log(0.002**2 + 1) / 1e-3 - math.log(80.0**2 + 1)) / (1e-3 - 1)
    beta_min = math.log(80.0**2 + 1) - 0.5 * beta_d
    times = torch.cat([1 + torch.arange(12, dtype=F64) / 11 * (1e-3 - 1), torch.zeros(1, dtype=F64)])

    def sigma(t):
        return torch.expm1(0.5 * beta_d * t**2 + beta_min * t).sqrt()

    def slope(x, t):
        s, rate = 1 / (1 + sigma(t) ** 2).sqrt(), 0.5 * (beta_min + beta_d * t) * (sigma(t) + 1 / sigma(t))
        s_rate = -sigma(t) * rate * s**3
        return (rate / sigma(t) + s_rate / s) * x - rate * s / sigma(t) * denoised(x / s, sigma(t))

    x = start = X * sigma(times[0]) / (1 + sigma(times[0]) ** 2).sqrt()
    for t, then in itertools.pairwise(times[:-1]):
        d = slope(x, t)
        moved = x + (then - t) * d
        x = moved if tableau is euler else x + (then - t) * (d + slope(moved, then)) / 2
    schedule, sampler = build("schedule", "vp_edm"), TimeRK(UniformTime(to_t_min=True), 12, tableau())
    levels = sampler.grid(schedule)
    assert [float(level.t) for level in levels] == pytest.approx(times.tolist())
    assert distance(ours(sampler, schedule, levels[:-1], start), x) < EXACT
