"""How much nearer fitted solvers end to the ODE's end than other samplers and grids, on starts that chose none of them.

The models are the mixture around scikit-learn's digits, in closed form, and a trained network, of the run of `train.py
data=digits` that DENOISELAB_RUN names; without it that part is skipped. DENOISELAB_CALLS=5,8 names other budgets,
DENOISELAB_GUIDANCE=2 guides a network that takes classes.
"""

import itertools
import math
import os
import time
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from configurations import build, complete
from oracles import Digits

import denoiselab
from denoiselab.denoiser import Prediction
from denoiselab.guidance import Guidance
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, DPMSolverPP
from denoiselab.samplers.fitting import NearestEnd, SolverFit, solver_of
from denoiselab.samplers.fitting.fit import Recomputed
from denoiselab.samplers.fitting.solvers import mean_rms, rms
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.transfer import Lam
from denoiselab.schedules import VPLinear

pytestmark = pytest.mark.benchmark

CALLS = [int(n) for n in os.environ.get("DENOISELAB_CALLS", "4,5,6,8,10").split(",")]
WANTED = {"mixture": dict.fromkeys((4, 5, 6, 8, 10), 3.0), "network": {5: 1.5, 8: 1.5}}
GUIDANCE = float(os.environ.get("DENOISELAB_GUIDANCE", "1"))
FIT = {"mixture": {"num_samples": 4096, "batch_size": 256}, "network": {}}


class Mixture(Digits):
    """As `Digits`, differentiable in the level."""

    def __call__(self, x, level, /):
        alpha, sigma, y = level.alpha, level.sigma, x.double()
        total = (0.05 * alpha) ** 2 + sigma**2
        mean = torch.softmax(alpha / total * (y @ self.across) - alpha**2 / total * self.half, 1) @ self.means
        residual = y - alpha * mean
        return Prediction((mean + alpha * 0.05**2 / total * residual).to(x), (sigma / total * residual).to(x))


def model_of(name):
    """What binds a denoiser to starts for the fit, that for runs, the schedule and a sample's shape."""
    if name == "mixture":
        mixture = Mixture()
        return lambda numbers: mixture, lambda numbers: mixture, VPLinear(), (64,)
    if "DENOISELAB_RUN" not in os.environ:
        pytest.skip("DENOISELAB_RUN names no run of train.py data=digits")
    model = denoiselab.load(os.environ["DENOISELAB_RUN"])
    model.denoiser.eval().requires_grad_(False)
    again, guidance = replace(model, denoiser=Recomputed(model.denoiser)), Guidance(GUIDANCE)
    bind, learned = (lambda numbers, one=one: one.bound(numbers, guidance) for one in (model, again))
    return learned, bind, model.denoiser.schedule, model.shape


class Cell(NamedTuple):
    """A sampler on a grid, of at most so many calls, from the numbers that the fitted solver starts from.

    Attributes:
        distance: Mean RMS distance of its ends to those of the fine run.
        calls: Its network calls.
        later: Whether its first level is less noisy than that of the fitted solver.
    """

    distance: float
    calls: int
    later: bool


def cell(name, spacing, budget, bind, schedule, batches, first):
    """None where no run suits the sampler, the grid and the budget."""
    sampler = build("sampler", name)
    sampler.spacing = spacing or sampler.spacing
    total = 0.0
    try:
        steps = sampler.steps_for(budget, schedule)
        levels = sampler.grid(schedule, steps)
        for batch in batches:
            start = sampler.spacing.begin(batch.x / float(first.sigma), levels[0])
            x = sampler.run(bind(batch.numbers), schedule, levels, start, Noise(0, batch.numbers))
            total += float(rms(x, batch.end).double().sum())
    except ValueError:
        return None
    distance = total / sum(len(batch.x) for batch in batches)
    return Cell(distance, sampler.nfe(steps, schedule), bool(levels[0].lam > first.lam + 1e-4))


def report(budget, bind, schedule, batches, solver, fitted_grids):
    """Print tables in Markdown: each deterministic sampler on each grid, of a part of the starts; of all of them, its
    own grid and the best of that table. A star marks a less noisy first level, a number in brackets fewer calls.
    """

    def text(one):
        return f"{one.distance:.4f}{'*' * one.later}{'' if one.calls == budget else f' ({one.calls})'}" if one else ""

    first = solver.levels[0]
    grids = {"its own": None, **{name: build("spacing", name) for name in complete("spacing")}, **fitted_grids}
    names = [
        name
        for name in complete("sampler")
        if not (build("sampler", name).stochastic or build("sampler", name).adaptive)
    ]
    part = batches[:1]
    found = {
        (name, grid): cell(name, spacing, budget, bind, schedule, part, first)
        for name, (grid, spacing) in itertools.product(names, grids.items())
    }
    print(f"\n{sum(one is not None for one in found.values())} cells of {len(part[0].x)} starts\n")
    print(f"| | {' | '.join(grids)} |\n| --- {'| --- ' * len(grids)}|")
    print(f"| fitted | {mean_rms(solver, schedule, bind, part):.4f} |{' |' * (len(grids) - 1)}")
    rows = []
    for name in names:
        print(f"| `{name}` | {' | '.join(text(found[name, grid]) for grid in grids)} |")
        tried = {grid: found[name, grid].distance for grid in grids if found[name, grid] is not None}
        if tried:
            best = min(tried, key=lambda grid: tried[grid] if math.isfinite(tried[grid]) else math.inf)
            pair = [cell(name, grids[grid], budget, bind, schedule, batches, first) for grid in ("its own", best)]
            rows.append((pair[1].distance, f"| `{name}` | {text(pair[0])} | {text(pair[1])} | {best} |"))
    print(f"\n{sum(len(one.x) for one in batches)} starts\n\n| | its own grid | its best grid | which |")
    print(f"| --- | --- | --- | --- |\n| fitted | | {mean_rms(solver, schedule, bind, batches):.4f} | |")
    print("\n".join(row for _, row in sorted(rows)))


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", ["mixture", "network"])
def test_fitted_solvers_end_nearer(name, calls):
    learned, bind, schedule, shape = model_of(name)
    fit = SolverFit(**FIT[name])
    start = time.process_time()
    grids = {}
    for rule in (DPMSolverPP(steps=calls), DDIM(steps=calls)):
        search = NearestEnd()
        found = search(rule, bind(torch.arange(search.num_samples)), schedule, shape, torch.device("cpu"))
        grids[type(rule)] = Listed([max(lam, -100.0) for lam in found.lam], Lam())
    knots = time.process_time() - start
    bases = [solver_of(rule(grid, calls), schedule) for rule, grid in grids.items()]
    start = time.process_time()
    batches = [fit.batch(i, bases, schedule, shape, bind(i), states=states) for i, states in fit.parts()]
    found = fit(bases, schedule, learned, batches)
    seconds = time.process_time() - start
    fresh = fit.split(batches)[2]
    fitted = mean_rms(found.solver, schedule, bind, fresh)
    usual = {}
    for rule, grid in itertools.product((DPMSolverPP, DDIM), complete("spacing")):
        sampler = rule(build("spacing", grid), calls)
        try:
            solver = solver_of(sampler, schedule)
        except ValueError:
            continue
        if solver.levels[0].t == bases[0].levels[0].t and len(solver.asked) == calls:
            usual[f"{rule.__name__}@{grid}"] = mean_rms(solver, schedule, bind, fresh)
    for rule, grid in grids.items():
        usual[f"{rule.__name__}@nearest_end"] = mean_rms(solver_of(rule(grid, calls), schedule), schedule, bind, fresh)
    best = min(usual, key=usual.__getitem__)
    on = [rule.__name__ for rule, one in zip(grids, bases, strict=True) if one.levels is found.solver.levels]
    print(f"\n{name}, {calls} calls: fitted {fitted:.4g} on the grid of {on}, of the starts it was fitted to "
          f"{mean_rms(found.solver, schedule, bind, fit.split(batches)[0]):.4g}; {best} {usual[best]:.4g}, "
          f"{usual[best] / fitted:.2f} times; {sum(fit.calls(calls, 2).values()):,} calls, {seconds:.0f} CPU s, grids "
          f"{knots:.0f}")  # fmt: skip
    if calls in (5, 8) and GUIDANCE == 1:
        named = {f"`nearest_end` of {rule.__name__}": grid for rule, grid in grids.items()}
        report(calls, bind, schedule, fresh, found.solver, named)
    assert usual[best] / fitted >= (WANTED[name].get(calls, 1.0) if GUIDANCE == 1 else 1.0)
