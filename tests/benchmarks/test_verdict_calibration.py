"""Standard errors of differences and family-wise errors of verdicts over many draws of Gaussian features."""

import statistics

import pytest
import torch

from denoiselab.evaluation.metrics.frechet import frechet_scores, root_of
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, Moments
from denoiselab.evaluation.verdicts import Estimate, compare

pytestmark = pytest.mark.benchmark

D = 16


def estimate(name, x, reference, *, at_infinity):
    samples = GaussianStatistics(D)
    samples.update(x)
    whole, infinite = frechet_scores(samples, reference, root_of(reference))
    extra = (infinite.value, infinite.standard_error) if at_infinity else ()
    return Estimate(name, whole.value, whole.standard_error, len(x), whole.influences, True, 0, *extra)


def reference():
    spread = torch.arange(1, D + 1).double() ** -0.5
    return Moments(10**9, torch.zeros(D).double(), torch.diag(spread**2)), spread


def tied(place, cells, spread):
    """Means of cells at one distance from the reference, and a common factor of the spread."""
    directions = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9)).double()).Q[:cells]
    shift = {"at": 0.0, "near": 0.3, "far": 1.5}[place]
    wider = {"at": 1.0, "near": 1.0, "far": 1.3}[place]
    return shift * directions, wider * spread


def draws(n, means, spread, number, correlation=0.95):
    rng = torch.Generator().manual_seed(1000 + number)
    common = torch.randn(n, D, generator=rng, dtype=torch.float64)
    for mean in means:
        own = torch.randn(n, D, generator=rng, dtype=torch.float64)
        yield mean + spread * (correlation**0.5 * common + (1 - correlation) ** 0.5 * own)


@pytest.mark.parametrize("n", [200, 500, 2000])
@pytest.mark.parametrize("place", ["at", "near", "far"])
def test_standard_errors_of_differences_are_the_spread_of_two_hundred_draws(place, n):
    """Of the ratio of both, 0.05 is the error of 200 draws; at n = 2,000 there are 100."""
    q, spread = reference()
    (mean,), wide = tied(place, 1, spread)
    means = [mean, 1.05 * mean]
    for at_infinity in (False, True):
        values, errors, alone = [], [], []
        for number in range(200 if n < 2000 else 100):
            pair = [
                estimate(str(i), x, q, at_infinity=at_infinity) for i, x in enumerate(draws(n, means, wide, number))
            ]
            both = compare(pair)
            values.append(float(both.difference[0, 1]))
            errors.append(float(both.standard_error[0, 1]) ** 2)
            alone.append(sum(both.error(i) ** 2 for i in range(2)))
        ratio = statistics.fmean(errors) ** 0.5 / statistics.stdev(values)
        gain = (statistics.fmean(alone) / statistics.fmean(errors)) ** 0.5
        print(f"{place}, n = {n}, {both.at}: estimated over spread {ratio:.2f}; unpaired over paired {gain:.1f}")
        assert 0.85 < ratio < 1.2
        assert gain > 1.5


@pytest.mark.parametrize("at_infinity", [False, True])
@pytest.mark.parametrize("place", ["near", "far"])
def test_any_verdict_on_fifteen_true_ties_is_made_in_five_of_a_hundred_frontiers(place, at_infinity):
    q, spread = reference()
    means, wide = tied(place, 15, spread)
    wrong, marks, critical = 0, 0, []
    for number in range(400):
        cells = [estimate(str(i), x, q, at_infinity=at_infinity) for i, x in enumerate(draws(500, means, wide, number))]
        both = compare(cells)
        critical.append(both.critical)
        wrong += bool(both.best(range(15)).surely_worse)
        marks += not all(both.pareto([5, 10, 20] * 5))
    rates = f"verdicts {wrong / 400:.3f}, marks {marks / 400:.3f}"
    print(f"{place}, {both.at}: {rates}; critical {statistics.fmean(critical):.2f}")
    assert 0.02 <= wrong / 400 <= 0.08
    assert marks / 400 <= 0.08
