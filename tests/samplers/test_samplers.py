"""What holds for the sampler of every YAML in conf/sampler, on every kind of schedule."""

import copy
import functools
import itertools
import math

import pytest
import torch
from configurations import build, complete
from oracles import F64, draws, interior_levels, measured, mixture, variant

from denoiselab import samplers
from denoiselab.denoiser import Prediction
from denoiselab.noise import BrownianNoise, Noise
from denoiselab.samplers import Sampler, Tally
from denoiselab.samplers.spacing import Karras, UniformLogSNR, UniformTime
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.tableaus import heun, rk4
from denoiselab.samplers.transfer import X0, Eps, Lam, Rho
from denoiselab.schedules import EDM, VPLinear
from denoiselab.schedules.base import like
from denoiselab.schedules.betas import linear
from denoiselab.schedules.discrete import DiscreteVP

NAMES = complete("sampler")


@functools.cache
def sampler_of(name) -> Sampler:
    sampler = variant(build("sampler", name), repeats=5)
    if sampler.adaptive:
        sampler = variant(sampler, rtol=min(sampler.rtol, 1e-4), atol=min(sampler.atol, 1e-5))
    return measured(sampler, mixture(), draws(mixture(), 200))


SCHEDULES = {
    "vp": VPLinear(),
    "discrete": DiscreteVP(linear(1000)),
    "flow": build("schedule", "flow"),
    "zero_snr": build("schedule", "zero_snr"),
}


# Those that choose their steps themselves are tried with one number.
COUNTED = [(name, steps) for name in NAMES for steps in ((10,) if sampler_of(name).adaptive else (1, 2, 3, 7, 10))]


@pytest.mark.parametrize(("name", "steps"), COUNTED)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nfe_is_what_is_called(name, schedule, steps):
    sampler, schedule = sampler_of(name), SCHEDULES[schedule]
    tally = Tally()
    x = sampler(tally.counted(mixture()), schedule, (1,), Noise(0, torch.arange(5)), steps=steps, dtype=F64)
    assert x.isfinite().all()
    if sampler.adaptive:
        return
    nfe = sampler.nfe(steps, schedule)
    assert tally.calls == nfe
    assert tally.rows == 5 * nfe
    assert sampler.steps_for(nfe, schedule) == steps


def test_a_budget_is_never_exceeded():
    for name in NAMES:
        sampler = sampler_of(name)
        if not sampler.adaptive and sampler.calls_per_step < 5:
            for budget in range(least := sampler.nfe(1, VPLinear()), least + 10):
                steps = sampler.steps_for(budget, VPLinear())
                assert sampler.nfe(steps, VPLinear()) <= budget < sampler.nfe(steps + 1, VPLinear()), name


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_steps_of_dpm_solver_fast_are_equal_in_log_snr_and_on_other_grids_its_calls_are(schedule):
    """The released code's `get_orders_and_timesteps_for_singlestep_solver`, of 9 calls: orders 3, 3, 2, 1."""
    schedule = SCHEDULES[schedule]
    rule = samplers.DPMSolverFast(UniformLogSNR(), 10 + (schedule in (SCHEDULES["flow"], SCHEDULES["zero_snr"])))
    lam = torch.stack([level.lam for level in rule.grid(schedule)][-11:-1])
    assert torch.allclose(lam[[3, 6, 8, 9]].diff(), (lam[3] - lam[0]).expand(3), atol=1e-6)
    for first, last in ((0, 3), (3, 6), (6, 8)):
        step = lam[first : last + 1].diff()
        assert torch.allclose(step, step[:1].expand_as(step), atol=1e-6)
    grid = UniformTime()
    assert [level.t for level in samplers.DPMSolverFast(grid, 9).grid(schedule)] == [
        level.t for level in grid(schedule, 9)
    ]


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match="nfe=1: RhoRK takes at least 2"):
        samplers.RhoRK(Karras(to_clean=False), 3, heun()).steps_for(1, VPLinear())
    with pytest.raises(ValueError, match="steps=0"):
        samplers.DDIM(UniformTime(), 0)
    with pytest.raises(ValueError, match="steps=3 and nfe=4"):
        samplers.DDIM(UniformTime(), 3)(mixture(), VPLinear(), (1,), Noise(0, torch.arange(2)), steps=3, nfe=4)


@pytest.mark.parametrize("spacing", complete("spacing"))
def test_any_sampler_takes_any_grid(spacing):
    grid = build("spacing", spacing)
    for name in NAMES:
        sampler = copy.copy(sampler_of(name))
        sampler.spacing = grid
        if sampler.adaptive:
            sampler.rtol = sampler.atol = 0.05
        x = sampler(mixture(), VPLinear(), (1,), Noise(0, torch.arange(3)), steps=4, dtype=F64)
        assert x.isfinite().all(), name


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(name):
    sampler = sampler_of(name)
    whole = sampler(mixture(), VPLinear(), (1,), Noise(0, torch.arange(10)), steps=6, dtype=F64)
    parts = [sampler(mixture(), VPLinear(), (1,), Noise(0, i), steps=6, dtype=F64) for i in torch.arange(10).split(3)]
    assert torch.allclose(whole, torch.cat(parts), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_and_images(name):
    """A float32 image batch has the float64 result to rounding: no coefficient is lost on the way."""

    class Shrink:
        def __call__(self, x, level):
            total = level.alpha**2 * 0.25 + level.sigma**2
            x0, eps = like(level.alpha * 0.25 / total, x), like(level.sigma / total, x)
            return Prediction(x * x0, x * eps)

    sampler, noise = sampler_of(name), functools.partial(Noise, 0, torch.arange(2))
    exact = sampler(Shrink(), VPLinear(), (3, 4, 4), noise(), steps=5, dtype=F64)
    single = sampler(Shrink(), VPLinear(), (3, 4, 4), noise(), steps=5)
    assert single.dtype == torch.float32
    assert single.shape == (2, 3, 4, 4)
    assert torch.allclose(single.double(), exact, rtol=2e-3, atol=2e-3)


def test_moving_by_constant_x0_or_eps_is_exact():
    here, there = interior_levels(VPLinear(), 1)
    x0, eps = torch.tensor([[0.3]], dtype=F64), torch.tensor([[-1.2]], dtype=F64)
    x, y = (level.alpha * x0 + level.sigma * eps for level in (here, there))
    for space, m in ((X0(), x0), (Eps(), eps)):
        keep, gain = space.move(here, there)
        assert torch.allclose(keep * x + gain * m, y)
        assert space.std(here, there) == 0


def test_on_step_sees_each_moment_and_can_stop_a_run():
    seen = []

    def on_step(moment):
        seen.append((moment.number, moment.steps))
        assert moment.x.shape == moment.x0.shape == (2, 1)
        if moment.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        samplers.DDIM(UniformTime(), 9)(mixture(), VPLinear(), (1,), Noise(0, torch.arange(2)), on_step=on_step)
    assert seen == [(1, 9), (2, 9), (3, 9)]


def test_a_trajectory_keeps_every_few_steps_and_the_last():
    run = samplers.Trajectory(every=4)
    x = samplers.DDIM(UniformTime(), 10)(mixture(), VPLinear(), (1,), Noise(0, torch.arange(2)), on_step=run)
    assert [moment.number for moment in run.moments] == [4, 8, 10]
    assert torch.equal(run.moments[-1].x, x)
    assert torch.equal(run.moments[-1].x0, x)  # the last step lands on the predicted x0
    assert run.moments[0].level.t == pytest.approx(0.6)


@pytest.mark.parametrize(
    "sampler",
    [samplers.RhoRK(UniformLogSNR(), 200, rk4()), samplers.DPMSolverPP(UniformLogSNR(), 800, 2, published=False)],
    ids=["rk4", "2m"],
)
def test_encoding_and_decoding_return_the_data(sampler):
    x0 = torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None]
    x_t = sampler.encode(mixture(), VPLinear(), x0)
    assert (x_t.abs() < 4).all()
    back = sampler(mixture(), VPLinear(), (1,), Noise(0, torch.arange(7)), start=x_t, dtype=F64)
    # What is lost is the noise of the last level, sigma = 0.01, and the solver's error.
    assert torch.allclose(back, x0, atol=0.02)
    with pytest.raises(ValueError, match="stochastic"):
        samplers.Ancestral(UniformTime(), 9).encode(mixture(), VPLinear(), x0)


@pytest.mark.parametrize("schedule", ["flow", "zero_snr"])
def test_encoding_reaches_pure_noise_and_returns(schedule):
    x0, schedule = torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None], SCHEDULES[schedule]
    sampler = samplers.RhoRK(UniformLogSNR(), 200, rk4())
    x_t = sampler.encode(mixture(), schedule, x0)
    assert (x_t.diff(dim=0) > 0.05).all()
    back = sampler(mixture(), schedule, (1,), Noise(0, torch.arange(7)), start=x_t, dtype=F64)
    assert torch.allclose(back, x0, atol=0.03)


@pytest.mark.parametrize("schedule", ["flow", "zero_snr"])
def test_a_last_step_of_a_rule_of_its_own_is_not_taken_to_pure_noise(schedule):
    x0, schedule = torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None], SCHEDULES[schedule]
    own, jumped = (
        samplers.ReverseDiffusion(UniformLogSNR(), 50, probability_flow=True, own_last=own_last)
        for own_last in (True, False)
    )
    x_t = own.encode(mixture(), schedule, x0)
    assert x_t.isfinite().all()
    assert torch.equal(x_t, jumped.encode(mixture(), schedule, x0))


def test_slerp_keeps_the_length_and_its_ends():
    a, b = Noise(0, torch.arange(3)).normal((3, 8, 8)), Noise(1, torch.arange(3)).normal((3, 8, 8))
    assert torch.allclose(samplers.slerp(a, b, 0.0), a)
    assert torch.allclose(samplers.slerp(a, b, 1.0), b)
    assert torch.allclose(samplers.slerp(a, a, 0.3), a)
    half = samplers.slerp(a, b, 0.5).flatten(1).norm(dim=1)
    assert ((half / a.flatten(1).norm(dim=1) - 1).abs() < 0.1).all()


def draws_between(name):
    """Whether all noise of a sampler, some that does not vanish with the step, is of `Noise.between`."""
    drawn = []

    class Spy(Noise):
        def between(self, x, here, there):
            drawn.append("between")
            return super().like(x)

        def like(self, x):
            drawn.append("like")
            return super().like(x)

    sampler = copy.copy(sampler_of(name))
    sampler.spacing = UniformLogSNR()
    start = torch.zeros(40, 1, dtype=F64)
    ends = sampler(mixture(), VPLinear(), (1,), Spy(0, torch.arange(40)), steps=50, start=start, dtype=F64)
    return set(drawn) == {"between"} and bool((ends[:20] - ends[20:]).abs().mean() > 0.6)


BROWNIAN = [
    name
    for name in NAMES
    if sampler_of(name).stochastic and getattr(sampler_of(name), "eta", 0.0) < math.inf and draws_between(name)
]


@pytest.mark.parametrize("name", BROWNIAN)
def test_halving_the_steps_refines_the_same_path(name):
    """On one Brownian path, runs differ less and less; with independent draws they do not."""
    means = {}
    for kind in (Noise, BrownianNoise):
        sampler = copy.copy(sampler_of(name))
        sampler.spacing = UniformLogSNR()
        runs = [
            sampler(mixture(), VPLinear(), (1,), kind(0, torch.arange(200)), steps=steps, dtype=F64)
            for steps in (25, 50, 100)
        ]
        means[kind] = [float((a - b).abs().mean()) for a, b in itertools.pairwise(runs)]
    print(name, means)
    assert means[BrownianNoise][1] < 0.75 * means[BrownianNoise][0] < 0.2
    assert min(means[Noise]) > 0.4


def test_a_brownian_path_is_one():
    """Increments are standard normal and independent, and add up over a step that is split."""
    schedule = VPLinear()
    levels = schedule.at(torch.tensor([-3.0, -1.0, 0.3, 2.0], dtype=F64)).unbind()
    x = torch.zeros(20_000, 1, dtype=F64)
    noise = BrownianNoise(3, torch.arange(20_000))
    parts = [noise.between(x, a, b)[:, 0] for a, b in itertools.pairwise(levels)]
    for part in parts:
        assert abs(part.mean()) < 4 / 20_000**0.5
        assert abs(part.var() - 1) < 4 * (2 / 20_000) ** 0.5
    for i in range(3):
        for j in range(i):
            assert abs((parts[i] * parts[j]).mean()) < 4 / 20_000**0.5
    with pytest.raises(ValueError, match="a path is not shared"):
        noise.shared(2)
    whole = BrownianNoise(3, torch.arange(20_000)).between(x, levels[0], levels[-1])[:, 0]
    lengths = torch.stack([level.snr for level in levels]).diff()
    added = sum(length.sqrt() * part for length, part in zip(lengths, parts, strict=True)) / lengths.sum().sqrt()
    assert torch.allclose(whole, added, atol=1e-3)


@pytest.mark.parametrize("schedule", ["flow", "zero_snr"])
def test_a_list_serves_other_numbers_of_steps_on_a_schedule_that_starts_at_pure_noise(schedule):
    schedule = SCHEDULES[schedule]
    for grid in (build("spacing", "align_your_steps"), Listed([-math.inf, -2.0, 0.0, 2.0], Lam())):
        for count in (2, 3, 6, 15):
            levels = grid.levels(schedule, count)
            assert levels.t[0] == schedule.t_max
            assert (levels.lam.diff()[1:] > 0).all()
            assert levels.t.isfinite().all()


def test_align_your_steps_is_the_published_list_and_spans_any_schedule():
    """The timesteps are diffusers'; a chain of 1000 has index i at t = (i + 1) / 1000."""
    from diffusers.schedulers import AysSchedules

    grid = build("spacing", "align_your_steps")
    chain = build("schedule", "stable_diffusion")
    t = 1000 * grid.levels(chain, 10).t - 1
    assert (t - torch.tensor(AysSchedules["StableDiffusionTimesteps"])).abs().max() < 1.01
    rho = grid.levels(EDM(0.002, 80.0), 10).rho
    assert rho[0] == 80
    own = torch.cat(
        [grid.levels(chain, 10).rho.log(), chain.level(torch.tensor(chain.t_min, dtype=F64)).rho.log()[None]]
    )
    ends = torch.tensor([80, 0.002], dtype=F64).log()
    assert torch.allclose(
        (rho.log() - ends[0]) / (ends[1] - ends[0]), (own[:-1] - own[0]) / (own[-1] - own[0]), atol=1e-3
    )
    for count in (1, 2, 5, 23):
        levels = grid.levels(EDM(0.002, 80.0), count)
        assert levels.rho[0] == 80
        assert (levels.rho.diff() < 0).all()
        assert levels.rho[-1] > 0.002


def test_a_prediction_that_is_no_number_ends_an_adaptive_run():
    tally = Tally()
    denoise = tally.counted(lambda x, level: Prediction(x * math.nan, x * math.nan))
    x = sampler_of("dpm_solver_23")(denoise, VPLinear(), (1,), Noise(0, torch.arange(2)), dtype=F64)
    assert x.isnan().all()
    assert tally.calls < 20


def test_ancestral_noise_beyond_the_levels_own_is_refused():
    with pytest.raises(ValueError, match=r"eta=1\.2"):
        samplers.Renoised(UniformTime(), 9, samplers.DDIM(UniformTime(), 9), eta=1.2)


@pytest.mark.parametrize("name", [name for name in NAMES if sampler_of(name).adaptive])
def test_an_adaptive_run_is_seen_and_stopped_after_any_call(name):
    seen = []

    def on_step(moment):
        seen.append((moment.number, moment.steps))
        if moment.number == 3:
            raise KeyboardInterrupt

    tally = Tally()
    with pytest.raises(KeyboardInterrupt):
        sampler_of(name)(
            tally.counted(mixture()), VPLinear(), (1,), Noise(0, torch.arange(2)), on_step=on_step, dtype=F64
        )
    assert seen == [(1, 0), (2, 0), (3, 0)]
    assert tally.calls == 3


def test_annealed_langevin_walks_at_every_level():
    """Algorithm 1 of NCSN takes T steps at each level, the smallest included; then it is denoised."""
    levels = torch.logspace(0, -2, 4, dtype=F64)
    for to_clean, after in ((True, [1]), (False, [])):
        seen = []

        def denoise(x, level, seen=seen):
            seen.append(float(level.sigma))
            return mixture()(x, level)

        sampler = samplers.AnnealedLangevin(
            Listed(levels.tolist(), Rho(), to_clean=to_clean), 4 if to_clean else 3, repeats=5
        )
        x = sampler(denoise, EDM(0.01, 1.0), (1,), Noise(0, torch.arange(2)), dtype=F64)
        assert x.isfinite().all()
        counts = [sum(abs(s / level - 1) < 1e-6 for s in seen) for level in levels.tolist()]
        assert counts == [5, 5, 5, 5 + sum(after)]
        assert sampler.nfe(sampler.steps, EDM(0.01, 1.0)) == len(seen)
