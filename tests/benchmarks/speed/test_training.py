"""The Trainer's run against a bare PyTorch loop with the same network, batch and optimizer, in one process."""

import statistics
import time

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


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(images, device):
    """Seconds of STEPS steps of a loop without EMA, logging or keyed noise."""
    net, images = network().to(device), images.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    alphas = VPLinear()
    start = time.perf_counter()
    for _ in range(STEPS):
        x0 = from_uint8(images[torch.randint(len(images), (BATCH,), device=device)]).contiguous(
            memory_format=torch.channels_last
        )
        t, eps = torch.rand(BATCH, device=device), torch.randn_like(x0)
        x = alphas.alpha(t)[:, None, None, None] * x0 + alphas.sigma(t)[:, None, None, None] * eps
        loss = (net(x, 1000 * t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    wait(device)
    return time.perf_counter() - start


class Clock(pl.Callback):
    def on_train_start(self, trainer, module):
        self.start = time.perf_counter()

    def on_train_end(self, trainer, module):
        wait(module.device)
        self.seconds = time.perf_counter() - self.start


def trained(data, path, device):
    """Seconds of STEPS steps of the real module with EMA, loss log and bar."""
    denoiser = Denoiser(network(), VPLinear(), parameterizations.eps, ScaledTime())
    objective = DenoisingObjective(weights.snr, UniformTime())
    module = DiffusionModule(
        Model(denoiser, Unconditional(), Identity((1, 8, 8))), objective, lambda p: torch.optim.AdamW(p, lr=2e-3),
        Warmup(2000), EMA({"ema": HalfLife(5000)}), 0, {},
    )  # fmt: skip
    clock = Clock()
    trainer = pl.Trainer(
        accelerator=device.type, devices=1, max_steps=STEPS, max_epochs=-1, gradient_clip_val=1.0,
        logger=[MetricsCSV(path, 0)], callbacks=[LossLog(1000), ProgressBar(STEPS * BATCH), clock],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=DataModule(data, 0, BATCH))
    return clock.seconds


def test_images_per_second_against_a_bare_loop(device, tmp_path, reported):
    data, _ = Digits("digits", (1, 8, 8), 10).load()
    bare(data.images, device)
    ratios, seconds = [], {"ours": [], "plain torch loop": []}
    for round_ in range(ROUNDS):
        plain, ours = bare(data.images, device), trained(data, tmp_path / f"{round_}.csv", device)
        ratios.append(plain / ours)
        seconds["ours"].append(ours / STEPS)
        seconds["plain torch loop"].append(plain / STEPS)
        print(f"bare {BATCH * STEPS / plain:.0f} images/s, Trainer {BATCH * STEPS / ours:.0f}, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")
    case = f"digits, 0.65 M, batch {BATCH}; Lightning, average, keyed noise and log included"
    reported("training step", case, {name: statistics.median(values) for name, values in seconds.items()})
    assert statistics.median(ratios) >= (0.9 if device.type == "cpu" else 0.5)  # the latter unmeasured
