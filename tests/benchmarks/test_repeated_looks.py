"""Calibration of verdicts at repeated looks, and of panels of trainings, on many draws; the figures are printed."""

import itertools
import math

import pytest
import torch

from denoiselab.evaluation.metrics.frechet import frechet_distance, frechet_scores, root_of
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, Moments
from denoiselab.evaluation.standing import ALWAYS_VALID, SIMULATED, Entrant, Standing, Stopping
from denoiselab.evaluation.verdicts import Estimate
from denoiselab.evaluation.verdicts.panel import crossed, nested

pytestmark = pytest.mark.benchmark

D = 16
REFERENCE = Moments(10**9, torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
ROOT = root_of(REFERENCE)


def decided(cells, stopping, looks, seed, costs=None):
    """A frontier of cells (mean shift, spread), whose samples are correlated by 0.95, drawn until it is decided."""
    rng = torch.Generator().manual_seed(seed)
    standing = Standing.at_start(len(cells), looks)
    shared = torch.randn(looks[-1], D, generator=rng, dtype=torch.float64)
    own = [torch.randn(looks[-1], D, generator=rng, dtype=torch.float64) for _ in cells]
    sums = [GaussianStatistics(D) for _ in cells]
    costs = costs or [10] * len(cells)
    entrants = [Entrant(str(cell), str(cell), cost) for cell, cost in enumerate(costs)]
    while standing.open:
        n, estimates = looks[standing.taken], []
        for cell in standing.open:
            shift, spread = cells[cell]
            part = slice(standing.n[cell], n)
            x = spread * (0.95**0.5 * shared[part] + 0.05**0.5 * own[cell][part])
            x[:, 0] += shift
            sums[cell].update(x)
            at_n, infinite = frechet_scores(sums[cell], REFERENCE, ROOT)
            estimates.append(
                Estimate(
                    str(cell), at_n.value, at_n.standard_error, n, at_n.influences, True, costs[cell],
                    infinite.value, infinite.standard_error,
                )
            )  # fmt: skip
        standing.take(estimates, entrants, stopping)
    return standing


@pytest.mark.parametrize(("boundary", "most"), [(SIMULATED, 0.085), (ALWAYS_VALID, 0.04)])
@pytest.mark.parametrize("tie", ["two mean shifts", "a shift and a wider one"])
def test_peeking_at_a_tie(tie, boundary, most):
    """Nominal 5 %, +-1 % by 450 draws; tails at small n are not quite normal."""
    looks, draws = [200, 400, 800, 1600, 3200], 450
    wider = 1 + 0.6 / math.sqrt(D)  # D (spread - 1)^2 = 0.36 as well
    cells = [(0.6, 1.0), (-0.6, 1.0) if tie == "two mean shifts" else (0.0, wider)]
    runs = [decided(cells, Stopping(0.05, looks[-1], boundary), looks, seed) for seed in range(draws)]
    wrong = sum(bool(run.decisions.better.any()) for run in runs) / draws
    print(f"\n{tie}, {boundary}: {wrong:.3f} wrong of {draws}")
    assert wrong <= most


def test_five_tied_samplers_at_three_budgets():
    """Family-wise error of 15 cells of which those of a budget are tied, in 200 frontiers of five doubling looks."""
    looks, draws = [256, 512, 1024, 2048], 200
    shifts = [1.0] * 5 + [0.6] * 5 + [0.3] * 5
    cells, costs = [(shift, 1.0) for shift in shifts], [5] * 5 + [10] * 5 + [20] * 5
    wrong, spent = 0, 0
    for seed in range(draws):
        run = decided(cells, Stopping(0.05, looks[-1]), looks, seed, costs)
        better = run.decisions.better.nonzero().tolist()
        wrong += any(shifts[j] >= shifts[k] for j, k in better)
        spent += sum(run.n)
    print(
        f"\n15 cells: {wrong / draws:.3f} of {draws} frontiers with a wrong verdict; {spent / draws:.0f} samples each"
    )
    assert wrong / draws <= 0.09


def test_samples_that_a_decision_saves():
    """Gaps of 0.16 and 0.04 on a distance of 0.36; a fixed n would be 3,200."""
    looks, draws = [200, 400, 800, 1600, 3200], 60
    for gap in (0.16, 0.04):
        cells = [(0.6, 1.0), (math.sqrt(0.36 + gap), 1.0)]
        runs = [decided(cells, Stopping(0.05, looks[-1]), looks, seed) for seed in range(draws)]
        found = sum(bool(run.decisions.better[0, 1]) for run in runs)
        wrong = sum(bool(run.decisions.better[1, 0]) for run in runs)
        mean = sum(run.n[0] for run in runs) / draws
        print(f"\ngap {gap}: {found} of {draws} found, {wrong} wrong, {mean:.0f} samples in mean")
        assert wrong <= 2
        assert gap < 0.1 or (found == draws and mean < 1800)
    assert frechet_distance(REFERENCE, REFERENCE) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("runs", "training"), [*itertools.product((3, 5, 10), (0.1, 0.02, 0.0))])
def test_intervals_over_trainings(runs, training):
    """1,500 panels of 200 samples, index effects and own effects of variance 1."""
    number, n = 1500, 200
    rng = torch.Generator().manual_seed(runs)
    covered = alone = 0
    variances, means = [], []
    for _ in range(number):
        samples = torch.randn(1, n, generator=rng, dtype=torch.float64)
        samples = samples + torch.randn(runs, n, generator=rng, dtype=torch.float64)
        scores = training * torch.randn(runs, generator=rng, dtype=torch.float64) + samples.mean(1)
        panel = crossed(scores, samples - samples.mean(1, keepdim=True), n)
        low, high = panel.interval()
        covered += low <= 0 <= high
        low, high = nested(scores).interval()
        alone += low <= 0 <= high
        variances.append(panel.standard_error**2)
        means.append(panel.mean)
    ratio = sum(variances) / number / float(torch.tensor(means).var())
    print(f"\nR {runs}, s {training}: covers {covered / number:.3f}, spread alone {alone / number:.3f}; {ratio:.2f}")
    assert covered / number == pytest.approx(0.95, abs=0.02)
    assert ratio == pytest.approx(1, abs=0.1)
