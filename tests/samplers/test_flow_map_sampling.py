"""Samplers of one guess a step, given a denoiser that knows where the step ends, are samplers of its flow map."""

import pytest
import torch
from oracles import F64
from torch import nn

from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, Prediction, ScaledTime
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import (
    DDIM,
    Churn,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSinglestep,
    Renoised,
    RhoRK,
    TimeRK,
)
from denoiselab.samplers.spacing import Listed, UniformTime
from denoiselab.samplers.tableaus import euler
from denoiselab.samplers.transfer import Rho
from denoiselab.schedules import EDM, Flow, Level, Trigonometric, VPLinear
from denoiselab.schedules.base import like

MEAN, STD = torch.tensor([0.3, -1.0, 0.0], dtype=F64), torch.tensor([0.5, 0.2, 2.0], dtype=F64)


def spread(level):
    return torch.hypot(level.alpha[..., None] * STD, level.sigma[..., None])


def carried(x, here, there):
    """The probability-flow ODE's solution for a Gaussian with independent components."""
    return there.alpha[..., None] * MEAN + (x - here.alpha[..., None] * MEAN) * spread(there) / spread(here)


def exact(x, level):
    """The x0 whose transfer lands on the ODE's solution; its expectation where no end is told."""
    if level.there is None:
        x0 = MEAN + level.alpha * STD**2 * (x - level.alpha * MEAN) / spread(level) ** 2
    else:
        ratio = level.there.sigma / level.sigma
        x0 = (carried(x, level, level.there) - ratio * x) / (level.there.alpha - level.alpha * ratio)
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


EULER = {
    "ddim": lambda grid: DDIM(grid),
    "rho": lambda grid: RhoRK(grid, tableau=euler()),
    "plus": lambda grid: DPMSolverPP(grid, order=1),
    "eps": lambda grid: DPMSolver(grid, order=1),
    "single": lambda grid: DPMSolverPPSinglestep(grid, order=1),
    "churn": lambda grid: Churn(grid, rule=RhoRK(tableau=euler()), s_churn=0.0),
    "time": lambda grid: TimeRK(grid, tableau=euler()),
}
PATHS = {"vp": VPLinear(), "edm": EDM(), "flow": Flow(), "circle": Trigonometric()}
STARTS = torch.tensor([[1.0, -0.5, 2.0], [0.2, 0.0, -1.0]], dtype=F64)


# A step in t is exact where alpha and sigma are linear in it.
PAIRS = [(name, path) for name in EULER for path in PATHS if name != "time" or path in ("edm", "flow")]


@pytest.mark.parametrize(("name", "path"), PAIRS)
def test_steps_of_an_exact_flow_map_end_where_the_ode_does(name, path):
    schedule = PATHS[path]
    for steps in (1, 2, 5):
        sampler = EULER[name](UniformTime())
        top = sampler.grid(schedule, steps)[0]
        start = STARTS * top.sigma
        end = sampler(exact, schedule, (3,), Noise(0, torch.arange(2)), steps=steps, start=start, dtype=F64)
        assert (end - carried(start, top, Level.clean())).abs().max() < 1e-10


class Single(Noise):
    """Every draw is the same number."""

    def like(self, x):
        return torch.full_like(x, self.value)

    def between(self, x, here, there):
        return self.like(x)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(eta=0.5),
        DDIM(eta=1.0),
        DPMSolverPP(order=1, eta=1.0),
        DPMSolverPP(order=1, eta=20.0),
        Renoised(rule=RhoRK(tableau=euler()), eta=0.7),
    ],
    ids=["ddim", "ancestral", "sde", "consistency", "renoised"],
)
def test_noisy_steps_of_an_exact_flow_map_keep_the_marginals(sampler):
    """The network maps to the level below the step's end, from which the noise leads up to it."""
    schedule = VPLinear()
    here, there = (schedule.level(torch.tensor(t, dtype=F64)) for t in (0.8, 0.3))
    noise = Single(0, torch.arange(1))
    ends = []
    for deviation, noise.value in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        x = (here.alpha * MEAN + deviation * spread(here))[None]
        ends.append(sampler.run(exact, schedule, [here, there], x, noise)[0])
    assert (ends[0] - there.alpha * MEAN).abs().max() < 1e-10
    variance = (ends[1] - ends[0]) ** 2 + (ends[2] - ends[0]) ** 2
    assert (variance - spread(there) ** 2).abs().max() < 1e-10


def test_consistency_sampling_asks_for_clean_data():
    asked = []

    def denoise(x, level):
        asked.append(level.there)
        return exact(x, level)

    sampler = DPMSolverPP(Listed([80.0, 0.8], Rho()), order=1, eta=40.0)
    sampler(denoise, EDM(), (3,), Noise(0, torch.arange(2)), steps=2, dtype=F64)
    assert all(there.sigma < 1e-12 for there in asked)


def test_samplers_that_combine_predictions_are_told_no_end():
    """But for their first and last step at an end of the axis, where one prediction is transferred."""
    for sampler in (DPMSolverPP(UniformTime(), order=2), RhoRK(UniformTime())):
        asked = []

        def denoise(x, level, asked=asked):
            asked.append(level.there is not None)
            return exact(x, level)

        sampler(denoise, Flow(), (3,), Noise(0, torch.arange(2)), steps=4, dtype=F64)
        assert asked == [True, *[False] * (len(asked) - 2), True]


class MeanVelocity(nn.Module):
    """The exact mean velocity on straight lines, as a network with a second time."""

    second_time = True

    def forward(self, x, label, cond=Conditioning(), between=None):
        path = Flow()
        here, there = path.level(label.double()), path.level((label - between).double())
        instant = like(between, x) == 0
        x0, eps = exact(x, Level(here.t[0], here.alpha[0], here.sigma[0]))[:2]
        apart = torch.where(instant, 1.0, like(between, x))
        return torch.where(instant, eps - x0, (x - carried(x, here, there)) / apart)


@pytest.mark.parametrize("path", PATHS)
def test_a_network_of_mean_velocities_is_a_flow_map_along_every_path(path):
    """What a denoiser makes of the two times: the guess depends on the log-SNRs of both levels alone."""
    schedule, home = PATHS[path], Flow(1e-6)
    denoiser = Denoiser(MeanVelocity(), home, parameterizations.velocity, ScaledTime(1.0)).double()
    here, middle = (
        schedule.level(torch.tensor(t, dtype=F64)) for t in (schedule.part_way(f, schedule.t_max) for f in (0.9, 0.2))
    )
    for levels in ([here, Level.clean()], [here, middle, Level.clean()]):
        start = STARTS * here.sigma
        end = DDIM().run(denoiser, schedule, levels, start, Noise(0, torch.arange(2)))
        assert (end - carried(start, levels[0], Level.clean())).abs().max() < 1e-10
    instant, asked = denoiser(STARTS, here), denoiser(STARTS, here.towards(middle))
    assert (instant.x0 - exact(STARTS, here).x0).abs().max() < 1e-9
    assert (instant.x0 - asked.x0).abs().max() > 1e-3
    upwards = denoiser(STARTS, middle.towards(here))
    assert torch.equal(upwards.x0, denoiser(STARTS, middle).x0)
