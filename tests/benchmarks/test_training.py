"""The Trainer's run against a bare PyTorch loop with the same network, batch and optimizer, in one process."""

import statistics
import time

import pytest
import pytorch_lightning as pl
import torch

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import Digits, from_uint8
from denoiselab.data.loading.datamodule import DataModule
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import VPLinear
from denoiselab.training.callbacks import LossLog, ProgressBar
from denoiselab.training.ema import EMA, HalfLife
from denoiselab.training.loggers import MetricsCSV
from denoiselab.training.lr_schedules import Warmup
from denoiselab.training.module import DiffusionModule

BATCH, STEPS, ROUNDS = 128, 40, 5


def network():
    torch.manual_seed(0)
    net = DDPMUNet((1, 8, 8), channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), dropout=0.0, groups=8)
    return net.to(memory_format=torch.channels_last)


def bare(images):
    """Seconds of STEPS steps of a loop without EMA, logging or keyed noise."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    alphas = VPLinear()
    start = time.perf_counter()
    for _ in range(STEPS):
        x0 = from_uint8(images[torch.randint(len(images), (BATCH,))]).contiguous(memory_format=torch.channels_last)
        t, eps = torch.rand(BATCH), torch.randn_like(x0)
        x = alphas.alpha(t)[:, None, None, None] * x0 + alphas.sigma(t)[:, None, None, None] * eps
        loss = (net(x, 1000 * t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - start


class Clock(pl.Callback):
    def on_train_start(self, *_):
        self.start = time.perf_counter()

    def on_train_end(self, *_):
        self.seconds = time.perf_counter() - self.start


def trained(data, path):
    """Seconds of STEPS steps of the real module with EMA, loss log and bar."""
    denoiser = Denoiser(network(), VPLinear(), parameterizations.eps, ScaledTime())
    objective = DenoisingObjective(weights.snr, UniformTime())
    module = DiffusionModule(
        Model(denoiser, Unconditional(), Identity((1, 8, 8))), objective, lambda p: torch.optim.AdamW(p, lr=2e-3),
        Warmup(2000), EMA({"ema": HalfLife(5000)}), 0, {},
    )  # fmt: skip
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, gradient_clip_val=1.0, logger=[MetricsCSV(path, 0)],
        callbacks=[LossLog(1000), ProgressBar(STEPS * BATCH), clock], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=DataModule(data, 0, BATCH))
    return clock.seconds


@pytest.mark.benchmark
def test_images_per_second_against_a_bare_loop(tmp_path):
    data, _ = Digits("digits", (1, 8, 8), 10).load()
    bare(data.images)
    ratios = []
    for round_ in range(ROUNDS):
        plain, ours = bare(data.images), trained(data, tmp_path / f"{round_}.csv")
        ratios.append(plain / ours)
        print(f"bare {BATCH * STEPS / plain:.0f} images/s, Trainer {BATCH * STEPS / ours:.0f}, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")
    assert statistics.median(ratios) >= 0.9
