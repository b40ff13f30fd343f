"""Samples from a checkpoint, and the predicted data on the way to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import DrawingTask, Start, described
from denoiselab.app.tasks.sizes import resized
from denoiselab.errors import BadInput
from denoiselab.model import Drawing, Model
from denoiselab.noise import SAMPLING, BrownianNoise, Noise
from denoiselab.samplers import Moment, OnStep, Sampler, Tally
from denoiselab.schedules import Level
from denoiselab.stored import to_stored

_NOISES = {"independent": Noise, "brownian": BrownianNoise}


@dataclass(kw_only=True)
class Generate(DrawingTask):
    """Draw samples, and write them with their protocol to a new folder.

    Args:
        noise: Of stochastic samplers; `brownian`: one path a sample, so that more steps refine the same image.
        same_noise: Prompts, or classes, have the same noise: with P of them, sample i has that of sample i // P.
        size: [H, W] of images, where the network takes others than those of its training.
    """

    noise: Literal["independent", "brownian"] = "independent"
    same_noise: bool = False
    size: list[int] | None = None

    folder: ClassVar[str] = "samples"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size={self.size}: it must be [H,W], numbers of at least 1.")
        self._together = 1

    @property
    def noise_class(self) -> type[Noise]:
        return shared_by(self._together, _NOISES[self.noise])

    def opened(self, opened: task.Opened, asked: SampleSettings) -> task.Opened:
        if self.same_noise:
            self._together = opened.model.conditioner.strata
            if self._together == 1:
                raise BadInput("task.same_noise=true: this model draws no prompts or classes in turn; leave it out.")
        return opened if self.size is None else resized(opened, self.size, asked)

    def options(self, asked: SampleSettings) -> dict[str, Any]:
        new = {"same_noise": False, "size": None}  # names of folders do not depend on them
        return {name: value for name, value in super().options(asked).items() if value != new.get(name, ...)}

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """Their own noise."""
        return Start(rows)


@dataclass(kw_only=True)
class Progressive(Generate):
    """Draw samples with the x0 that the model predicts on the way to them, a row of the grid a sample.

    The last frame is the sample. The samples are those of task=generate.

    Source: Ho et al., DDPM, arXiv 2006.11239, section 4.3 and figure 6.

    Args:
        frames: Images a sample, at equal numbers of steps; at least 2, and at most the number of steps.
    """

    num_samples: int = 8
    frames: int = 8

    folder: ClassVar[str] = "progressions"

    def __post_init__(self) -> None:
        super().__post_init__()
        task.check_ranges(2, frames=self.frames)
        self._levels = dict[int, Level]()

    @property
    def row(self) -> int | None:
        return self.frames

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        sampler = super().prepare(asked, opened, sampler)
        if sampler.adaptive:
            raise BadInput(
                f"task=progressive: {type(sampler).__name__} chooses its own steps, other ones for each sample; use a "
                "sampler with a number of steps."
            )
        if self.frames > sampler.steps:
            raise BadInput(f"task.frames={self.frames}: the sampler has {sampler.steps} steps; give at most that.")
        return sampler

    def draw(self, start: Start, drawing: Drawing, model: Model, on_step: OnStep) -> tuple[Tensor, Tally]:
        """All frames of the first sample, then those of the next."""
        frames = dict[int, Tensor]()

        def watch(moment: Moment) -> None:
            on_step(moment)
            # The last frame is the sample itself: after a step to clean data both are the same.
            if moment.number in _shown(moment.steps, self.frames):
                frames[moment.number] = to_stored(model.codec.decode(moment.x0)).cpu()
                self._levels[moment.number] = moment.level

        samples, tally = super().draw(start, drawing, model, watch)
        strip = [*(frames[number] for number in sorted(frames)[:-1]), samples.cpu()]
        return torch.stack(strip, 1).flatten(0, 1), tally

    def facts(self) -> dict[str, Any]:
        return {"frames_at": [{"step": number, **described(self._levels[number])} for number in sorted(self._levels)]}

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        repeated = None if labels is None else [label for label in labels for _ in range(self.frames)]
        super().write(folder, samples, model, repeated)


def shared_by(count: int, kind: type[Noise]) -> type[Noise]:
    """Noise of a kind, of which each `count` consecutive samples have the same."""
    if count == 1:
        return kind

    class Shared(kind):  # type: ignore[misc,valid-type]
        def __init__(self, seed: int, index: Tensor, family: int = SAMPLING) -> None:
            super().__init__(seed, index // count, family)

    return Shared


def _shown(steps: int, frames: int) -> list[int]:
    """The numbers of the steps after which a frame is kept, the last included."""
    return [round((k + 1) * steps / frames) for k in range(frames)]
