"""Samples from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from denoiselab.app.commands.drawing import DrawingTask, Start
from denoiselab.model import Model
from denoiselab.noise import BrownianNoise, Noise
from denoiselab.samplers import Sampler

_NOISES = {"independent": Noise, "brownian": BrownianNoise}


@dataclass(kw_only=True)
class Generate(DrawingTask):
    """Draw samples, and write them with their protocol to a new folder.

    Args:
        noise: Of stochastic samplers; `brownian`: one path a sample, so that more steps refine the same image.
    """

    noise: Literal["independent", "brownian"] = "independent"

    folder: ClassVar[str] = "samples"

    @property
    def noise_class(self) -> type[Noise]:
        return _NOISES[self.noise]

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """Their own noise."""
        return Start(rows)
