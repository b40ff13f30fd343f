"""Samplers that start below the noisy end: all steps from a level on, or the last steps of the whole grid."""

import pytest
import torch
from configurations import build, complete
from exact import noise
from oracles import F64, variant

from denoiselab.analytic import GaussianDenoiser
from denoiselab.app.tasks.from_images import Entry
from denoiselab.errors import BadInput
from denoiselab.samplers import DDIM, DPMSolverPP, Moments, Tally
from denoiselab.samplers.partial import starting_at
from denoiselab.samplers.spacing import Leading, Linspace, Listed, ToLeastNoise, Trailing
from denoiselab.schedules import EDM, DiscreteVP, Flow, Shifted, VPLinear

VP = VPLinear()
GAUSSIAN = GaussianDenoiser(torch.tensor([0.3, -0.2], dtype=F64), torch.eye(2, dtype=F64) * 0.25)


@pytest.mark.parametrize("name", complete("sampler"))
def test_every_sampler_starts_at_a_level_or_says_why_not(name):
    sampler = build("sampler", name)
    sampler = variant(sampler, steps=min(sampler.steps, 20), repeats=5)
    if name.startswith("analytic"):
        sampler.measurement.moments = Moments(torch.tensor([-6.0, 6.0]), torch.tensor([0.25, 1e-6]))
    whole = sampler.grid(VP)
    t = 0.5
    part = starting_at(sampler, VP, t)
    levels = part.grid(VP)
    assert float(levels[0].t) == t < float(whole[0].t)
    assert len(levels) == len(whole)
    if not sampler.adaptive:
        assert part.nfe(part.steps, VP) == sampler.nfe(sampler.steps, VP)
    z = noise(400).normal((2,), F64)
    x = float(levels[0].alpha) * (GAUSSIAN.mean + 0.5 * noise(400, 1).normal((2,), F64)) + float(levels[0].sigma) * z
    tally = Tally()
    out = part(tally.counted(GAUSSIAN), VP, (2,), noise(400), start=x)
    assert bool(out.isfinite().all())
    if not sampler.adaptive:
        assert tally.calls == part.nfe(part.steps, VP)
    if sampler.convergence_order is not None:
        assert float((out.mean(0) - GAUSSIAN.mean).abs().max()) < 0.12
        assert 0.4 < float(out.std(0).mean()) < 0.6


def test_a_run_from_a_level_is_the_flow_from_there():
    start = VP.level(torch.tensor(0.4, dtype=F64))
    x = noise(50).normal((2,), F64)
    ends = []
    for steps in (20, 40):
        part = starting_at(DPMSolverPP(steps=steps, order=2), VP, 0.4)
        there = part.grid(VP)[-2]
        known = GAUSSIAN.flow(x, start, there)
        out = part.run(GAUSSIAN, VP, part.grid(VP)[:-1], x, noise(50))
        ends.append(float((out - known).abs().max()))
    assert ends[0] < 2e-2
    assert ends[1] < ends[0] / 3


def test_on_trained_levels_the_first_is_one_of_them():
    chain = DiscreteVP()
    part = starting_at(DDIM(steps=10, spacing=Trailing()), chain, 0.5004)
    t = [round(float(level.t) * 1000, 6) for level in part.grid(chain)[:-1]]
    assert t[0] == 500
    assert all(value == round(value) for value in t)
    assert len(t) == 10


def test_listed_levels_start_between_two_of_them():
    listed = Listed([80.0, 10.0, 1.0, 0.1])
    part = starting_at(DDIM(steps=4, spacing=listed), VP, float(VP.at(torch.tensor(-1.0, dtype=F64)).t))
    assert round(float(part.grid(VP)[0].rho), 6) == 2.718282
    assert listed.first_lam is None
    with pytest.raises(ValueError, match=r"its grid starts at t=.* below t=1"):
        starting_at(DDIM(spacing=Listed([5.0, 1.0, 0.1])), VP, 1.0)


def test_a_grid_may_end_at_the_least_noise_or_start_at_pure_noise():
    chain, flow = DiscreteVP(), Flow()
    part = starting_at(DDIM(steps=5, spacing=ToLeastNoise(Linspace())), chain, 0.3)
    assert float(part.grid(chain)[-1].t) == chain.t_min
    assert bool(starting_at(DDIM(steps=5), flow, 1.0).grid(flow)[0].alpha == 0)


@pytest.mark.parametrize(
    ("steps", "strength", "floor", "ceil"),
    [(50, 0.75, 37, 38), (50, 0.55, 27, 28), (100, 0.29, 28, 29), (50, 0.58, 28, 29), (10, 0.05, 0, 1), (4, 0.1, 0, 1)],
)
def test_two_rules_round_as_diffusers_pipelines_do(steps, strength, floor, ceil):
    sampler = DDIM(steps=steps, spacing=Leading())
    for rule, count in (("floor", floor), ("ceil", ceil)):
        if count == 0:
            with pytest.raises(BadInput, match=rf"task.strength={strength}, task.steps={rule}: DDIM: 0 of {steps}"):
                Entry(strength, rule).of(sampler, DiscreteVP())
            continue
        part = Entry(strength, rule).of(sampler, DiscreteVP())
        assert part.steps == count
        whole = sampler.grid(DiscreteVP())
        assert [float(level.t) for level in part.grid(DiscreteVP())] == [float(a.t) for a in whole[-count - 1 :]]


@pytest.mark.parametrize(("spacing", "index"), [(Leading(), 450), (Linspace(), 473), (Trailing(), 499)])
def test_the_level_of_a_fraction_of_steps_depends_on_the_grid(spacing, index):
    part = Entry(0.5, "floor").of(DDIM(steps=20, spacing=spacing), DiscreteVP())
    assert round(float(part.grid(DiscreteVP())[0].t) * 1000) - 1 == index


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.9])
def test_a_strength_of_edm_is_the_level_of_the_flow(strength):
    rho = float(Entry(strength).of(DDIM(steps=9), EDM()).grid(EDM())[0].rho)
    flow = Flow(0.002 / 1.002, 80 / 81)
    assert rho == pytest.approx(float(Entry(strength).of(DDIM(steps=9), flow).grid(flow)[0].rho), rel=1e-9)
    half = Shifted(EDM(), 0.5)
    assert float(Entry(strength).of(DDIM(steps=9), half).grid(half)[0].rho) == pytest.approx(2 * rho)


def test_what_has_no_such_steps_is_refused():
    with pytest.raises(BadInput, match=r"task.steps=ceil: AdaptiveODE: it chooses its own steps, so"):
        Entry(0.5, "ceil").of(build("sampler", "ode_adaptive"), VP)
    with pytest.raises(BadInput, match=r"task.strength=0.01, .*Trailing has no grid of 50 steps from t=.*; use fewer"):
        Entry(0.01).of(DDIM(steps=50, spacing=Trailing()), DiscreteVP())
    with pytest.raises(ValueError, match="strength=0: it must be above 0"):
        Entry(0)
