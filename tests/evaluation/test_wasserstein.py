import math
import statistics

import pytest
import scipy.stats
import torch
import torch.distributed as dist
from ranks import on_ranks

from denoiselab.data import Checkerboard, ImageSet, PointSet
from denoiselab.evaluation import DomainClassifier, FrechetDistance, SlicedWasserstein, Workspace
from denoiselab.evaluation.metrics.wasserstein import (
    Points,
    SlicedScorer,
    directions,
    potentials,
    sliced_w2,
    sliced_wasserstein,
)


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 70), (1, 9), (64, 16)])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_equals_the_distance_of_sorted_points(n, m, d):
    """Each point of one set as often as the other has points: W1 is then the mean distance in rising order."""
    p, q, along = normal(n, d, 0), normal(m, d, 1) * 2 + 0.3, directions(d, 20)
    many_p = (along @ p.double().repeat_interleave(m, 0).T).sort(dim=1).values
    many_q = (along @ q.double().repeat_interleave(n, 0).T).sort(dim=1).values
    wanted = float((many_p - many_q).abs().mean())
    assert sliced_wasserstein(p, q, along) == pytest.approx(wanted, rel=1e-10)
    assert sliced_wasserstein(q, p, along) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("d", [2, 3])
def test_a_shift_of_a_set(d):
    """W1 of a shift by s along theta is |<s, theta>|, whose mean over the sphere is |s| times a known constant."""
    shift = torch.tensor([3.0, -1.0, 2.0])[:d]
    along = directions(d, 1024)
    p = normal(500, d, 0)
    score = sliced_wasserstein(p, p + shift, along)
    assert score == pytest.approx(float((along @ shift.double()).abs().mean()), rel=1e-6)
    constant = {2: 2 / math.pi, 3: 1 / 2}[d]
    assert score == pytest.approx(float(shift.norm()) * constant, rel={2: 1e-5, 3: 5e-3}[d])


def test_gaussians_of_other_widths():
    """W1 of N(0, 1) and N(0, 2^2) is E|z|: 4,000 points miss it by their sampling error."""
    score = sliced_wasserstein(normal(4000, 2, 0), 2 * normal(4000, 2, 1), directions(2, 64))
    assert score == pytest.approx(math.sqrt(2 / math.pi), abs=4 * math.sqrt((1 + 4) / 4000))


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 30)])
def test_the_influence_is_the_derivative_by_the_weights_of_points(n, m):
    p, q, along, h = normal(n, 2, 0), normal(m, 2, 1) + 0.3, directions(2, 16), 1e-5
    psi = potentials(p, q, along)

    def weighted(weights):
        projected = zip((along @ p.double().T).numpy(), (along @ q.double().T).numpy(), strict=True)
        return sum(scipy.stats.wasserstein_distance(a, b, u_weights=weights) for a, b in projected) / len(along)

    for i, k in ((0, 1), (3, 7), (10, 2)):
        moved = torch.zeros(n).double()
        moved[i], moved[k] = h, -h
        there, back = (weighted((1 / n + sign * moved).numpy()) for sign in (1, -1))
        assert float(psi[i] - psi[k]) == pytest.approx((there - back) / (2 * h), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 30)])
def test_w2_and_its_influence_are_those_of_optimal_transport(n, m):
    """Against the linear programme of points with weights, which are moved between pairs of points."""
    from scipy.optimize import linprog

    p, q, along, h = normal(n, 2, 0), normal(m, 2, 1) + 0.3, directions(2, 3), 1e-4

    def weighted(weights):
        costs = []
        for a, b in zip(along @ p.double().T, along @ q.double().T, strict=True):
            cost = (a[:, None] - b).square().flatten()
            moves = torch.eye(n * m).reshape(n, m, n * m)
            equal = torch.cat((moves.sum(1), moves.sum(0)))
            costs.append(
                linprog(cost, A_eq=equal, b_eq=torch.cat((weights, torch.full((m,), 1 / m, dtype=torch.float64)))).fun
            )
        return math.sqrt(sum(costs) / len(costs))

    value, psi = sliced_w2(p, q, along)
    assert value == pytest.approx(weighted(torch.full((n,), 1 / n, dtype=torch.float64)), rel=1e-9)
    for i, k in ((0, 1), (3, 7)):
        moved = torch.zeros(n).double()
        moved[i], moved[k] = h, -h
        there, back = (weighted(1 / n + sign * moved) for sign in (1, -1))
        assert float(psi[i] - psi[k]) == pytest.approx((there - back) / (2 * h), rel=1e-4)


def test_w2_of_a_shift_and_of_the_points_themselves():
    p, along = normal(500, 2, 0), directions(2, 64)
    shifted = sliced_w2(p, p + torch.tensor([3.0, -1.0]), along)[0]
    assert shifted == pytest.approx(math.sqrt(10 / 2), rel=1e-6)
    value, psi = sliced_w2(p, p, along)
    assert value == 0
    assert bool(psi.isfinite().all())


def test_the_fraction_that_the_density_does_not_cover(tmp_path):
    train, held_out = Checkerboard("board", (2,), 8, size=500, held_out=500, std=0.5).load()
    extractor = SlicedWasserstein(8, power=2, outside=True)
    scorer = extractor.fit(train, held_out, {}, {}, Workspace(tmp_path))
    samples = scorer.statistics()
    samples.update(torch.cat((train.points[:300], train.points[:100] + torch.tensor([math.sqrt(3) / 4, 0.0]))))
    scores = scorer.scores(samples, scorer.reference(held_out, {}, Workspace(tmp_path), torch.device("cpu")))
    assert [*scores] == ["sliced_w2", "outside"]  # a cell is sqrt(3) / 4 wide
    assert scores["outside"].value == 0.25
    assert scores["outside"].standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.01)
    other = PointSet(normal(4, 2, 0), torch.zeros(4).long())
    with pytest.raises(ValueError, match=r"evaluation\.extractor\.outside=true: these data do not say"):
        extractor.fit(other, other, {}, {}, Workspace(tmp_path))
    with pytest.raises(ValueError, match="power=3: it must be 1 or 2"):
        SlicedWasserstein(power=3)


@pytest.mark.parametrize(
    ("wide", "shift", "low", "high", "power"),
    [(1.3, 0.5, 0.75, 1.25, 1), (1.0, 0.0, 1.0, 2.2, 1), (1.3, 0.5, 0.75, 1.25, 2)],
)
def test_the_standard_error_is_that_of_many_draws_and_at_the_reference_an_upper_bound(wide, shift, low, high, power):
    scorer = SlicedScorer(2, 32, power)
    reference = scorer.statistics()
    reference.update(normal(600, 2, 99))
    values, errors = [], []
    for number in range(60):
        samples = scorer.statistics()
        samples.update(wide * normal(300, 2, number) + shift)
        score = scorer.scores(samples, reference)[scorer.metric]
        values.append(score.value)
        errors.append(score.standard_error)
    assert low < statistics.fmean(errors) / statistics.stdev(values) < high


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_directions_are_unit_and_fixed(d):
    along = directions(d, 128)
    assert torch.allclose(along.norm(dim=1), torch.ones(len(along), dtype=torch.float64))
    assert torch.equal(along, directions(d, 128))
    if d > 1:  # even over the sphere: E theta theta^T = I / d
        assert torch.allclose(along.T @ along / len(along), torch.eye(d).double() / d, atol=0.03)


def score_on_ranks(rank, path, out, splits):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=len(splits))
    points = Points(2)
    for batch in normal(10, 2, 0).split(splits)[rank].split(2):
        points.update(batch)
    points.reduce(torch.device("cpu"))
    torch.save((points.points, points.n, points.fingerprint), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("splits", [[3, 7], [10, 0], [5, 5]])
def test_ranks_gather_the_points_of_one(splits, tmp_path):
    on_ranks(score_on_ranks, (tmp_path / "store", tmp_path / "out", splits), 2)
    whole = Points(2)
    whole.update(normal(10, 2, 0))
    for rank in range(2):
        points, n, fingerprint = torch.load(f"{tmp_path / 'out'}{rank}")
        assert torch.equal(points, normal(10, 2, 0))
        assert (n, fingerprint) == (10, whole.fingerprint)


def test_each_scorer_refuses_the_other_kind(tmp_path):
    points, images = PointSet(normal(4, 2, 0), torch.zeros(4).long()), ImageSet(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long()
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"evaluation\.extractor: SlicedWasserstein scores points"):
        SlicedWasserstein().fit(images, images, {}, {}, Workspace(tmp_path))
    with pytest.raises(ValueError, match=r"evaluation\.extractor: DomainClassifier scores images"):
        DomainClassifier().fit(points, points, {"frechet": FrechetDistance()}, {}, Workspace(tmp_path))
    with pytest.raises(ValueError, match="projections=0"):
        SlicedWasserstein(0)


def test_a_scorer_says_what_it_is(tmp_path):
    points = PointSet(normal(40, 2, 0), torch.zeros(40).long())
    scorer = SlicedWasserstein(16).fit(points, points, {}, {}, Workspace(tmp_path))
    assert (scorer.name, scorer.metric, scorer.split) == ("sliced_w1", "sliced_w1", "held_out")
    assert scorer.fingerprint != SlicedWasserstein(17).fit(points, points, {}, {}, Workspace(tmp_path)).fingerprint
    mine, theirs = scorer.statistics(), scorer.statistics()
    for batch in points.points.split(7):
        mine.update(batch)
    theirs.update(points.points + 1)
    assert mine.n == 40
    assert scorer.scores(mine, theirs)[scorer.metric].value == pytest.approx(
        sliced_wasserstein(points.points, points.points + 1, directions(2, 16)), rel=1e-12
    )
    assert mine.fingerprint != theirs.fingerprint
