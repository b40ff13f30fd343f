"""The logged loss where steps are left out."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from denoiselab.training.callbacks import LossLog
from denoiselab.training.finite import DivergedError
from denoiselab.training.module import DiffusionModule


class _Module(DiffusionModule):
    def __init__(self, *, leaves_out):
        pl.LightningModule.__init__(self)
        self.images_seen, self.leaves_out, self.left_out = 0, leaves_out, 0


def logged(log, losses, *, leaves_out=True):
    """Rows of a training of a batch of 8 a step; the log goes on from what it has."""
    rows = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append(metrics))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value, root_device=torch.device("cpu"))
    trainer = SimpleNamespace(
        world_size=1, accumulate_grad_batches=1, strategy=strategy, loggers=[logger], optimizers=[optimizer]
    )
    module = _Module(leaves_out=leaves_out)
    log.on_train_start(trainer, module)
    for number, loss in enumerate(losses):
        module.images_seen += 8
        outputs = {"loss": torch.tensor(loss), "parts": {"part": torch.tensor(2 * loss)}}
        log.on_train_batch_end(trainer, module, outputs, {"position": torch.zeros(8)}, number)
    return [{name: row[name] for name in row if name in ("train/loss", "train/part")} for row in rows]


def test_means_are_over_the_steps_that_count():
    nan = float("nan")
    assert logged(LossLog(32), [1.0, nan, 3.0, 5.0]) == [{"train/loss": 3, "train/part": 6}]


def test_an_interval_without_one_has_no_loss_and_ends_nothing():
    assert logged(LossLog(8), [1.0, float("inf"), 3.0]) == [
        {"train/loss": 1, "train/part": 2}, {}, {"train/loss": 3, "train/part": 6},
    ]  # fmt: skip
    with pytest.raises(DivergedError):
        logged(LossLog(8), [1.0, float("inf")], leaves_out=False)


def test_a_run_that_continues_counts_them_too():
    first = LossLog(1000)
    logged(first, [1.0, float("nan"), 3.0])
    second = LossLog(16)
    second.load_state_dict(first.state_dict())
    assert logged(second, [5.0, 7.0]) == [{"train/loss": 4, "train/part": 8}]
