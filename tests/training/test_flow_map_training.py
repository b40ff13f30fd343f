"""Trainings of few steps are the same in parts, on two ranks, sharded or not, and continued, with a teacher too."""

import functools
import itertools
import os
import socket

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data.loading.datamodule import DataModule
from denoiselab.data.points import PointSet
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import Dropout
from denoiselab.objectives import ConsistencyDistillation, ImprovedMeanFlow
from denoiselab.objectives.consistency import Neighbours, doubling
from denoiselab.objectives.level_distributions import LogitNormalTime
from denoiselab.parameterizations import v, velocity
from denoiselab.schedules import Flow, VPLinear
from denoiselab.training.checkpoints import AtomicCheckpointIO
from denoiselab.training.ema import EMA, HalfLife
from denoiselab.training.module import DiffusionModule
from denoiselab.training.replicated import Replicated
from denoiselab.training.strategies import Sharded

BATCH, STEPS = 12, 30


class Net(nn.Module):
    second_time = True

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(9, 16), nn.Linear(16, 7)])
        self.dropout = Dropout(0.3)

    def forward(self, x, label, cond=None, between=None):
        h = torch.cat((x, label[:, None], between[:, None]), dim=1)
        return self.blocks[1](self.dropout(self.blocks[0](h).tanh()))


def distillation():
    """From a teacher on another path, between levels whose number grows with the training."""
    objective = ConsistencyDistillation(Neighbours(functools.partial(doubling, first=2, last=8)))
    objective.take_teacher(Denoiser(Net(), VPLinear(), v, ScaledTime(1.0)))
    return objective


OBJECTIVES = {"flow_map": lambda: ImprovedMeanFlow(LogitNormalTime(), share=0.5), "distillation": distillation}


def fit(folder, kind, steps=STEPS, strategy="auto", devices=1, accumulate=1, ckpt=None):
    """Train up to a step and save the checkpoint; the weights and their averages."""
    torch.manual_seed(0)
    objective = OBJECTIVES[kind]()
    denoiser = Denoiser(Net(), Flow(), velocity, ScaledTime(1.0))
    model = Model(denoiser, Unconditional(), Identity((7,)))
    ema = EMA({"ema": HalfLife(50)})

    def optimizer(parameters):
        return torch.optim.AdamW(parameters, lr=2e-3, fused=True)

    module = DiffusionModule(model, objective, optimizer, lambda seen: 1.0, ema, 0, {"max_images": STEPS * BATCH})
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, logger=False,
        plugins=[AtomicCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=str(folder), enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    points = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))
    data = DataModule(PointSet(points, torch.zeros(60, dtype=torch.int64)), 0, BATCH)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    if ckpt is None and devices == 1:
        trainer.save_checkpoint(folder / f"{steps}.ckpt")
    with module.whole():
        weights = {name: tensor.detach().clone() for name, tensor in module.denoiser.state_dict().items()}
        return {**weights, **{f"ema.{name}": tensor.clone() for name, tensor in ema.averages["ema"].items()}}


RANKED = [
    *itertools.product(OBJECTIVES, {"ddp": (Replicated, 2), "fsdp2": (functools.partial(Sharded, 60), 1)}.items())
]


def on_rank(rank, folder, ports):
    for (kind, (name, (strategy, accumulate))), port in zip(RANKED, ports, strict=True):
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
        )
        found = fit(folder, kind, strategy=strategy(), devices=2, accumulate=accumulate)
        if rank == 0:
            torch.save(found, folder / f"{kind}-{name}.pt")
        dist.barrier()
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=OBJECTIVES)
def alone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, request.param, fit(folder, request.param)


def same(found, wanted, atol):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=atol), name


def test_a_continued_training_has_the_same_bits(alone):
    folder, kind, wanted = alone
    fit(folder, kind, STEPS // 2)
    same(fit(folder, kind, ckpt=folder / f"{STEPS // 2}.ckpt"), wanted, 0.0)


def test_accumulated_batches_are_one(alone):
    folder, kind, wanted = alone
    same(fit(folder, kind, accumulate=2), wanted, 1e-5)


def test_two_ranks_train_the_same_weights_and_averages(tmp_path):
    """Replicated with accumulation, where a derivative is taken inside the wrapped step, and with sharded weights."""
    ports = []
    for _ in RANKED:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    on_ranks(on_rank, (tmp_path, ports), 2)
    for kind, (name, _) in RANKED:
        same(torch.load(tmp_path / f"{kind}-{name}.pt"), fit(tmp_path, kind), 1e-5)
