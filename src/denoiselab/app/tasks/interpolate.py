"""Samples between samples, or between images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from denoiselab.app.building.given import Given, given_images
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import DrawingTask, Start, described
from denoiselab.app.tasks.from_images import Entry, check_inversion, latents_of, span
from denoiselab.errors import BadInput
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.model import Model
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import Sampler, Tally, slerp
from denoiselab.samplers.inversion import invert
from denoiselab.samplers.observers import mean_count
from denoiselab.schedules.base import like

# Options that count for images that are noised, or encoded.
_OF = {"noised": ("strength",), "encoded": ("inversion_guidance", "fixed_point")}


@dataclass(kw_only=True)
class Interpolate(DrawingTask):
    """Draw frames on the great circle between the x_T of samples 2k and 2k + 1, a row of the grid a pair.

    With `images` they are between images 2k and 2k + 1, under the condition of the first. Images that are encoded come
    back at the ends, up to the sampler's error; between images that are noised to one level, with one noise, the frames
    are samples from the level on of linear mixtures, and the ends are changed as by task=edit.

    Sources: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, section 5.3; of `noised` Ho et al.,
    DDPM, arXiv 2006.11239, section 4.4 and figure 8.

    Args:
        frames: Images a pair, at least 2.
        images: `held_out`, `train` or a folder, of which the first `num_samples` are taken; null: between samples.
        between: Interpolate `encoded` images (their x_T) or `noised` ones.
        strength: Of `noised`, as in task=edit.
        inversion_guidance: Of `encoded`, the scale of guidance in encoding, as in task=translate.
        fixed_point: Of `encoded`, iterations that invert each step, as in task=translate.
    """

    frames: int = 8
    images: str | None = None
    between: Literal["encoded", "noised"] = "encoded"
    strength: float = 0.5
    inversion_guidance: float = 1.0
    fixed_point: int = 0

    folder: ClassVar[str] = "interpolations"

    def __post_init__(self) -> None:
        super().__post_init__()
        task.check_ranges(2, frames=self.frames)
        task.check_ranges(0, fixed_point=self.fixed_point)
        task.check_finite(self.inversion_guidance, "inversion_guidance")
        self._entry = Entry(self.strength)
        self._given: Given | None = None
        self._facts: dict[str, Any] = {}
        self._counts, self._residuals = Counter[str](), list[Tensor]()

    @property
    def number(self) -> int:
        return self.num_samples // 2 * self.frames

    @property
    def row(self) -> int | None:
        return self.frames

    def options(self, asked: SampleSettings) -> dict[str, Any]:
        found = super().options(asked)
        unused = ("images", "between", *self._unused) if self.images is None else self._unused
        return {name: value for name, value in found.items() if name not in unused}

    @property
    def _unused(self) -> list[str]:
        """Options that have no effect."""
        return [name for way, names in _OF.items() if self.images is None or way != self.between for name in names]

    def check(self, asked: SampleSettings) -> None:
        if self.num_samples % 2:
            raise BadInput(
                f"task.num_samples={self.num_samples}: task=interpolate takes pairs of samples; give an even number."
            )
        if self.images is None and self.between == "noised":
            raise BadInput("task.between=noised: images are noised; give task.images=held_out, train or a folder.")
        for name in self._unused:
            if getattr(self, name) != getattr(type(self), name):
                why = "without task.images" if self.images is None else f"with task.between={self.between}"
                raise BadInput(f"task.{name}={getattr(self, name)}: it has no effect {why}; leave it out.")

    def check_sampler(self, sampler: Sampler) -> None:
        if sampler.stochastic and (self.images is None or self.between == "encoded"):
            raise BadInput(
                f"task=interpolate: {type(sampler).__name__} is stochastic, so x_T does not decide its samples; use a "
                "deterministic sampler (ddim, with eta=0)."
            )

    def check_conditions(self, model: Model) -> None:
        if self.images is None:
            super().check_conditions(model)

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        sampler = super().prepare(asked, opened, sampler)
        if self.images is None:
            return sampler
        self._asked = asked
        self._given = given_images(opened.loaded, self.images, self.num_samples, self.seed)
        self.num_samples = min(self.num_samples, len(self._given) // 2 * 2)
        if len(self._given) < 2 or not self.num_samples:
            raise BadInput(f"task.images={self.images}: there is one image; at least 2 are needed.")
        rows = torch.arange(self.num_samples)
        self._given.conditions(opened.model, rows, asked.conditioner)
        if self.between == "noised":
            sampler = self._entry.of(sampler, opened.model.denoiser.schedule)
        else:
            check_inversion("interpolate", sampler, opened.model, Guidance(self.inversion_guidance), self.fixed_point)
        level = sampler.grid(opened.model.denoiser.schedule)[0]
        self._facts = {
            "images_sha256": self._given.data.fingerprint,
            "given": self._given.names_of(rows),
            "start": described(level),
        }
        return sampler

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """The condition of the first of a pair, and x_T between those of the pair."""
        first, fraction = rows // self.frames * 2, rows % self.frames / (self.frames - 1)
        level = sampler.grid(model.denoiser.schedule)[0]
        if self._given is None:
            ends = [Noise(self.seed, index, SAMPLING).normal(model.shape) for index in (first, first + 1)]
            return Start(first, slerp(ends[0], ends[1], fraction) * float(level.sigma))
        pairs, place = first.unique(return_inverse=True)
        z = [latents_of(model, self._given.clean(pairs + k, model.device).images) for k in (0, 1)]
        cond = self._given.conditions(model, first, self._asked.conditioner)
        if self.between == "encoded":
            own, tally = self._given.conditions(model, pairs, self._asked.conditioner), Tally()
            denoise = tally.counted(model.bound(pairs, Guidance(self.inversion_guidance), own, tally))
            there = [invert(sampler, denoise, model.denoiser.schedule, end, self.fixed_point) for end in z]
            self._counts.update(tally.counts)  # a pair whose frames are in two batches is encoded for each
            self._residuals += [end.residual.cpu() for end in there]
            return Start(first, slerp(there[0].x[place], there[1].x[place], fraction), cond)
        noise = Noise(self.seed, pairs, SAMPLING).normal(model.shape)
        x = [(float(level.alpha) * end + float(level.sigma) * noise)[place] for end in z]
        return Start(first, x[0] + like(fraction, x[0]) * (x[1] - x[0]), cond)

    @property
    def said(self) -> str:
        return f", {mean_count(self._counts['nfe'], self.num_samples)} more to encode an image" if self._counts else ""

    def facts(self) -> dict[str, Any]:
        """Counts of encoding are an image."""
        counts = {f"{name}_encode": mean_count(rows, self.num_samples) for name, rows in self._counts.items()}
        residual = {"residual": span(torch.cat(self._residuals))} if self._counts and self.fixed_point else {}
        return {**self._facts, **counts, **residual}

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        if self._given is None:
            super().write(folder, samples, model, labels)
            return
        rows, kind = torch.arange(self.num_samples), medium(model.codec.shape)
        (folder / "given").mkdir()
        kind.write_files(folder / "given", self._given.stored(rows), self.format)
        first = torch.arange(self.number) // self.frames * 2
        words = self._given.described(model, first, self._asked.conditioner)
        kind.write_samples(folder, samples, self.format, self.row, words)
