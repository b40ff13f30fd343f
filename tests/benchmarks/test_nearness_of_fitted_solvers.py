"""How much nearer fitted solvers end to the ODE's end than other samplers and grids, on starts that chose none of them.

The models are the mixture around scikit-learn's digits, in closed form, and a trained network, of the run of `train.py
data=digits` that DENOISELAB_RUN names; without it that part is skipped. DENOISELAB_CALLS=5,8 names other budgets.
"""

import itertools
import os
import time

import pytest
import torch
from configurations import build, complete
from oracles import Digits

import denoiselab
from denoiselab.denoiser import Prediction
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
FIT = {"mixture": {"num_samples": 4096, "batch_size": 256}, "network": {}}
REPORTED = 64  # starts of the table of all samplers


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
    again = Recomputed(model.denoiser)
    return lambda numbers: again, model.bound, model.denoiser.schedule, model.shape


def others(calls, bind, schedule, batch, first):
    """The mean distance of every deterministic sampler on every grid from the level `first` on that has the budget."""
    numbers, start, end = batch.numbers[:REPORTED], batch.x[:REPORTED], batch.end[:REPORTED]
    out = {}
    for name, grid in itertools.product(complete("sampler"), ["", *complete("spacing")]):
        sampler = build("sampler", name)
        if sampler.stochastic or sampler.adaptive:
            continue
        try:
            if grid:
                sampler.spacing = build("spacing", grid)
            steps = sampler.steps_for(calls, schedule)
            levels = sampler.grid(schedule, steps)
            if sampler.nfe(steps, schedule) != calls or levels[0].t != first.t:
                continue
            x = sampler.run(bind(numbers), schedule, levels, start, Noise(0, numbers))
        except ValueError:
            continue
        out[f"{name}@{grid}" if grid else name] = float(rms(x, end).mean())
    return dict(sorted(out.items(), key=lambda pair: pair[1]))


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", ["mixture", "network"])
def test_fitted_solvers_end_nearer(name, calls):
    learned, bind, schedule, shape = model_of(name)
    fit = SolverFit(**FIT[name])
    start = time.process_time()
    grids = {}
    for rule in (DPMSolverPP(steps=calls), DDIM(steps=calls)):
        found = NearestEnd()(rule, bind(torch.arange(64)), schedule, shape, torch.device("cpu"))
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
    if calls in (5, 8):
        all_others = others(calls, bind, schedule, fresh[0], bases[0].levels[0])
        print(", ".join(f"{key} {value:.4g}" for key, value in list(all_others.items())[:12]))
    assert usual[best] / fitted >= WANTED[name].get(calls, 1.0)
