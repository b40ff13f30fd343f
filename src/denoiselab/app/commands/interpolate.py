"""Samples between samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from denoiselab.app.commands.drawing import DrawingTask, Start
from denoiselab.app.commands.task import check_ranges
from denoiselab.app.config.settings import SampleSettings
from denoiselab.errors import BadInput
from denoiselab.model import Model
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import Sampler, slerp


@dataclass(kw_only=True)
class Interpolate(DrawingTask):
    """Draw frames on the great circle between the x_T of samples 2k and 2k + 1, a row of the grid a pair.

    Args:
        frames: Images a pair, at least 2.
    """

    frames: int = 8

    folder: ClassVar[str] = "interpolations"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(2, frames=self.frames)

    @property
    def number(self) -> int:
        return self.num_samples // 2 * self.frames

    @property
    def row(self) -> int | None:
        return self.frames

    def check(self, asked: SampleSettings) -> None:
        if self.num_samples % 2:
            raise BadInput(
                f"task.num_samples={self.num_samples}: task=interpolate takes pairs of samples; give an even number."
            )

    def check_sampler(self, sampler: Sampler) -> None:
        if sampler.stochastic:
            raise BadInput(
                f"task=interpolate: {type(sampler).__name__} is stochastic, so x_T does not decide its samples; use a "
                "deterministic sampler (ddim, with eta=0)."
            )

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """The condition of the first of a pair, and x_T between those of the pair."""
        first = rows // self.frames * 2
        ends = [Noise(self.seed, index, SAMPLING).normal(model.shape) for index in (first, first + 1)]
        sigma = float(sampler.grid(model.denoiser.schedule)[0].sigma)
        return Start(first, slerp(ends[0], ends[1], rows % self.frames / (self.frames - 1)) * sigma)
