"""Images changed by the model: noised to a level and sampled from there, whole or behind a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoiselab.app.building.given import SPLITS
from denoiselab.app.building.masks import Kept, in_latents, pasted, seam
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import Start, described
from denoiselab.app.tasks.from_images import Entry, FromImages, latents_of
from denoiselab.data.given import masks_of
from denoiselab.errors import BadInput
from denoiselab.inverse import Replaced
from denoiselab.model import Model
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import OneStep, Sampler
from denoiselab.schedules import Level


@dataclass(kw_only=True)
class Edit(FromImages):
    """Noise images to a level, and sample from there: SDEdit. With a mask, the pixels that it marks as known are kept.

    The level depends on the strength s by t = t_min + s (t_max - t_min), in the schedule's time, or on EDM's schedule,
    whose time is sigma, likewise in sigma / (1 + sigma); it is printed. All steps of the sampler are below it, so that
    the number of network calls does not depend on s. A strength of 1 is no sample from noise alone: x_T still holds
    alpha_T times the image.

    With a mask each step is followed by a replacement of the known part (`denoiselab.inverse.Replaced`); samples of a
    model in latents get the known pixels after decoding, and a latent counts as known if all pixels of its block do.

    Source: Meng et al., SDEdit, arXiv 2108.01073, section 3.

    Args:
        strength: s, how much changes: above 0 and at most 1.
        steps: `all` steps of the sampler, at any strength; or, as in diffusers' pipelines, the last of its N steps:
            int(N s) with `floor` (Stable Diffusion), N - int(N - N s) with `ceil` (Stable Diffusion 3, Flux).
        mask: A file, black and white and of the images' size, that marks known pixels of all of them; or a folder with
            one for each image of the folder `images`, of its name; null: none.
        known: Colour in the mask of the pixels that are kept.
    """

    strength: float = 0.6
    steps: Literal["all", "floor", "ceil"] = "all"
    mask: str | None = None
    known: Literal["white", "black"] = "white"

    folder: ClassVar[str] = "edits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is None and self.known != "white":
            raise ValueError(f"known={self.known}: it has no effect without mask; leave it out.")
        self._entry = Entry(self.strength, self.steps)
        self._known: Tensor | None = None
        self._latents: Tensor | None = None

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        sampler = super().prepare(asked, opened, sampler)
        model = opened.model
        if self.mask is not None:
            path, option = Path(self.mask).expanduser(), f"task.mask={self.mask}"
            if len(model.codec.shape) != 3:
                raise BadInput(f"{option}: the model's samples are no images.")
            if path.is_dir() and self.images in SPLITS:
                raise BadInput(f"{option}: masks by names need images in a folder; give task.images, or one mask file.")
            sides = model.codec.shape[1:]
            self._known, self._facts["mask_sha256"] = masks_of(path, self._given.names, sides, self.known, "task.mask")
            self._latents = torch.stack([in_latents(one, model.codec, option) for one in self._known])
            if not isinstance(sampler, OneStep):
                raise BadInput(
                    f"{option}: {type(sampler).__name__} combines its steps, which a replaced part "
                    "breaks; use a single-step sampler, such as ddim or ancestral."
                )
        sampler = self._entry.of(sampler, model.denoiser.schedule)
        self._level: Level = sampler.grid(model.denoiser.schedule)[0]
        self._facts |= {"start": described(self._level)} | ({} if sampler.adaptive else {"start_steps": sampler.steps})
        return sampler

    @property
    def said(self) -> str:
        level = self._level
        steps = f" in {self._facts['start_steps']} steps" if "start_steps" in self._facts else ""
        return f", from t={float(level.t):.4g} (rho={float(level.rho):.4g}){steps}"

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """The images, noised; with a mask a sampler that keeps its part."""
        known = self._given.clean(rows, model.device)
        z = latents_of(model, known.images)
        noise = Noise(self.seed, rows, SAMPLING).normal(model.shape)
        x = float(self._level.alpha) * z + float(self._level.sigma) * noise
        if self._latents is not None:
            assert isinstance(sampler, OneStep)
            operator = Kept(self._latents[rows.cpu() % len(self._latents)].to(z.device))
            sampler = Replaced(sampler, operator, operator(z))
        return Start(rows, x, self.conditions(model, rows), sampler)

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        if self._known is not None:
            rows = torch.arange(self.number)
            given, known = self._given.stored(rows), self._known[rows % len(self._known)]
            whole = pasted(samples, given, known)
            self._facts["known_pixels"] = float(known.double().mean())
            self._facts["seam"] = seam(samples, whole, given, known)
            samples = whole
        super().write(folder, samples, model, labels)
