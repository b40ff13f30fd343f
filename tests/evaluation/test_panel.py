import math

import pytest
import torch
from scipy.stats import ttest_1samp

from denoiselab.evaluation.verdicts.panel import crossed, nested, seeds_needed


def test_the_components_of_two_runs_of_three_samples():
    y = torch.tensor([[1.0, 2, 3], [3, 3, 6]], dtype=torch.float64)
    panel = crossed(y.mean(1), y - y.mean(1, keepdim=True), 3)
    assert panel.mean == 3
    assert panel.standard_error**2 == pytest.approx(1.5)
    assert panel.df == pytest.approx(2.0)
    assert panel.training**2 == pytest.approx(2 - 0.5 / 3)
    assert panel.draw**2 == pytest.approx((1.5 + 0.5) / 3)
    assert panel.spread**2 == pytest.approx(2)
    low, high = panel.interval()
    assert (low, high) == pytest.approx((3 - 4.302653 * math.sqrt(1.5), 3 + 4.302653 * math.sqrt(1.5)))


def test_the_first_samples_stand_for_all_and_classes_are_strata():
    rng = torch.Generator().manual_seed(0)
    influences = torch.randn(3, 400, generator=rng, dtype=torch.float64)
    scores = torch.tensor([1.0, 2.0, 4.0])
    classes = influences + 100.0 * (torch.arange(400) % 4)
    plain, within = crossed(scores, influences, 10_000), crossed(scores, classes, 10_000, strata=4)
    assert within.draw == pytest.approx(plain.draw, rel=0.02)
    assert crossed(scores, influences, 40_000).draw == pytest.approx(plain.draw / 2)


def test_runs_of_their_own_indices_have_the_plain_t_interval():
    scores = torch.tensor([1.0, 2.0, 2.5, 4.0], dtype=torch.float64)
    panel = nested(scores, torch.full((4,), 0.5))
    low, high = ttest_1samp(scores, 0).confidence_interval(0.95)
    assert panel.interval() == pytest.approx((low, high))
    assert panel.training**2 == pytest.approx(float(scores.var()) - 0.25)
    assert nested(scores).training is None


def test_runs_that_are_the_same_have_no_spread():
    panel = crossed(torch.ones(2), torch.zeros(2, 8), 8)
    assert (panel.standard_error, panel.training, panel.draw) == (0, 0, 0)
    assert panel.interval() == (1, 1)


@pytest.mark.parametrize(("runs", "kept", "strata"), [(1, 8, 1), (2, 1, 1), (2, 9, 5)])
def test_too_few_runs_or_samples_are_refused(runs, kept, strata):
    with pytest.raises(ValueError, match="it takes 2 runs, and 2 influences a stratum"):
        crossed(torch.ones(runs), torch.ones(runs, kept), 8, strata)
    with pytest.raises(ValueError, match="it takes 2"):
        nested(torch.ones(1))


def test_seeds_for_a_power_of_eight_tenths():
    assert [seeds_needed(ratio) for ratio in (3, 2, 1.5, 1, 0.75, 0.5)] == [4, 5, 6, 10, 16, 34]
    assert seeds_needed(-2) == 5
    assert seeds_needed(100) == 2
    assert seeds_needed(0) is None
    assert seeds_needed(0.01) is None


def panels(number, runs, training, seed, n=200, own=1.0):
    """Scores and influences of panels with index effects of variance 1, `(number, runs)` and `(number, runs, n)`."""
    rng = torch.Generator().manual_seed(seed)
    index = torch.randn(number, 1, n, generator=rng, dtype=torch.float64)
    rest = own * torch.randn(number, runs, n, generator=rng, dtype=torch.float64)
    samples = index + rest
    scores = training * torch.randn(number, runs, generator=rng, dtype=torch.float64) + samples.mean(2)
    return scores, samples - samples.mean(2, keepdim=True)


@pytest.mark.parametrize(("runs", "training"), [(3, 0.1), (5, 0.0)])
def test_intervals_over_trainings_cover_and_those_by_the_spread_alone_do_not(runs, training):
    scores, influences = panels(600, runs, training, seed=1)
    found = [crossed(*panel, 200) for panel in zip(scores, influences, strict=True)]
    covered = [low <= 0 <= high for low, high in (panel.interval() for panel in found)]
    assert sum(covered) / 600 == pytest.approx(0.95, abs=0.025)
    mean = sum(panel.standard_error**2 for panel in found) / 600
    assert mean / float(scores.mean(1).var()) == pytest.approx(1, abs=0.15)
    alone = [low <= 0 <= high for low, high in (nested(panel).interval() for panel in scores)]
    assert sum(alone) / 600 < 0.92
