"""A small training on any number of processes, sharded or not."""

import os
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data.loading.datamodule import DataModule
from denoiselab.data.points import PointSet
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.model import Model
from denoiselab.networks.magnitude import MPConv
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import LogNormalNoise
from denoiselab.objectives.uncertainty import Uncertainty
from denoiselab.parameterizations import edm
from denoiselab.schedules import EDM
from denoiselab.training.checkpoints import AtomicCheckpointIO
from denoiselab.training.ema import EMA, HalfLife
from denoiselab.training.module import DiffusionModule
from denoiselab.training.power_ema import PowerFunction
from denoiselab.training.preparing import Preparation
from denoiselab.training.sharded_tensors import is_sharded, local
from denoiselab.training.snapshots import Snapshots

BATCH, STEPS = 12, 30


class Block(nn.Module):
    """Of shapes that no number of ranks divides, a number without axes, and a constraint."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = MPConv(7, 5), nn.Linear(5, 7)
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return x + self.gain * self.back(self.wide(x).tanh())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 7))
        self.label = nn.Linear(1, 7)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(7, 7)

    def forward(self, x, label, cond=None):
        h = x + self.position + self.label(label[:, None])
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def module(folder, compiler="off"):
    torch.manual_seed(0)
    model = Model(Denoiser(Net(), EDM(), edm, LogNoise()), Unconditional(), Identity((7,)))
    objective = DenoisingObjective(weights.edm, LogNormalNoise(), uncertainty=Uncertainty(4))
    profiles = {"ema": HalfLife(200), "wide": PowerFunction(0.1)}
    ema = EMA(profiles, Snapshots(every_images=BATCH * 10, keep=4), folder / "snapshots")

    def optimizer(parameters):
        return torch.optim.AdamW(parameters, lr=2e-3, fused=True)

    return DiffusionModule(
        model,
        objective,
        optimizer,
        lambda seen: 1.0,
        ema,
        0,
        {"name": "small"},
        preparation=Preparation(compiler, backend="aot_eager"),
    )


class Losses(pl.Callback):
    """The mean loss of each batch over all ranks, and a checkpoint every ten steps."""

    def __init__(self, folder, options):
        self.folder, self.options, self.losses = folder, options, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().double(), reduce_op="mean")))
        if trainer.global_step % 10 == 0:
            trainer.save_checkpoint(self.folder / "last.ckpt", storage_options=self.options)


def fit(folder, steps, strategy="auto", devices=1, ckpt=None, options=None, compiler="off"):
    """Train up to a step, from a checkpoint on; what was trained, its Trainer and its losses."""
    losses, trained = Losses(folder, options or {"keep": 2}), module(folder, compiler)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, logger=False,
        callbacks=[losses], plugins=[AtomicCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=str(folder), gradient_clip_val=0.5,
        enable_checkpointing=False,
    )  # fmt: skip
    points = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))
    data = DataModule(PointSet(points, torch.zeros(60, dtype=torch.int64)), 0, BATCH)
    trainer.fit(trained, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return SimpleNamespace(trained=trained, trainer=trainer, losses=losses.losses)


def on_rank(rank, folder, port, world, steps, ckpt, options, compiler="off"):
    """As `fit`, on each of `world` ranks, with checks of what only ranks can see; the first writes the losses."""
    from denoiselab.training.strategies import Sharded

    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world)
    )
    done = fit(folder, steps, Sharded(60), world, ckpt, options, compiler)
    if compiler != "off":
        from torch._dynamo.utils import counters  # takes seconds

        assert counters["stats"]["unique_graphs"]
        assert not counters["graph_break"]
    assert dist.get_world_size() == done.trained.device_mesh.size() == world
    check_whole(done.trained, rank)
    check_refusals(done, rank, folder)
    if rank == 0:
        torch.save(done.losses, folder / "losses.pt")
    dist.barrier()
    dist.destroy_process_group()


def check_whole(trained, rank):
    """Looks at the weights as a whole leave the training as it was, and need no other rank."""
    plain = dict(module(trained.ema.folder).named_parameters())
    parts = dict(trained.named_parameters())
    assert all(map(is_sharded, parts.values()))
    if rank:
        assert local(parts["denoiser.network.position"]).numel() == 0  # one row, on the first rank
    before = {name: local(parameter.detach()).clone() for name, parameter in parts.items()}
    with trained.whole():
        for name, parameter in trained.named_parameters():
            assert not is_sharded(parameter)
            assert parameter.shape == plain[name].shape
        assert {*trained.denoiser.state_dict()} == {*module(trained.ema.folder).denoiser.state_dict()}
        own = trained.denoiser.network(torch.ones(2, 7), torch.ones(2)).detach()
        if rank == 0:  # alone: the others wait for nobody, and it for none of them
            with trained.applied("ema"):
                assert not torch.equal(trained.denoiser.network(torch.ones(2, 7), torch.ones(2)), own)
        assert torch.equal(trained.denoiser.network(torch.ones(2, 7), torch.ones(2)), own)
    with trained.applied("raw"):
        assert torch.equal(trained.denoiser.network(torch.ones(2, 7), torch.ones(2)), own)
    for name, parameter in trained.named_parameters():
        assert parameter is parts[name]
        assert torch.equal(local(parameter.detach()), before[name])


def check_refusals(done, rank, folder):
    """What one rank alone could not know, or would get wrong in silence."""
    from denoiselab.training.checkpoint_files import write_checkpoint
    from denoiselab.training.finite import not_finite, not_finite_on_any_rank

    weights = done.trained.state_dict()
    naive(lambda: write_checkpoint({"state_dict": weights}, folder / f"rank{rank}.ckpt"), ValueError, "parts of a rank")
    name, last = "denoiser.network.head.weight", dist.get_world_size() - 1
    if rank == last:
        local(weights[name])[-1] = float("nan")
    assert (not_finite(weights) is not None) == (rank == last)
    assert not_finite_on_any_rank(weights) == name
    (folder / "a_file").touch()
    for options in ({}, {"asynchronous": True}):
        checkpoint = {"state_dict": weights, "optimizer_states": [], "denoiselab": {"ema": {}}}

        def save(options=options, checkpoint=checkpoint):
            done.trainer.strategy.save_checkpoint(checkpoint, folder / "a_file" / "last.ckpt", options)
            done.trainer.strategy.wait()

        naive(save, OSError, "cannot be written")


def naive(act, kind, words):
    try:
        act()
    except kind as error:
        assert words in str(error), error  # noqa: PT017
    else:
        raise AssertionError(f"no {kind.__name__}")
