"""Losses on held-out data by noise level, against the posterior variance of a known distribution."""

import math

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from denoiselab.analytic import GaussianDenoiser
from denoiselab.data import PointSet
from denoiselab.evaluation.level_losses import LEVELS, level_losses
from denoiselab.exact_models import exact
from denoiselab.schedules import Flow, VPLinear

VARIANCES = torch.tensor([1.0, 0.25], dtype=torch.float64)
DATA = GaussianDenoiser(torch.zeros(2), torch.diag(VARIANCES))


def points(n=4000):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) * VARIANCES.sqrt().float()
    return PointSet(x, torch.zeros(n, dtype=torch.int64))


def expected(lam):
    """(1 + snr) times the posterior variance v / (1 + snr v), the mean over dimensions."""
    snr = math.exp(2 * lam)
    return (1 + snr) * float((VARIANCES / (1 + snr * VARIANCES)).mean())


@pytest.mark.parametrize("schedule", [VPLinear(), Flow()])
def test_the_exact_model_has_the_posterior_variance_at_each_level(schedule):
    losses = level_losses(exact(DATA, schedule), points(), 4000, 512).levels
    assert [loss.lam for loss in losses] == list(LEVELS)
    for loss in losses:
        assert abs(loss.value - expected(loss.lam)) < 4 * loss.standard_error
        assert loss.standard_error < 0.03


def test_it_depends_on_no_schedule_and_no_batch_size():
    first, *others = (
        level_losses(exact(DATA, schedule), points(60), 50, size).levels
        for schedule, size in ((VPLinear(), 50), (VPLinear(), 7), (Flow(), 50))
    )
    for losses in others:
        assert [loss.value for loss in losses] == pytest.approx([loss.value for loss in first], rel=1e-4)
    assert (
        len(level_losses(exact(DATA, VPLinear()), points(60), 9, 9, levels=[-9.0, 0.0, 40.0]).levels) == 1
    )  # out of range
    assert level_losses(exact(DATA, VPLinear()), points(1), 5, 5).levels[0].standard_error is None


def test_the_error_of_the_mean_over_levels_is_its_spread():
    """Levels share data and noise, so that their errors do not add as independent ones do."""
    x, model = points(6400), exact(DATA, VPLinear())
    found = [
        level_losses(model, PointSet(x.points[part], x.labels[part]), 64, 64, seed=number)
        for number, part in enumerate(torch.arange(6400).split(64))
    ]
    for one in found[:3]:
        assert one.value == pytest.approx(sum(level.value for level in one.levels) / 8)
        assert one.n == 64
    spread = float(torch.tensor([one.value for one in found]).std())
    assert sum(one.standard_error for one in found) / 100 == pytest.approx(spread, rel=0.15)
    assert level_losses(model, x, 0, 5).levels == []


def _on_rank(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    profile = level_losses(exact(DATA, VPLinear()), points(60), 50, 16)
    torch.save([tuple(loss) for loss in profile.levels], path / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_samples_and_agree(tmp_path):
    on_ranks(_on_rank, (tmp_path,), 2)
    alone = level_losses(exact(DATA, VPLinear()), points(60), 50, 16).levels
    for rank in (0, 1):
        for found, loss in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True):
            assert found[:3] == pytest.approx(loss[:3], rel=1e-6)
