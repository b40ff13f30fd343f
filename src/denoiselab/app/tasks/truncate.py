"""The data's mean and covariance in a file, from which samples start at an intermediate level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.config.spelling import override
from denoiselab.app.tasks import task
from denoiselab.console import console
from denoiselab.data import clean
from denoiselab.errors import BadInput
from denoiselab.files import atomic
from denoiselab.noise import SAMPLING, Noise


@dataclass(kw_only=True)
class WriteTruncation(task.Task):
    """Write mean and covariance of training data in the denoiser's range, for starts at a level below x_T.

    Args:
        lam: Half log-SNR at which samples start; -1 to 1 for data of standard deviation 0.5.
        num_samples: Number of samples of the data; null for all.
    """

    lam: float = 0.0
    num_samples: int | None = 10000

    def __post_init__(self) -> None:
        task.check_ranges(2, num_samples=self.num_samples)
        task.check_finite(self.lam, "lam")

    def run(self, asked: SampleSettings) -> Path:
        """Write the file, which is returned."""
        opened = task.open_checkpoint(asked)
        model, (train, _) = opened.model, opened.loaded.data()
        dimension = math.prod(model.shape)
        if dimension > 4096:
            raise BadInput(f"task=truncate: the covariance of {dimension:,} dimensions is too large; at most 4,096.")
        n = min(len(train), self.num_samples or len(train))
        out = opened.new_path(asked, "truncations", f"lam{self.lam:g}_n{n}.pt")
        total = torch.zeros(dimension, dtype=torch.float64)
        square = torch.zeros(dimension, dimension, dtype=torch.float64)
        for index in torch.arange(n).split(1000):
            images = clean(train, index).images
            x = model.codec.encode_latents(model.codec.encode_pixels(images), Noise(0, index, SAMPLING).normal)
            x = x.flatten(1).double()
            total, square = total + x.sum(0), square + x.T @ x
        mean = total / n
        variances, axes = torch.linalg.eigh(square / n - mean[:, None] * mean)
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic(out) as file:
            moments = {"lam": self.lam, "mean": mean, "variances": variances.clamp_min(0), "axes": axes}
            torch.save({**moments, "checkpoint": str(opened.path.resolve()), "checkpoint_sha256": opened.sha256}, file)
        console().print(
            f"moments of {n:,} samples, a start at half log-SNR {self.lam:g}: {out}\n"
            f"use: spacing@sampler.spacing=truncated {override('sampler.spacing.path', out)}, or "
            f"{override('evaluation.samplers', [f'<name>@{out}'])}"
        )
        return out
