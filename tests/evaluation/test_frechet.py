"""Distance, standard error and value at n = infinity against closed forms, scipy and 40 independent draws."""

import statistics
import time

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from denoiselab.evaluation.metrics.frechet import frechet_distance, frechet_scores, root_of, second_influence
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, Moments


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def collect(x, kept=2048, batch=97, strata=1):
    out = GaussianStatistics(x.shape[1], kept=kept, strata=strata)
    for part in x.split(batch):
        out.update(part)
    return out


def score(x, q, kept=2048, strata=1):
    return frechet_scores(collect(x, kept, strata=strata), q, root_of(q))


def by_sqrtm(p, q):
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy()).real
    return float((p.mean - q.mean).square().sum() + (p.covariance + q.covariance).trace() - 2 * np.trace(root))


class Populations:
    """Gaussians with covariances that commute, so that their distance has a closed form."""

    def __init__(self, d, shift, reference_n=10**9):
        base = 1 / torch.arange(1, d + 1).double()
        spread = base * torch.exp(0.3 * normal(d, seed=0))
        self.mean = shift * normal(d, seed=1) * base.sqrt()
        self.distance = float(self.mean.square().sum() + (base.sqrt() - spread.sqrt()).square().sum())
        self.turn = torch.linalg.qr(normal(d, d, seed=2)).Q
        self.reference = Moments(reference_n, torch.zeros(d).double(), self.turn.T * base @ self.turn)
        self.scale = spread.sqrt()

    def draw(self, n, number):
        return (normal(n, len(self.scale), seed=100 + number) * self.scale + self.mean) @ self.turn


def test_the_distance_of_gaussians_is_the_closed_form():
    populations = Populations(24, 0.3)
    d = len(populations.scale)
    # 2 d points with exactly the mean and the covariance.
    arms = torch.diag(populations.scale) * ((2 * d - 1) / 2) ** 0.5
    points = (torch.cat((arms, -arms)) + populations.mean) @ populations.turn
    assert frechet_distance(collect(points), populations.reference) == pytest.approx(populations.distance, rel=1e-10)
    assert score(points, populations.reference)[0].value == pytest.approx(populations.distance, rel=1e-10)
    assert frechet_distance(collect(points), collect(points)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 200, 12), (200, 30, 12), (9, 200, 40), (200, 9, 40), (9, 11, 40)])
def test_every_path_agrees_with_sqrtm_also_with_fewer_samples_than_dimensions(n, m, d):
    p, q = normal(n, d, seed=0), normal(m, d, seed=1) @ normal(d, d, seed=2) / 3 + 0.2
    mine, theirs = collect(p), collect(q)
    expected = by_sqrtm(mine, theirs)
    assert frechet_distance(mine, theirs) == pytest.approx(expected, rel=1e-6)
    # By the Gram matrix where all samples are at hand, by the covariance where they are not.
    values = [score(p, theirs, kept)[0].value for kept in (2048, n - 1)]
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert values[0] == pytest.approx(frechet_distance(mine, theirs), rel=1e-10)


def test_fewer_samples_than_dimensions_has_fifty_digits_right():
    """Where sqrtm itself, and torchmetrics' eigenvalues of a product, lose half of the digits to rounded zeros."""
    d, n = 10, 4
    p, q = collect(normal(n, d, seed=0)), collect(normal(60, d, seed=1) + 0.5)
    with mpmath.workdps(50):
        factor = mpmath.cholesky(mpmath.matrix(q.covariance.tolist()))
        centred = mpmath.matrix((p.first - p.mean).tolist()) * factor
        values = mpmath.eigsy(centred * centred.T / (n - 1), eigvals_only=True)
        cross = sum(mpmath.sqrt(abs(value)) for value in sorted(values)[1:])
        rest = (p.mean - q.mean).square().sum() + p.covariance.trace() + q.covariance.trace()
        expected = float(mpmath.mpf(float(rest)) - 2 * cross)
    assert score(p.first, q)[0].value == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(p, q) == pytest.approx(expected, rel=1e-12)
    cross = torch.linalg.eigvals(p.covariance @ q.covariance).sqrt().real.sum()  # torchmetrics 1.8, image/fid.py
    assert float(rest - 2 * cross) != pytest.approx(expected, rel=1e-10)


CASES = [(1000, 16, 0.3, 2), (1000, 64, 0.0, 2), (60, 64, 0.3, 1)]


@pytest.mark.parametrize(("n", "d", "shift", "metrics"), CASES)
def test_the_standard_error_is_that_of_forty_draws(n, d, shift, metrics):
    """The last case has fewer samples than dimensions, and no value at infinity."""
    populations = Populations(d, shift)
    scores = [score(populations.draw(n, number), populations.reference) for number in range(40)]
    for metric in range(metrics):
        values = [pair[metric].value for pair in scores]
        reported = statistics.fmean(pair[metric].standard_error for pair in scores)
        assert reported == pytest.approx(statistics.stdev(values), rel=0.25)


@pytest.mark.parametrize(("power", "strata"), [(0, 1), (1, 1), (1, 4)])
def test_the_standard_error_near_the_reference_is_that_of_many_draws(power, strata):
    """There the first order alone is 1.4 times the spread."""
    d, n = 32, 600
    spread = torch.arange(1, d + 1).double() ** -(power / 2)
    means = 3 * normal(strata, d, seed=3) * (strata > 1)
    means = means - means.mean(0)
    covariance = torch.diag(spread.square()) + means.T @ means / strata
    reference = Moments(10**9, torch.zeros(d).double(), covariance)
    draws = [normal(n, d, seed=10 + i) * spread + means.repeat(n // strata, 1) for i in range(160)]
    scores = [score(x, reference, strata=strata)[0] for x in draws]
    empirical = statistics.stdev(one.value for one in scores)
    assert statistics.fmean(one.standard_error for one in scores) == pytest.approx(empirical, rel=0.2)


class Diagonal:
    """p = N(m, a^2 L) and q = N(0, L) with a diagonal L: variances of the distance to orders 1 / n and 1 / n^2."""

    def __init__(self, d, power, shift, a):
        self.d, self.a, self.spread = d, a, torch.arange(1, d + 1).double() ** (-power / 2)
        self.mean = shift * self.spread * normal(d, seed=1)
        self.reference = Moments(10**9, torch.zeros(d).double(), torch.diag(self.spread**2))

    def draw(self, n, number):
        return self.mean + self.a * self.spread * normal(n, self.d, seed=100 + number)

    def variances(self, n):
        """V1 of psi(x) = 2 m.y + (1 - 1 / a) |y|^2; V2 = tr (H S)^2 / 2 of the mean and of the covariance."""
        a, values = self.a, self.spread**2
        first = 4 * a**2 * (self.mean**2 * values).sum() + 2 * (1 - 1 / a) ** 2 * a**4 * (values**2).sum()
        harmonic = values[:, None] * values / (values[:, None] + values)
        second = a**2 * (2 * (values**2).sum() + harmonic.square().sum() + (values**2).sum() / 4)
        return float(first) / n, float(second) / n**2


@pytest.mark.parametrize(("d", "n", "draws"), [(16, 1000, 40), (16, 5000, 16), (64, 1000, 24), (64, 2000, 16)])
@pytest.mark.parametrize(("power", "shift", "a"), [(0, 0, 1), (1, 0, 1), (0, 0.03, 1), (0, 0.3, 1.3)])
def test_standard_errors_are_the_closed_forms_at_the_reference_near_it_and_far(d, n, draws, power, shift, a):
    """The distance has the variance V1 + V2, and that at infinity, bilinear in both halves, V1 + 2 V2."""
    population = Diagonal(d, power, shift, a)
    first, second = population.variances(n)
    drawn = [score(population.draw(n, number), population.reference) for number in range(draws)]
    for which, exact in ((0, first + second), (1, first + 2 * second)):
        reported = statistics.fmean(pair[which].standard_error ** 2 for pair in drawn)
        assert (reported / exact) ** 0.5 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("shift", "a"), [(0, 1), (0.3, 1.3)])
def test_the_closed_forms_are_the_spread_of_four_hundred_draws(shift, a):
    population, n = Diagonal(8, 1, shift, a), 400
    first, second = population.variances(n)
    drawn = [score(population.draw(n, number), population.reference) for number in range(400)]
    for which, exact in ((0, first + second), (1, first + 2 * second)):
        assert statistics.stdev(pair[which].value for pair in drawn) == pytest.approx(exact**0.5, rel=0.1)
        errors = statistics.fmean(pair[which].standard_error for pair in drawn)
        assert errors == pytest.approx(statistics.stdev(pair[which].value for pair in drawn), rel=0.1)


def test_the_second_influence_is_the_derivative_by_the_weights_of_two_samples():
    """Its double differences, from second differences of the distance in the weights of four samples."""
    x, q = 1.5 * normal(12, 3, seed=0) + 0.4, collect(normal(50, 3, seed=1) @ normal(3, 3, seed=2))
    root, equal = root_of(q), torch.full((12,), 1 / 12).double()

    def weighted(weights):
        mean = weights @ x
        return Moments(10**9, mean, ((x - mean) * weights[:, None]).T @ (x - mean))

    base, h, (i, k, j, m) = weighted(equal), 1e-4, (0, 1, 2, 3)
    values, vectors = torch.linalg.eigh(root.T @ base.covariance @ root)
    w = (x - base.mean) @ root @ vectors
    pairs = ((1, i, j), (-1, i, m), (-1, k, j), (1, k, m))
    found = sum(sign * float(second_influence(w[[a]], w[[b]], values)) for sign, a, b in pairs)
    along = torch.zeros(2, 12).double()
    along[0, [i, k]] = along[1, [j, m]] = torch.tensor([h, -h]).double()
    by_weights = sum(
        s * t * frechet_distance(weighted(equal + s * along[0] + t * along[1]), q) for s in (1, -1) for t in (1, -1)
    )
    assert found == pytest.approx(by_weights / (4 * h**2), rel=1e-4)


def test_a_large_mean_leaves_the_distance_and_its_standard_errors():
    """Float32 features of std 1 around 10,000, against the two-pass covariance in float64."""
    x, y = (normal(n, 8, seed=n).float() + 10_000 for n in (900, 1000))
    exact = [Moments(len(part), part.double().mean(0), torch.cov(part.double().T)) for part in (x, y)]
    whole, infinite = score(x, collect(y))
    assert whole.value == pytest.approx(frechet_distance(*exact), rel=1e-10)
    for far, near in zip((whole, infinite), score(x.double() - 10_000, collect(y.double() - 10_000)), strict=True):
        assert far[:2] == pytest.approx(near[:2], rel=1e-8)


def test_the_distance_at_infinity_is_closer_to_the_truth_than_at_a_thousand_samples():
    populations = Populations(64, 0.0)
    closer = 0
    for number in range(40):
        whole, infinite = score(populations.draw(1000, number), populations.reference)
        closer += abs(infinite.value - populations.distance) < abs(whole.value - populations.distance)
    assert closer >= 36


def test_the_distance_at_infinity_of_samples_in_a_cycle_of_classes():
    """Sample i is of class i mod 10, as class-conditional models are sampled: the truth is 0."""
    means, k, n = 2 * normal(10, 8, seed=5), 10, 2000
    reference = collect(normal(200_000, 8, seed=6) + means.repeat(20_000, 1))
    for number in range(3):
        whole, infinite = score(normal(n, 8, seed=7 + number) + means.repeat(n // k, 1), reference)
        assert abs(infinite.value) < 0.5 * whole.value


def test_the_standard_error_of_samples_in_a_cycle_of_classes_is_that_of_forty_draws():
    """Classes differ more than their samples do: taken for independent, the error is nearly twice as large."""
    means, k, n = 3 * normal(10, 8, seed=5), 10, 1000
    reference = collect(normal(100_000, 8, seed=6) + 1.3 * means.repeat(10_000, 1))
    draws = [normal(n, 8, seed=10 + number) + means.repeat(n // k, 1) for number in range(40)]
    scores = [score(x, reference, strata=k) for x in draws]
    for metric in range(2):
        spread = statistics.stdev(pair[metric].value for pair in scores)
        assert statistics.fmean(pair[metric].standard_error for pair in scores) == pytest.approx(spread, rel=0.25)
    assert score(draws[0], reference)[0].standard_error > 1.5 * scores[0][0].standard_error
    assert score(draws[0][:19], reference, strata=k)[0].standard_error is None


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("ratio", [2, 4])
def test_the_error_of_the_distance_at_infinity_holds_what_the_line_misses(power, ratio):
    """Eigenvalues i^-power; 0 is the worst case, where the distance of itself is several errors off at n = 2 D."""
    d = 64
    reference = Moments(10**9, torch.zeros(d).double(), torch.diag(torch.arange(1, d + 1).double() ** -power))
    misses = []
    for number in range(10):
        x = normal(ratio * d, d, seed=number) @ reference.covariance.sqrt()
        whole, infinite = score(x, reference)
        misses.append(abs(infinite.value) / infinite.standard_error)
        assert abs(infinite.value) < whole.value
    assert statistics.fmean(misses) < 1.5


def test_fewer_samples_than_twice_the_dimensions_have_no_value_at_infinity():
    whole, infinite = score(normal(127, 64, seed=0), collect(normal(500, 64, seed=1)))
    assert whole.value > 0
    assert infinite.value != infinite.value
    assert infinite.reason == "n = 127 is less than 2 x 64 dimensions: no line in 1/n."


def test_the_standard_error_of_the_first_samples_is_that_of_all():
    populations = Populations(16, 0.3)
    x = populations.draw(4000, 0)
    some, every = (score(x, populations.reference, kept)[0] for kept in (1000, 4000))
    assert some.value == every.value
    assert some.standard_error == pytest.approx(every.standard_error, rel=0.1)
    assert some.standard_error != every.standard_error


def test_the_distance_of_512_dimensions_is_three_times_faster_than_by_sqrtm():
    """It is seven times; the whole claim is a benchmark. The least of three of each, in turn."""
    p, q = (collect(normal(1024, 512, seed=seed), batch=1024) for seed in range(2))
    seconds = {frechet_distance: [], by_sqrtm: []}
    for _ in range(3):
        for distance, taken in seconds.items():
            start = time.perf_counter()
            distance(p, q)
            taken.append(time.perf_counter() - start)
    assert min(seconds[by_sqrtm]) > 3 * min(seconds[frechet_distance])


@pytest.mark.benchmark
def test_the_distance_of_2048_dimensions_is_five_times_faster_than_by_sqrtm():
    p, q = (collect(normal(3000, 2048, seed=seed), batch=3000) for seed in range(2))
    values, seconds = [], []
    for distance in (frechet_distance, by_sqrtm, frechet_distance):
        start = time.perf_counter()
        values.append(distance(p, q))
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    frechet_scores(p, q, root_of(q))
    print(f"distance, sqrtm, distance: {seconds} s; all scores: {time.perf_counter() - start} s")
    assert values[1] == pytest.approx(values[0], rel=1e-8)
    assert seconds[1] > 5 * max(seconds[0], seconds[2])
