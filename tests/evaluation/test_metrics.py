"""Metrics against their definitions, written out."""

import math
import random
import statistics
from fractions import Fraction

import pytest
import torch
from configurations import build, names

from denoiselab.evaluation import (
    DensityCoverage,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    Score,
)
from denoiselab.evaluation.feature_contracts import Layer
from denoiselab.testing import check_metric


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def score(metric, x, y=None, strata=1):
    return metric.scores(Layer(None, x, strata), Layer(None, y))


def mmd(x, y):
    """The unbiased squared MMD under the cubic kernel, in double precision."""
    x, y = x.double(), y.double()
    kernels = [(a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    return float(sum(within) - 2 * kernels[2].mean())


@pytest.mark.parametrize("name", names("metric"))
def test_a_metric_keeps_its_contract(name):
    check_metric(build("metric", name, *(["blocks=5", "block_size=100"] if name == "kernel" else [])))


class Broken(FrechetDistance):
    def __init__(self, part, value):
        super().__init__()
        setattr(self, part, value)


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("scores", lambda x, y: {"fd": Score(0.0)}, r"returned a dict of \['fd'\]; expected is"),
        ("lower_is_better", {"fd": False, "fd_infinity": True}, r"lower_is_better\['fd'\] is False"),
        ("check", lambda n, what: None, "check: must refuse 0 samples"),
        ("scores", lambda x, y: {"fd": Score(math.nan), "fd_infinity": Score(0.0)}, "must have a reason"),
        ("scores", lambda x, y: {"fd": Score(math.inf), "fd_infinity": Score(0.0)}, "must be finite"),
        ("scores", lambda x, y: {"fd": Score(random.random()), "fd_infinity": Score(0.0)}, "another call"),
    ],
)
def test_a_metric_that_breaks_its_contract_is_found_out(part, value, says):
    with pytest.raises(AssertionError, match=says):
        check_metric(Broken(part, value))


def test_kernel_distance_of_whole_sets_is_the_unbiased_mmd():
    x, y = normal(60, 8, 0), normal(60, 8, 1, 0.02)
    out = score(KernelDistance(blocks=2, block_size=60), x, y)["kd"]
    assert out.value == pytest.approx(mmd(x, y), rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_standard_error_that_of_many_draws():
    metric, reference = KernelDistance(blocks=10, block_size=100), normal(1000, 8, 0)
    scores = [score(metric, normal(300, 8, seed, 0.3), reference)["kd"] for seed in range(1, 161)]
    values = [s.value for s in scores]
    assert statistics.fmean(s.standard_error for s in scores) == pytest.approx(statistics.stdev(values), rel=0.25)
    # The blocks are the same in every draw, so that the mean differs from the distance to the whole reference.
    error = math.hypot(statistics.stdev(values) / math.sqrt(160), statistics.stdev(values) / math.sqrt(10))
    assert statistics.fmean(values) == pytest.approx(mmd(normal(6000, 8, 200, 0.3), reference), abs=3 * error)


@pytest.mark.parametrize("strata", [1, 5])
def test_standard_errors_are_those_of_a_hundred_draws(strata):
    """Independent, and of class i mod 5 with classes that differ."""
    n, classes = 300, torch.arange(300) % 5
    means = torch.tensor([0.3, 0.4, 0.6, 0.8, 1.3])[:, None] * normal(5, 6, 900)
    reference = normal(300, 6, 901) + means.repeat(60, 1)
    # A block of all samples: otherwise the same blocks in every draw hold the same numbers of each class.
    kernel = KernelDistance(blocks=2, block_size=n)
    metrics = (kernel, InceptionScore(splits=2), PrecisionRecall(3), DensityCoverage(5))
    found = {}
    for seed in range(100):
        of = classes if strata > 1 else torch.randint(5, (n,), generator=torch.Generator().manual_seed(1000 + seed))
        x = normal(n, 6, seed) + means[of] + 0.4
        for metric in metrics:
            for name, one in score(metric, x, reference, strata).items():
                found.setdefault(name, []).append(one)
    for name in ("kd", "is", "precision", "density"):
        spread = statistics.stdev(one.value for one in found[name])
        assert statistics.fmean(one.standard_error for one in found[name]) == pytest.approx(spread, rel=0.25), name
    assert all(one.standard_error is None for name in ("recall", "coverage") for one in found[name])
    for metric in metrics:
        assert all(one.standard_error is None for one in score(metric, x, reference, 151).values())


def test_the_standard_error_of_kernel_distance_does_not_hang_on_the_order_of_the_reference():
    means = 2 * normal(10, 8, 3)
    reference = normal(6000, 8, 0) + means.repeat_interleave(600, dim=0)
    x, shuffled = (
        normal(500, 8, 1) + means.repeat(50, 1),
        reference[torch.randperm(6000, generator=torch.Generator().manual_seed(2))],
    )
    metric = KernelDistance(blocks=300, block_size=250)
    errors = [score(metric, x, data)["kd"].standard_error for data in (reference, shuffled)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_kernel_distance_leaves_the_global_generators_alone():
    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = score(KernelDistance(blocks=3, block_size=20), normal(60, 8, 0), normal(60, 8, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert first == score(KernelDistance(blocks=3, block_size=20), normal(60, 8, 0), normal(60, 8, 1))
    assert first != score(KernelDistance(blocks=3, block_size=20, seed=1), normal(60, 8, 0), normal(60, 8, 1))


def test_inception_score_of_certain_balanced_classes_is_their_number():
    logits = 100 * torch.eye(4).repeat(200, 1)
    out = score(InceptionScore(splits=2), logits)["is"]
    assert out.value == pytest.approx(4, rel=1e-2)
    assert score(InceptionScore(splits=2), torch.zeros(10, 4))["is"].value == pytest.approx(1, rel=1e-12)


def test_the_standard_error_of_inception_score_of_certain_balanced_classes_is_the_closed_form():
    """exp of the entropy of a split's counts: all samples have one divergence, and its spread is of second order."""
    classes, n, splits = 10, 10_000, 10
    draws = [torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed)) for seed in range(30)]
    errors = [score(InceptionScore(splits), 100 * torch.eye(classes)[drawn])["is"].standard_error for drawn in draws]
    exact = classes * math.sqrt((classes - 1) / 2 / (n / splits) ** 2 / splits)
    assert statistics.fmean(error**2 for error in errors) == pytest.approx(exact**2, rel=0.2)


def test_the_standard_error_of_kernel_distance_at_the_reference_is_the_closed_form():
    """A U-statistic has the variance 4 zeta_1 / n + 2 zeta_2 / n^2, with zeta_1 = zeta_2 / m for m images of the data.

    Its jackknife holds 4 zeta_2 / n^2 of the second order: the error would be 1.3 times too large.
    """
    n, m, d, blocks = 200, 2000, 16, 6
    kernel = (normal(3000, d, 500).double() @ normal(3000, d, 501).double().T / d + 1) ** 3
    zeta = float((kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()).square().mean())
    drawn = [
        score(KernelDistance(blocks, n, seed), normal(n, d, seed), normal(m, d, 100 + seed))["kd"] for seed in range(60)
    ]
    # A block has n of the data too, and so a variance of zeta (2 + 4) / n^2 given the samples, without what all share.
    exact = zeta / n**2 * (2 + 4 * n / m + (6 - 4 * n / m) / blocks)
    assert statistics.fmean(one.standard_error**2 for one in drawn) == pytest.approx(exact, rel=0.25)


def mean_kernel_exactly(x, y):
    """The unbiased squared MMD under the cubic kernel, in rational numbers."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    x, y = ([[Fraction(value) for value in row] for row in part.tolist()] for part in (x, y))
    within = [
        sum(kernel(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j) / (len(p) * (len(p) - 1))
        for p in (x, y)
    ]
    return float(sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y)))


@pytest.mark.parametrize("mean", [0, 1000, 10_000])
def test_kernel_distance_of_features_with_a_large_mean_is_that_of_rational_numbers(mean):
    x, data = normal(24, 4, 0, mean + 0.3), normal(24, 4, 1, mean)
    found = score(KernelDistance(blocks=2, block_size=24), x, data)["kd"]
    assert found.value == pytest.approx(mean_kernel_exactly(x, data), rel=1e-6)


def balls(x, k):
    """Squared distance of each point to its k-th neighbour."""
    return torch.stack([sorted_[k] for sorted_ in squares(x, x).sort(dim=1).values])


def squares(x, y):
    return (x.double()[:, None] - y.double()).square().sum(-1)


@pytest.mark.parametrize(("batch_size", "mean"), [(7, 0), (1000, 0), (3, 1000), (50, 1000), (1000, 10_000)])
def test_neighbourhood_metrics_are_their_definitions(batch_size, mean):
    x, data = normal(80, 4, 0, 0.8) + mean, normal(120, 4, 1) + mean
    k = 4
    inside_data, inside_x = squares(x, data) <= balls(data, k), squares(data, x) <= balls(x, k)
    out = score(PrecisionRecall(k, batch_size), x, data)
    precision = float(inside_data.any(1).double().mean())
    assert 0.2 < precision < 0.9
    assert out["precision"].value == pytest.approx(precision, rel=1e-6)
    assert out["precision"].standard_error == pytest.approx(math.sqrt(precision * (1 - precision) / 79), rel=1e-6)
    assert out["recall"].value == pytest.approx(float(inside_x.any(1).double().mean()), rel=1e-6)
    out = score(DensityCoverage(k, batch_size), x, data)
    assert out["density"].value == pytest.approx(float(inside_data.double().sum(1).mean() / k), rel=1e-12)
    assert out["coverage"].value == pytest.approx(float(inside_data.any(0).double().mean()), rel=1e-12)


def test_neighbourhoods_of_clusters_far_apart_and_of_equal_features():
    """No centre is near both clusters; nine equal points of the data have balls of radius 0, which hold two samples."""
    far = 20_000.0 * torch.arange(2).repeat(60)[:, None]
    x, data = normal(120, 4, 0, 0.8) + far, normal(120, 4, 1) + far
    data[:9] = data[0]
    x[:2] = data[0]
    inside, inside_x = squares(x, data) <= balls(data, 4), squares(data, x) <= balls(x, 4)
    assert inside[:2].any(1).all()
    out = score(PrecisionRecall(4, 50), x, data)
    assert out["precision"].value == pytest.approx(float(inside.any(1).double().mean()), rel=1e-12)
    assert out["recall"].value == pytest.approx(float(inside_x.any(1).double().mean()), rel=1e-12)
    out, inside = score(DensityCoverage(4, 50), x, data), squares(x, data) < balls(data, 4)
    assert out["density"].value == pytest.approx(float(inside.double().sum(1).mean() / 4), rel=1e-12)
    assert out["coverage"].value == pytest.approx(float(inside.any(0).double().mean()), rel=1e-12)


def test_the_data_cover_themselves():
    data = normal(60, 4, 0)
    assert score(DensityCoverage(5), data, data)["coverage"].value == 1
    assert score(PrecisionRecall(3), data, data)["precision"].value == 1


@pytest.mark.parametrize(
    ("metric", "n", "says"),
    [
        (FrechetDistance(), 3, "n=3: it must be at least 4"),
        (KernelDistance(), 999, "n=999: it must be at least block_size=1000"),
        (InceptionScore(), 9, "splits=10"),
        (PrecisionRecall(), 3, "more than neighbours=3"),
        (DensityCoverage(), 5, "more than neighbours=5"),
    ],
)
def test_too_few_samples_are_refused(metric, n, says):
    with pytest.raises(ValueError, match=says):
        metric.check(n, "n")
    metric.check(n + 1, "n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: FrechetDistance("logits"),
        lambda: KernelDistance(blocks=1),
        lambda: KernelDistance(block_size=1),
        lambda: InceptionScore(splits=1),
        lambda: PrecisionRecall(0),
        lambda: DensityCoverage(batch_size=0),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"it must be|each must be"):
        make()
