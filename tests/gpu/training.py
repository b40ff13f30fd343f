"""A bare loop of training steps, with the framework's loss, precision, compiler and averages, on any device."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from configurations import build

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import Flow, VPLinear
from denoiselab.trained import batch_loss
from denoiselab.training.ema import EMA, Constant
from denoiselab.training.preparing import Preparation

OBJECTIVE = DenoisingObjective(weights.snr, UniformTime())


def model(device, name, shape, *overrides, classes=None, layout=torch.channels_last):
    """A model of a network of conf/network, whose weights are a function of nothing else.

    A network with a second time learns velocities on straight lines.
    """
    torch.manual_seed(0)
    given = [f"num_classes={classes}"] if classes else []
    network = build("network", name, f"shape={list(shape)}".replace(" ", ""), *given, *overrides)
    flow = network.second_time
    path, predicted = (Flow(), parameterizations.velocity) if flow else (VPLinear(), parameterizations.eps)
    denoiser = Denoiser(network.to(memory_format=layout), path, predicted, ScaledTime())
    return Model(denoiser.to(device), ClassLabel(classes) if classes else Unconditional(), Identity(shape))


@dataclass
class Outcome:
    """What a training left: losses, seconds of the steps after the first half, peak bytes, compiler's report."""

    losses: list[float]
    images_per_second: float
    peak: int
    compiled: object
    weights: torch.Tensor
    dtypes: set


def train(
    model, steps, batch, precision="32-true", compiler="off", backend="inductor", optimizer=None, clip=1.0,
    objective=OBJECTIVE,
):  # fmt: skip
    """`steps` steps of a batch of random images; random numbers depend on the step alone."""
    device, trained = model.device, model.trained.train()
    preparation = Preparation(compiler, half=precision == "bf16-true", backend=backend)
    preparation(trained.network)
    optimizer = (optimizer or (lambda p: torch.optim.AdamW(p, lr=1e-3)))(trained.parameters())
    ema, loss = EMA({"ema": Constant(0.9)}), batch_loss(model, objective)
    ema.start(trained)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *model.shape, generator=draw).to(device)
    labels = torch.randint(3, (batch,), generator=draw).to(device)
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    losses = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(steps):
        if step == steps // 2:
            wait(device)
            start = time.perf_counter()
        position = torch.arange(step * batch, (step + 1) * batch, device=device)
        preparation.begin_step()
        with torch.autocast(device.type, mixed) if mixed else nullcontext():
            total = loss.loss(
                {"position": position, "images": images, "labels": labels}, Noise(0, position, TRAINING), 0
            ).total
        optimizer.zero_grad()
        total.backward()
        preparation.end_step()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), clip)
        optimizer.step()
        ema.update(trained, (step + 1) * batch, batch)
        losses.append(total.detach())
    wait(device)
    seconds = time.perf_counter() - start
    out = Outcome(
        [float(one) for one in losses],
        batch * (steps - steps // 2) / seconds,
        torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        preparation.compiled,
        torch.cat([p.detach().flatten() for p in trained.parameters()]).cpu(),
        {p.dtype for p in trained.parameters()} | {a.dtype for a in ema.averages["ema"].values()},
    )
    preparation.undo()
    return out


def wait(device):
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
