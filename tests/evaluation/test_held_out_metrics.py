"""Metrics that compare with held-out data, and MIND: against their definitions, and their standard errors."""

import math

import pytest
import torch
from configurations import build
from scipy.stats import mannwhitneyu

from denoiselab.evaluation import FrechetRatio, Memorisation, MongeInceptionDistance
from denoiselab.evaluation.feature_contracts import Layer
from denoiselab.evaluation.metrics.frechet import frechet_distance
from denoiselab.evaluation.metrics.statistics import GaussianStatistics


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def layer(x, held_out=None, strata=1):
    moments = GaussianStatistics(x.shape[1], strata=strata)
    moments.update(x)
    return Layer(moments, x, strata, None if held_out is None else layer(held_out))


def mind(x, y, projections, seed):
    """The paper's few lines, with torch-fidelity's draws."""
    g = torch.Generator().manual_seed(seed)
    n, d = min(len(x), len(y)), x.shape[1]
    x, y = (part[torch.randperm(len(part), generator=g)[:n]] if len(part) > n else part for part in (x, y))
    u = torch.randn(projections, d, generator=g)
    u = u / u.norm(dim=1, keepdim=True)
    a, b = ((part @ u.T).sort(0).values for part in (x, y))
    return 3 * d * float((a - b).square().mean())


@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 500), (500, 300)])
def test_mind_is_the_papers(n, m):
    x, y = normal(n, 12, 0, 0.2), normal(m, 12, 1)
    found = MongeInceptionDistance(projections=50, seed=7).scores(layer(x), layer(y))["mind"]
    assert found.value == pytest.approx(mind(x, y, 50, 7), rel=1e-5)
    assert (found.influences is None) == (n > m)


def test_mind_of_shifted_and_scaled_sets_is_known():
    """Along u a shift by s moves everything by u.s, and the mean of (u.s)^2 over the sphere is |s|^2 / D."""
    x, shift = normal(200, 3, 0), torch.tensor([1.0, 2.0, -2.0])
    moved = MongeInceptionDistance(4000).scores(layer(x + shift), layer(x))["mind"]
    assert moved.value == pytest.approx(3 * 9, rel=0.03)
    one = normal(100, 1, 0)
    line = MongeInceptionDistance(1).scores(layer(2 * one + 1), layer(one))["mind"]
    assert line.value == pytest.approx(3 * float((one + 1).square().mean()), rel=1e-5)
    assert MongeInceptionDistance(9).scores(layer(x), layer(x))["mind"].value == 0


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.5), (1.4, 0.0)])
def test_the_standard_error_of_mind_is_the_spread_of_draws(scale, shift):
    y, metric, found = layer(normal(400, 6, 99)), MongeInceptionDistance(64), []
    for seed in range(120):
        found.append(metric.scores(layer(scale * normal(400, 6, seed) + shift), y)["mind"])
    spread = float(torch.tensor([one.value for one in found]).std())
    assert sum(one.standard_error for one in found) / len(found) == pytest.approx(spread, rel=0.2)
    assert len(found[0].influences.first) == 400


def test_memorisation_is_the_share_of_nearer_pairs():
    train, held_out, x = normal(150, 4, 0), normal(90, 4, 1), normal(120, 4, 2, 0.1)
    found = Memorisation(batch_size=37).scores(layer(x), layer(train, held_out))
    own, known = (torch.cdist(part.double(), train.double()).amin(1) for part in (x, held_out))
    share = (own[:, None] < known).double()
    assert found["memorisation"].value == pytest.approx(float(share.mean()), abs=1e-12)
    u = mannwhitneyu(known.numpy(), own.numpy()).statistic
    assert found["memorisation"].value == pytest.approx(u / (len(own) * len(known)), abs=1e-12)
    error = float(share.mean(1).std()) / math.sqrt(len(x))
    assert found["memorisation"].standard_error == pytest.approx(error, rel=1e-9)
    assert found["memorisation"].influences.first == pytest.approx(share.mean(1))
    assert found["copied"].value == pytest.approx(float((own < known.min()).double().mean()))  # 1 % of 90 is the first


def test_memorisation_of_copies_of_fresh_data_and_of_far_samples():
    train, held_out, metric = normal(400, 4, 0), normal(300, 4, 1), Memorisation()
    reference = layer(train, held_out)
    assert metric.scores(layer(train[:50]), reference)["memorisation"].value == 1
    assert metric.scores(layer(train[:50]), reference)["copied"].value == 1
    assert metric.scores(layer(train[:50] + 9), reference)["memorisation"].value == 0
    fresh = [metric.scores(layer(normal(300, 4, seed)), reference)["memorisation"] for seed in range(2, 42)]
    assert sum(one.value for one in fresh) / 40 == pytest.approx(0.5, abs=0.04)
    spread = float(torch.tensor([one.value for one in fresh]).std())
    assert sum(one.standard_error for one in fresh) / 40 == pytest.approx(spread, rel=0.3)
    half = torch.cat((train[:100], normal(100, 4, 5)))
    assert metric.scores(layer(half), reference)["memorisation"].value == pytest.approx(0.75, abs=0.05)


def test_the_ratio_is_that_of_two_frechet_distances():
    train, held_out, x = normal(500, 4, 0), normal(200, 4, 1), normal(200, 4, 2, 0.3)
    samples, reference = layer(x), layer(train, held_out)
    found = build("metric", "frechet_ratio").scores(samples, reference)["fdr"]
    own = frechet_distance(layer(held_out).moments, reference.moments)
    assert found.value == pytest.approx(frechet_distance(samples.moments, reference.moments) / own)
    alone = build("metric", "frechet").scores(samples, reference)["fd"]
    assert found.standard_error == pytest.approx(alone.standard_error / own)
    assert FrechetRatio().scores(layer(held_out), reference)["fdr"].value == pytest.approx(1)


@pytest.mark.parametrize("metric", [Memorisation(), FrechetRatio()])
def test_metrics_of_held_out_data_are_refused_without_any(metric):
    with pytest.raises(ValueError, match="held-out data, and there are none"):
        metric.scores(layer(normal(9, 2, 0)), layer(normal(9, 2, 1)))
