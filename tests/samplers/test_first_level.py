"""Where grids start on chains whose log-SNR runs away."""

import copy
import functools
import math

import pytest
import torch
from configurations import build, complete, names
from oracles import F64, flow_map, mixture

from denoiselab.noise import Noise
from denoiselab.samplers import DPMSolverFast, DPMSolverPP, DPMSolverSinglestep
from denoiselab.samplers.spacing import UniformTime
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.spacing.trained import TrainedSpacing
from denoiselab.samplers.transfer import Lam
from denoiselab.schedules import Level, Shifted, VPLinear
from denoiselab.schedules.betas import const, cosine
from denoiselab.schedules.discrete import DiscreteVP

SCHEDULES = sorted({*names("schedule")} - {"learned"})  # whose inverse is a search
SPACINGS = complete("spacing")


@functools.cache
def grid(name, lam=None):
    return build("spacing", name, *([] if lam is None else [f"first_lam={lam}"]))


CONTINUOUS = [name for name in SPACINGS if not isinstance(getattr(grid(name), "spacing", grid(name)), TrainedSpacing)]


def dpm_solvers_start(alpha_bars):
    """`numerical_clip_alpha` of the released code, to -5.1; its grids run from the last level of what is left."""
    log_alphas = 0.5 * alpha_bars.log()
    lambs = log_alphas - 0.5 * torch.log(1 - torch.exp(2 * log_alphas))
    cut = int(torch.searchsorted(torch.flip(lambs, [0]), -5.1))
    return len(lambs) - cut


@pytest.mark.parametrize("steps", [50, 300, 1000, 4000])
def test_a_chain_starts_where_dpm_solver_clips_it(steps):
    chain = DiscreteVP(cosine(steps))
    assert chain.start() == dpm_solvers_start(chain.nodes().alpha.square()) / steps
    assert float(chain.level(torch.tensor(1.0, dtype=F64)).lam) < -6


@pytest.mark.parametrize("name", SCHEDULES)
def test_only_chains_of_betas_that_run_away_start_later(name):
    schedule = build("schedule", name)
    first = float(schedule.level(torch.tensor(schedule.t_max, dtype=F64)).lam)
    cut = schedule.steps is not None and -math.inf < first < -5.1
    assert (schedule.start() != schedule.t_max) == cut
    assert schedule.start(-math.inf) == schedule.t_max
    for spacing in SPACINGS if not cut else ():
        assert torch.equal(grid(spacing).levels(schedule, 7).t, grid(spacing, -math.inf).levels(schedule, 7).t)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("betas", "lam", "kept"), [(cosine(), None, 996), (const(), None, 504), (cosine(), -3.0, 968)])
def test_a_grid_is_the_one_of_the_chain_without_the_levels_below(spacing, betas, lam, kept):
    """As DPM-Solver's code has it; a rule that passes over those levels anyway is left as it is."""
    chain, short = DiscreteVP(betas), DiscreteVP(betas[:kept])
    exact = grid(spacing, -math.inf).levels(chain, 9)
    want = exact if exact.t[0] <= kept / 1000 else grid(spacing, -math.inf).levels(short, 9)
    assert torch.allclose(grid(spacing, lam).levels(chain, 9).lam, want.lam, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spacing", CONTINUOUS)
@pytest.mark.parametrize("name", ["vp_linear", "edm", "flow", "laplace"])
def test_a_grid_is_the_one_of_the_schedule_that_ends_there(spacing, name):
    schedule = build("schedule", name)
    short = copy.copy(schedule)
    short.t_max = float(schedule.time_of(torch.tensor(-2.5, dtype=F64)))
    assert torch.equal(grid(spacing, -2.5).levels(schedule, 9).t, grid(spacing).levels(short, 9).t)
    assert float(grid(spacing, -2.5).levels(schedule, 9).lam[0]) == pytest.approx(-2.5, abs=1e-9)


def test_a_list_leaves_out_what_is_below():
    grid = Listed([-4.0, -2.0, 0.0, 2.0], Lam(), first_lam=-2.5)
    assert torch.allclose(grid.levels(VPLinear(), 3).lam, torch.tensor([-2.0, 0.0, 2.0], dtype=F64))
    with pytest.raises(ValueError, match=r"first_lam=1\.0: it must leave at least 2"):
        Listed([-4.0, -2.0, 0.0, 2.0], Lam(), first_lam=1.0).levels(VPLinear(), 3)


def test_a_start_beyond_the_last_level_or_with_too_few_levels_is_refused():
    for schedule in (VPLinear(), DiscreteVP(cosine(1000))):
        with pytest.raises(ValueError, match=r"first_lam=9: it must be below .*, where the schedule ends"):
            UniformTime(first_lam=9)(schedule, 5)
        with pytest.raises(ValueError, match="first_lam=nan"):
            UniformTime(first_lam=math.nan)(schedule, 5)
    with pytest.raises(ValueError, match=r"steps=1000: a grid has 996 of the 1000 levels; first_lam=-inf allows all"):
        build("spacing", "linspace")(DiscreteVP(cosine(1000)), 1000)


def test_ddpm_takes_all_trained_levels():
    """As in its code, whose clipping of x0 bears the last one."""
    sampler, chain = build("sampler", "ddpm"), DiscreteVP(cosine(1000))
    assert [round(float(level.t) * 1000) for level in sampler.grid(chain)] == [*range(1000, -1, -1)]


# Relative errors of the ends, from -5.1 and from the chain's own first level; measured .047 and .084, 2.5 and 7,159,
# .14 and 1.49.
@pytest.mark.parametrize(
    ("kind", "options", "spacing", "steps", "clean", "most", "least"),
    [
        (DPMSolverPP, {"order": 2, "published": True}, "uniform_log_snr", 11, False, 0.05, 0.08),
        (DPMSolverFast, {}, "uniform_time", 11, False, 3, 1000),
        (DPMSolverSinglestep, {"order": 3}, "uniform_log_snr", 3, True, 0.15, 1),
    ],
)
def test_solvers_are_nearer_to_the_exact_flow(kind, options, spacing, steps, clean, most, least):
    chain, oracle, errors = DiscreteVP(cosine()), mixture(), []
    for lam in (None, -math.inf):
        own = copy.copy(grid(spacing, lam))
        own.to_clean = clean
        levels = own(chain, steps)
        x = levels[0].sigma * Noise(0, torch.arange(500)).normal((1,), F64)
        exact = flow_map(oracle, x[:, 0], levels[0], chain.level(torch.tensor(chain.t_min, dtype=F64)))
        end = kind(own, steps, **options).run(oracle, chain, levels, x, Noise(1, torch.arange(500)))[:, 0]
        errors.append(float((end - exact).norm() / exact.norm()))
    print(errors)
    assert errors[0] < most < least < errors[1]


def test_dpmpp_2m_on_the_cosine_chain_is_the_released_one():
    """Its `multistep_dpm_solver_second_update`, by equal steps in lambda from the clipped chain's first level."""
    chain, oracle = DiscreteVP(cosine()), mixture()
    alpha_bars = chain.nodes().alpha.square()
    kept = alpha_bars[: dpm_solvers_start(alpha_bars)]
    lambs = 0.5 * (kept.log() - torch.log1p(-kept))
    lam = torch.linspace(float(lambs[-1]), float(lambs[0]), 12, dtype=F64)
    alpha, sigma = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
    x = start = sigma[0] * torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    models = []
    for i in range(11):
        models.append(oracle(x, Level(lam[i], alpha[i], sigma[i])).x0)
        h = lam[i + 1] - lam[i]
        slope = (models[-1] - models[-2]) * h / (lam[i] - lam[i - 1]) if i else 0 * x
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * (models[-1] + 0.5 * slope)
    spacing = build("spacing", "uniform_log_snr", "to_clean=false")
    own = DPMSolverPP(spacing, 11, 2, published=True)(
        oracle, chain, (1,), Noise(0, torch.arange(9)), start=start, dtype=F64
    )
    assert torch.allclose(own, x, rtol=0, atol=1e-10)


def test_a_shifted_chain_starts_where_its_base_does():
    assert Shifted(DiscreteVP(cosine()), 0.5).start() == 0.996
    assert Shifted(VPLinear(), 0.5).start() == 1
