from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from denoiselab.training.callbacks import Checkpoints, _AnyRank
from denoiselab.training.interruption import Interruption
from denoiselab.training.replicated import Replicated


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("table", torch.ones(3), persistent=False)


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_only_buffers_that_a_checkpoint_holds_are_sent_to_the_ranks(group):
    strategy = Replicated(parallel_devices=[torch.device("cpu")], process_group_backend="gloo")
    strategy.model = Model()
    strategy.configure_ddp()
    sent = {id(buffer) for buffer in strategy.model.modules_buffers}
    assert sent == {id(buffer) for buffer in strategy.model.module.norm.buffers()}


def test_an_answer_of_all_ranks_comes_a_step_later(group):
    asked = _AnyRank(2)
    assert [asked(False), asked(True), asked(False)] == [False, False, True]
    assert not asked.last()
    assert not asked.last()
    asked(True)
    assert asked.last()


def test_one_rank_has_its_answer_at_once():
    asked = _AnyRank(1)
    assert asked(True)
    assert not asked.last()


def test_ranks_wait_for_an_answer_as_long_as_for_gradients(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(dist, "new_group", lambda **options: made.append(options))
    trainer = SimpleNamespace(world_size=2, strategy=Replicated(timeout=5))
    Checkpoints(tmp_path, Interruption(), 1).on_train_start(trainer, None)
    assert made == [{"backend": "gloo", "timeout": timedelta(seconds=5)}]
