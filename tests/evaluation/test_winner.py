"""How much better the best of several scores looks, and that fresh samples undo it (closed forms and draws)."""

import math

import pytest
import torch

from denoiselab.evaluation.metrics.frechet import frechet_scores
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, Moments
from denoiselab.evaluation.verdicts import Estimate, compare
from denoiselab.evaluation.verdicts.winner import confirmed, optimism_of_ties

F64 = torch.float64


def expected_maximum(k):
    """Of K standard normal numbers: the integral of x d(Phi(x)^K), by the trapezoidal rule."""
    x = torch.linspace(-9, 9, 20_001, dtype=F64)
    return float(
        torch.trapezoid(x * k * torch.special.ndtr(x) ** (k - 1) * (-x * x / 2).exp() / (2 * math.pi) ** 0.5, x)
    )


@pytest.mark.parametrize(("k", "stated"), [(3, 0.83), (15, 1.75), (40, 2.17)])
def test_optimism_of_independent_ties(k, stated):
    tau = 0.3
    found = optimism_of_ties(tau**2 * torch.eye(k, dtype=F64)) / tau
    assert found == pytest.approx(expected_maximum(k), abs=0.015)
    assert found == pytest.approx(stated, abs=0.03)  # of 20,000 trials


def test_what_is_common_to_all_adds_nothing():
    own = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=F64))
    assert optimism_of_ties(own + 100) == pytest.approx(optimism_of_ties(own), rel=1e-9)
    assert optimism_of_ties(torch.full((3, 3), 2.0, dtype=F64)) == pytest.approx(0, abs=1e-6)
    # Two: E max(a, b) - mean = sd(a - b) / sqrt(2 pi).
    assert optimism_of_ties(own[:2, :2]) == pytest.approx((5 / (2 * math.pi)) ** 0.5, rel=0.01)


def test_scores_without_an_estimate_are_left_out():
    covariance = torch.full((4, 4), torch.nan, dtype=F64)
    covariance[:3, :3] = torch.eye(3, dtype=F64)
    assert optimism_of_ties(covariance) == optimism_of_ties(torch.eye(3, dtype=F64))
    assert optimism_of_ties(covariance[2:, 2:]) == 0


def test_both_scores_and_their_difference():
    both = confirmed((3.5, 0.3), (3.8, 0.4))
    assert (both.scouted, both.fresh, both.standard_error) == (3.5, 3.8, 0.4)
    assert (both.optimism, both.optimism_error) == (pytest.approx(0.3), pytest.approx(0.5))
    assert confirmed((7.0, None), (6.5, None), lower_is_better=False)[3:] == (0.5, None)


def optimism_of_winners(k, n, trials):
    """Of the best of K cells whose Fréchet distances are equal in truth and share noise, and of its fresh score.

    Each a mean with its standard error, in units of the spread of a cell's own noise; and what `optimism_of_ties` says
    of the first.
    """
    rng = torch.Generator().manual_seed(0)
    d = k + 1
    reference = Moments(10**9, torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))
    shift = 0.7 * torch.eye(k, d, dtype=F64)

    def scores():
        common = torch.randn(n, d, generator=rng, dtype=F64)
        own = torch.randn(k, n, d, generator=rng, dtype=F64)
        out = []
        for cell in range(k):
            statistics = GaussianStatistics(d)
            statistics.update(0.8 * common + 0.6 * own[cell] + shift[cell])
            out.append(frechet_scores(statistics, reference, torch.eye(d, dtype=F64))[0])
        return out

    scouted, fresh, said = [], [], []
    for _ in range(trials):
        first, second = scores(), scores()
        values, again = (torch.tensor([one.value for one in part], dtype=F64) for part in (first, second))
        scouted.append(values)
        fresh.append(again[values.argmin()] - again.mean())  # less what is common to all fresh scores
        estimates = [Estimate(str(i), one.value, one.standard_error, n, one.influences) for i, one in enumerate(first)]
        said.append(optimism_of_ties(compare(estimates).covariance))
    values, after = torch.stack(scouted), torch.stack(fresh)
    tau = (values - values.mean(1, keepdim=True)).square().sum(1).div(k - 1).mean().sqrt()
    low = values.mean(1) - values.amin(1)  # the truth less the least, but for what is common to all cells
    means = ((float(part.mean() / tau), float(part.std() / tau) / trials**0.5) for part in (low, after))
    return *means, sum(said) / trials / float(tau)


def test_a_winner_looks_too_good_by_what_is_said_and_its_fresh_score_does_not():
    (low, _), (fresh, _), said = optimism_of_winners(k=6, n=120, trials=80)
    assert low == pytest.approx(expected_maximum(6), abs=0.2)  # 1.27; its own spread 0.6 / sqrt(80)
    assert said == pytest.approx(low, abs=0.25)
    assert abs(fresh) < 0.45  # 4 / sqrt(80)


@pytest.mark.benchmark
@pytest.mark.parametrize("k", [3, 15])
def test_winners_of_many_trials(k):
    (low, low_error), (fresh, fresh_error), said = optimism_of_winners(k=k, n=400, trials=4000 // k)
    print(
        f"K={k}: the winner is {low:.3f} +- {low_error:.3f} tau too low ({low / low_error:.0f} standard errors), said "
        f"{said:.3f}; its fresh score is {fresh:+.3f} +- {fresh_error:.3f} off"
    )
    assert low == pytest.approx(expected_maximum(k), abs=0.08)
    assert said == pytest.approx(low, abs=0.15)
    assert low > 20 * low_error
    assert abs(fresh) < 3 * fresh_error
    assert abs(fresh) < 0.15 * low
