"""What tasks share that start from images: which they are, their conditions, and pictures of both."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from denoiselab.app.building import checks
from denoiselab.app.building.given import Given, given_images
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import DrawingTask
from denoiselab.errors import BadInput
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.pretrained import Loaded
from denoiselab.samplers import Sampler
from denoiselab.samplers.inversion import check_fixed_point
from denoiselab.samplers.partial import last_steps, starting_at
from denoiselab.schedules import Schedule
from denoiselab.stored import as_inputs


@dataclass(kw_only=True)
class FromImages(DrawingTask, ABC):
    """Draws samples that start from images; sample i from image i modulo their number.

    Args:
        images: `held_out` or `train`: some of the run's data, chosen by the seed; or a folder of images like the
            model's, in the order of their names; folders in it that are named by numbers are their classes.
        num_samples: Number of samples; null: as many as there are images, at most 64 of the run's data.
    """

    num_samples: int | None = None  # type: ignore[assignment]  # set by `prepare`
    images: str = "held_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._facts: dict[str, Any] = {}

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        sampler = super().prepare(asked, opened, sampler)
        self._asked = asked
        self._given: Given = self.read(opened)
        self.num_samples = len(self._given) if self.num_samples is None else self.num_samples
        self.conditions(opened.model, torch.arange(min(self.num_samples, len(self._given))))
        self._facts["num_samples"] = self.num_samples
        self._facts["images_sha256"] = self._given.data.fingerprint
        self._facts["given"] = self._given.names_of(torch.arange(self.number))
        return sampler

    def read(self, opened: task.Opened) -> Given:
        """The images that the task starts from, or measurements of them.

        Raises:
            BadInput: If they cannot be used.
        """
        return given_images(self.holder(opened), self.images, self.num_samples, self.seed)

    def holder(self, opened: task.Opened) -> Loaded:
        """The run whose data `images` names."""
        return opened.loaded

    def check_conditions(self, model: Model) -> None:
        """Those of the images, which `prepare` checks."""

    def conditions(self, model: Model, rows: Tensor) -> Conditioning:
        """The conditions of samples `rows` `(B,)`: those that are asked for, in turn, else those of the images."""
        return self._given.conditions(model, rows, self._asked.conditioner)

    def facts(self) -> dict[str, Any]:
        return self._facts

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        kind, rows = medium(model.codec.shape), torch.arange(self.number)
        given = self._given.stored(rows)
        self._facts["rmse_to_given"] = float((as_inputs(samples) - as_inputs(given)).double().square().mean().sqrt())
        (folder / "given").mkdir()
        kind.write_files(folder / "given", given, self.format)
        kind.write_files(folder, samples, self.format)
        words = self._given.described(model, rows, self._asked.conditioner)
        kind.write_pairs(folder / "grid.png", given, samples, words)
        if words is not None:
            self._facts["conditions"] = words


def latents_of(model: Model, images: Tensor) -> Tensor:
    """The denoiser's data for images `(B, *)`; of a codec that draws latents, their mean."""
    kept = model.codec.encode_pixels(images)
    return model.codec.encode_latents(kept, lambda shape: torch.zeros(len(images), *shape, device=images.device))


@dataclass(frozen=True)
class Entry:
    """Where on the way from data to noise a run starts.

    Args:
        strength: From above 0, for the data, to 1, for where the sampler's grid may start.
        steps: `all`: the schedule's `part_way` of strength, and all steps are below; `floor`, `ceil`: the last
            int(N strength), or N - int(N - N strength), of the grid's N steps.
    """

    strength: float
    steps: Literal["all", "floor", "ceil"] = "all"

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength}: it must be above 0 and at most 1.")

    def of(self, sampler: Sampler, schedule: Schedule) -> Sampler:
        """The sampler that starts there.

        Raises:
            BadInput: If it cannot; the message names the option.
        """
        whole = sampler.steps
        try:
            if self.steps == "all":
                top = schedule.start(sampler.spacing.first_lam)
                t = schedule.part_way(self.strength, top)
                return sampler if self.strength == 1 else starting_at(sampler, schedule, t)
            floor, ceil = int(whole * self.strength), whole - int(max(whole - whole * self.strength, 0))
            return last_steps(sampler, schedule, floor if self.steps == "floor" else ceil)
        except ValueError as error:
            where = f"task.strength={self.strength}, task.steps={self.steps}"
            raise BadInput(f"{where}: {type(sampler).__name__}: {str(error).rstrip('.')}.") from None


def check_inversion(name: str, sampler: Sampler, model: Model, guidance: Guidance, fixed_point: int = 0) -> None:
    """Refuse a sampler that cannot encode, in the words of a task, and a guidance that the model does not have."""
    try:
        sampler.backwards(model.denoiser.schedule)
    except ValueError as error:
        raise BadInput(f"task={name}: {error}") from None
    try:
        check_fixed_point(sampler, fixed_point)
    except ValueError as error:
        raise BadInput(f"task.{error}.") from None
    checks.check_guidance(model, [guidance], f"task.inversion_guidance={guidance.scale:g}")


def span(values: Tensor) -> dict[str, float]:
    """Mean and maximum of numbers of samples, in the protocol."""
    return {"mean": float(values.mean()), "max": float(values.max())}
