import math

import pytest
import torch
from sklearn.datasets import make_moons

from denoiselab.data import Checkerboard, EightGaussians, Pinwheel, PointSet, SwissRoll, TwoMoons
from denoiselab.data.loading.batches import Batches

SETS = [SwissRoll, TwoMoons, Checkerboard, EightGaussians, Pinwheel]
NOISE = {SwissRoll: 0.5, TwoMoons: 0.05}


def plane(kind, **options):
    noise = {"noise": NOISE[kind]} if kind in NOISE else {}
    return kind("toy", (2,), kind.classes, **{**noise, **options})


def drawn(kind, n, seed=0, **options):
    return plane(kind, **options).draw(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in SETS), *((kind, {"noise": 0.3}) for kind in NOISE)]
)
def test_mean_0_and_variance_1(kind, options):
    n = 1_000_000
    points = drawn(kind, n, **options).points.double()
    kurtosis = points.pow(4).mean(0)
    assert (points.mean(0) * math.sqrt(n)).abs().max() < 4
    assert ((points.square().mean(0) - 1) / ((kurtosis - 1) / n).sqrt()).abs().max() < 4


def test_another_standard_deviation_scales_the_points():
    for kind in SETS:
        assert torch.allclose(drawn(kind, 100, std=0.5).points, drawn(kind, 100).points / 2)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_the_board_covers_half_of_its_square(std):
    board = drawn(Checkerboard, 10_000, std=std)
    edge = std * math.sqrt(3)
    assert bool(board.covers(board.points).all())
    assert not board.covers(torch.stack((-board.points[:, 0], board.points[:, 1]), 1)).any()
    assert not board.covers(board.points.sign() * (edge + 0.01)).any()


@pytest.mark.parametrize("kind", SETS)
def test_labels_are_all_of_the_classes_equally_often(kind):
    out = drawn(kind, 80_000)
    assert out.points.dtype == torch.float32
    counts = torch.bincount(out.labels, minlength=kind.classes)
    assert len(counts) == kind.classes
    expected = 80_000 / kind.classes
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)


def test_labels_name_the_part_a_point_is_of():
    moons = drawn(TwoMoons, 10_000, noise=0.0)
    raw = moons.points.double() * torch.tensor([0.75, 0.5625 - 1 / math.pi]).double().sqrt() + torch.tensor([0.5, 0.25])
    centre = torch.where(moons.labels[:, None] == 0, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5]))
    assert torch.allclose((raw - centre).norm(dim=1), torch.ones(10_000).double(), atol=1e-6)
    assert bool(((raw - centre)[:, 1].sign() * (1 - 2 * moons.labels) >= -1e-6).all())
    board = drawn(Checkerboard, 10_000)
    cell = (board.points.double() * math.sqrt(4 / 3) + 2).clamp(1e-9, 4 - 1e-6).floor().long()
    assert bool(((cell.sum(1)) % 2 == 0).all())
    assert torch.equal(2 * cell[:, 1] + torch.div(cell[:, 0], 2, rounding_mode="floor"), board.labels)
    gaussians = drawn(EightGaussians, 10_000)
    angle = torch.atan2(*gaussians.points.double().unbind(1)[::-1]) / (math.pi / 4)
    assert ((angle.round().long() % 8) == gaussians.labels).double().mean() > 0.99
    wheel = drawn(Pinwheel, 10_000)
    x, y = (wheel.points.double() * math.sqrt(0.55)).unbind(1)
    centre = wheel.labels * (2 * math.pi / 5) + torch.hypot(x, y).exp() / 4
    apart = torch.remainder(torch.atan2(y, x) - centre + math.pi, 2 * math.pi) - math.pi
    assert (apart.abs() < math.pi / 5).double().mean() > 0.95


def test_moons_lie_on_those_of_scikit_learn():
    theirs, labels = make_moons(2000, noise=None, shuffle=False)
    ours = drawn(TwoMoons, 20_000, noise=0.0)
    raw = ours.points.double() * torch.tensor([0.75, 0.5625 - 1 / math.pi]).double().sqrt() + torch.tensor([0.5, 0.25])
    for label in (0, 1):
        theirs_, ours_ = torch.from_numpy(theirs[labels == label]), raw[ours.labels == label]
        assert torch.cdist(ours_, theirs_).min(1).values.max() < math.pi / 999


@pytest.mark.parametrize("kind", SETS)
def test_draws_repeat_and_differ(kind):
    train, held_out = plane(kind, size=1000, held_out=500).load()
    again, _ = plane(kind, size=1000, held_out=500).load()
    assert (len(train), len(held_out)) == (1000, 500)
    assert train.fingerprint == again.fingerprint
    assert plane(kind, size=1000, held_out=500, seed=1).load()[0].fingerprint != train.fingerprint
    draws = [train, held_out, train.fresh(500, 0), train.fresh(500, 1)]
    assert torch.equal(train.fresh(500, 0).points, held_out.fresh(500, 0).points)
    rows = [tuple(row) for part in draws for row in part.points[:500].tolist()]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "data.size=0"),
        ({"held_out": 0}, "data.held_out=0"),
        ({"seed": -1}, "data.seed=-1"),
        ({"noise": -0.1}, "data.noise=-0.1"),
        ({"std": 0.0}, "data.std=0.0"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        plane(TwoMoons, **options)


def test_another_shape_or_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"data\.shape=\[3\]: points of Pinwheel have shape \[2\]"):
        Pinwheel("toy", (3,), 5)
    with pytest.raises(ValueError, match=r"data\.num_classes=4: Pinwheel has 5"):
        Pinwheel("toy", (2,), 4)


def test_points_go_to_the_trainer_as_they_are():
    data = PointSet(torch.randn(10, 3), torch.arange(10))
    batch = next(iter(Batches(data, 0, 4, 3)))
    assert batch["images"].dtype == torch.float32
    assert torch.equal(batch["images"], data.points[batch["labels"]])
    assert data.fresh(5, 0) is None
    assert data.fingerprint != PointSet(data.points, data.labels + 1).fingerprint
