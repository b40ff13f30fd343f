"""The levels of every grid, against closed forms and other libraries."""

import contextlib
import functools
import itertools
import math

import diffusers
import pytest
import torch
from configurations import build, complete
from oracles import F64, Digits, mixture
from scipy.special import betaincinv

from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, DPMSolverPP, RhoRK
from denoiselab.samplers.spacing import (
    Asinh,
    Beta,
    Karras,
    PowerTime,
    UniformLogSNR,
    UniformTime,
    Until,
    VPTime,
    WithoutLast,
    is_one_call,
)
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.tableaus import heun
from denoiselab.samplers.transfer import Rho
from denoiselab.schedules import EDM, Flow, VPLinear

CHAIN = build("schedule", "ddpm")
VP = VPLinear()


@pytest.mark.parametrize(
    ("a", "b"), [(0.6, 0.6), (0.1, 0.1), (0.3, 2), (1, 1), (2, 5), (50, 50), (5, 60), (60, 5), (300, 2), (1000, 1000)]
)
def test_beta_has_the_quantiles_of_scipy(a, b):
    levels = Beta(a, b, to_clean=False).levels(VP, 23)
    places = (levels.t - VP.t_min) / (VP.t_max - VP.t_min)
    want = betaincinv(a, b, torch.linspace(1, 0, 23, dtype=F64).numpy())
    assert torch.allclose(places, torch.from_numpy(want), rtol=0, atol=1e-12)


@pytest.mark.parametrize("a", [0.0, -1.0, 0.05, 2000.0, float("nan")])
def test_beta_refuses_shapes_that_are_not_shown(a):
    with pytest.raises(ValueError, match=f"b={a}: it must be between"):
        Beta(0.6, a)
    with pytest.raises(ValueError, match=r"a=0\.1, b=1000: with these shapes two of 40 levels coincide"):
        Beta(0.1, 1000).levels(VP, 40)


@pytest.mark.parametrize("name", complete("spacing"))
def test_a_budget_buys_the_most_steps_on_every_grid(name):
    """`steps_for` against all numbers of steps, where grids drop or add levels too, and beyond the trained ones."""
    grid = build("spacing", name, *(["trained=60"] if name in INDICES else []))
    for rule in (DDIM(grid, 9), RhoRK(grid, 9, heun())):
        spent = {}
        for steps in range(1, 70):
            with contextlib.suppress(ValueError):
                spent[steps] = rule.nfe(steps, VP)
        for budget in range(spent[1], 40):
            assert rule.steps_for(budget, VP) == max(steps for steps, calls in spent.items() if calls <= budget), budget


# S = 10 of T = 1000, counted from 0: the papers' own rules by hand, and diffusers'.
INDICES = {
    "ddim_uniform": range(0, 1000, 100),
    "ddim_uniform_released": range(0, 1000, 100),
    "ddim_quadratic": [0, 9, 39, 88, 158, 246, 355, 483, 632, 800],
    "ddim_quadratic_released": [0, 9, 39, 88, 158, 246, 355, 483, 632, 800],
    **{
        name: sorted(scheduler.timesteps.tolist())
        for name in ("leading", "linspace", "trailing")
        for scheduler in [diffusers.DDIMScheduler(timestep_spacing=name)]
        for _ in [scheduler.set_timesteps(10)]
    },
}


@pytest.mark.parametrize("name", INDICES)
def test_trained_levels_are_those_of_the_released_codes(name):
    levels = build("spacing", name)(CHAIN, 10)
    assert sorted(round(float(level.t) * 1000) - 1 for level in levels[:-1]) == list(INDICES[name])


@pytest.mark.parametrize(("steps", "stride"), [(7, 142), (30, 33), (600, 1)])
def test_the_released_linear_rule_has_more_levels_where_steps_do_not_divide(steps, stride):
    levels = build("spacing", "ddim_uniform_released")(CHAIN, steps)
    assert [round(float(level.t) * 1000) - 1 for level in levels[-2::-1]] == list(range(0, 1000, stride))


def test_times_are_those_of_dpm_solver():
    """Of 10 steps along 0 to 999: its `time_uniform` and `time_quadratic`."""
    for name, want in (
        ("uniform_time", [999, 899.1, 799.2, 699.3, 599.4, 499.5, 399.6, 299.7, 199.8, 99.9, 0]),
        ("quadratic", [999, 809.2, 639.4, 489.5, 359.6, 249.8, 159.8, 89.9, 40, 10, 0]),
    ):
        levels = build("spacing", name, "to_clean=true")(VP, 10)
        assert torch.allclose(
            torch.stack([level.t for level in levels[:-1]]), torch.tensor(want[:-1]).double() / 999, atol=1e-4
        )


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan")])
def test_a_listed_rho_that_is_not_positive_is_refused_by_name(value):
    with pytest.raises(ValueError, match=rf"rho={value}: it must be positive"):
        Listed([80.0, value], Rho()).levels(EDM(0.002, 80.0), 2)


@pytest.mark.parametrize("schedule", [VP, EDM(0.002, 80.0), Flow()])
@pytest.mark.parametrize("to_clean", [True, False])
def test_asinh_has_equal_steps_of_asinh_rho(schedule, to_clean):
    levels = Asinh(0.3, to_clean=to_clean)(schedule, 7)
    rho = torch.stack([level.rho for level in levels])
    u = torch.where(rho.isinf(), math.exp(5), rho).div(0.3).asinh()  # pure noise counts as log-SNR -10
    assert torch.allclose(u.diff(), (u[-1] - u[0]) / 7, rtol=1e-7, atol=0)
    assert float(levels[0].t) == schedule.t_max
    assert bool(levels[-1].is_end) if to_clean else float(levels[-1].t) == schedule.t_min


@pytest.mark.parametrize("to_clean", [True, False])
def test_vp_time_is_the_time_of_the_linear_vp_at_equal_log_snr(to_clean):
    levels, want = VPTime(to_clean=to_clean)(VP, 9), UniformTime(to_clean=to_clean)(VP, 9)
    for a, b in zip(levels, want, strict=True):
        assert torch.allclose(a.t, b.t, rtol=1e-10, atol=0)
    elsewhere = VPTime(to_clean=to_clean)(EDM(0.002, 80.0), 9)
    beta = torch.stack([level.rho for level in elsewhere]).square().log1p()  # 0.1 t + 19.9 t^2 / 2
    t = (-0.1 + (0.01 + 2 * 19.9 * beta).sqrt()) / 19.9
    assert torch.allclose(t.diff(), (t[-1] - t[0]) / 9, rtol=1e-6, atol=0)


def test_asinh_stops_at_t_min_where_equal_steps_would_go_beyond():
    levels = Asinh()(EDM(0.5, 80.0), 50)
    assert float(levels[-2].rho) == 0.5
    assert levels[-1].is_end


@pytest.mark.parametrize("name", ["uniform_log_snr", "quadratic", "karras"])
def test_until_ends_at_its_time_alone(name):
    long, short = VPLinear(t_min=1e-5), VPLinear(t_min=1e-3)
    until, inner = Until(build("spacing", name)), build("spacing", name, "to_clean=false")
    for schedule, as_of in ((long, short), (short, short), (CHAIN, CHAIN)):
        ours = until(schedule, 7)
        assert [float(level.t) for level in ours] == [float(level.t) for level in inner(as_of, 7)]
        assert {id(level.path) for level in ours} == {id(schedule)}
    assert long.t_min == 1e-5
    with pytest.raises(ValueError, match=r"t=2: it must be less than 1, where the grid starts"):
        Until(t=2)(long, 7)


NEST = {
    (UniformTime(), VP, 8): True,
    (PowerTime(3.0), EDM(0.002, 80.0), 8): True,
    (PowerTime(3.0), VP, 8): False,  # 1 / 16^3 is below t_min
    (PowerTime(3.0, to_t_min=True), VP, 2): False,
    (VPTime(), CHAIN, 8): True,
    (UniformLogSNR(), VP, 2): False,
    (Karras(), EDM(0.002, 80.0), 1): True,
    (Karras(), EDM(0.002, 80.0), 2): False,
    (Karras(to_clean=False), EDM(0.002, 80.0), 2): True,
    (WithoutLast(Karras()), EDM(0.002, 80.0), 2): True,
    (Karras(to_clean=False), Flow(), 2): False,
    (Beta(), VP, 2): False,
    (build("spacing", "denoise_to_zero"), VP, 2): False,
}


@pytest.mark.parametrize("case", NEST, ids=lambda case: f"{type(case[0]).__name__}-{type(case[1]).__name__}-{case[2]}")
def test_a_grid_nests_if_halving_the_steps_drops_every_second_level(case):
    grid, schedule, steps = case
    coarse, fine = ([float(level.t) for level in grid(schedule, count)] for count in (steps, 2 * steps))
    same = coarse == pytest.approx(fine[::2], rel=1e-6) if len(coarse) == len(fine[::2]) else False
    assert grid.nests(schedule, steps) == same == NEST[case]


@pytest.mark.parametrize("schedule", [VP, EDM(0.002, 80.0), Flow()], ids=["vp", "edm", "flow"])
def test_calls_are_as_one_where_the_end_is_that_of_one_call(schedule):
    """Measured on a mixture: within 2 % of its scale where it is said, and beyond where it is not."""
    x = Noise(0, torch.arange(100)).normal((1,), F64)
    said = {}
    for grid, steps in itertools.product((Karras(), UniformLogSNR(), Asinh(), VPTime(), PowerTime()), (2, 3)):
        levels = grid(schedule, steps)
        one, all_calls = (
            DDIM(grid, 9).run(mixture(), schedule, given, x * float(levels[0].sigma), Noise(1, torch.arange(100)))
            for given in ([levels[0], levels[-1]], levels)
        )
        off = float((all_calls - one).square().mean().sqrt())
        said[type(grid).__name__, steps] = is_one_call(levels)
        assert off < 0.02 if is_one_call(levels) else off > 0.05, (grid, steps, off)
    own = {("Karras", 2), ("UniformLogSNR", 2)}
    pure = {("Karras", 3), ("UniformLogSNR", 3)} if isinstance(schedule, Flow) else set()
    assert {case for case, one in said.items() if one} == own | pure


@functools.cache
def digits_and_end():
    """The mixture around scikit-learn's digits, starts, and where the flow takes them."""
    oracle, noise = Digits(), Noise(0, torch.arange(128))
    start = float(VP.level(torch.tensor(VP.t_max)).sigma) * noise.normal((64,), F64)
    end = DPMSolverPP(UniformLogSNR(), 300, order=3, published=False)(oracle, VP, (64,), noise, start=start, dtype=F64)
    return oracle, start, end


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "dpm_solver_2m", "heun"])
def test_default_grids_come_nearer_than_the_papers_at_few_calls(name):
    """Geometric mean over budgets of the RMS distance to the flow's end: the measure by which defaults were chosen."""
    oracle, start, end = digits_and_end()

    def distance(grid):
        sampler, logs = build("sampler", name), []
        sampler.spacing = grid or sampler.spacing
        for nfe in (5, 10, 20):
            x = sampler(oracle, VP, (64,), Noise(0, torch.arange(128)), nfe=nfe, start=start, dtype=F64)
            logs.append((x - end).square().mean(1).sqrt().mean().log())
        return float(torch.stack(logs).mean().exp())

    assert distance(None) < min(distance(build("spacing", other)) for other in ("uniform_log_snr", "karras"))
