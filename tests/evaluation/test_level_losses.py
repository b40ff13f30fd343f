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
    losses = level_losses(exact(DATA, schedule), points(), 4000, 512)
    assert [loss.lam for loss in losses] == list(LEVELS)
    for loss in losses:
        assert abs(loss.value - expected(loss.lam)) < 4 * loss.standard_error
        assert loss.standard_error < 0.03


def test_it_depends_on_no_schedule_and_no_batch_size():
    first, *others = (
        level_losses(exact(DATA, schedule), points(60), 50, size)
        for schedule, size in ((VPLinear(), 50), (VPLinear(), 7), (Flow(), 50))
    )
    for losses in others:
        assert [loss.value for loss in losses] == pytest.approx([loss.value for loss in first], rel=1e-4)
    assert len(level_losses(exact(DATA, VPLinear()), points(60), 9, 9, levels=[-9.0, 0.0, 40.0])) == 1  # out of range
    assert level_losses(exact(DATA, VPLinear()), points(1), 5, 5)[0].standard_error is None


def _on_rank(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    losses = level_losses(exact(DATA, VPLinear()), points(60), 50, 16)
    torch.save([tuple(loss) for loss in losses], path / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_samples_and_agree(tmp_path):
    on_ranks(_on_rank, (tmp_path,), 2)
    alone = level_losses(exact(DATA, VPLinear()), points(60), 50, 16)
    for rank in (0, 1):
        for found, loss in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True):
            assert found == pytest.approx(tuple(loss), rel=1e-6)
