"""Images encoded to noise and decoded under other conditions, or by another model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import Start, described
from denoiselab.app.tasks.from_images import Entry, FromImages, check_inversion, latents_of, span
from denoiselab.errors import BadInput
from denoiselab.guidance import Guidance
from denoiselab.model import Model, check_finite
from denoiselab.networks.conditioning import Conditioning
from denoiselab.pretrained import Loaded
from denoiselab.samplers import Sampler, Tally
from denoiselab.samplers.inversion import invert
from denoiselab.samplers.observers import mean_count

# Options of the conditions under which images are encoded.
_SOURCE = ("source_classes", "source_prompts")


@dataclass(kw_only=True)
class Translate(FromImages):
    """Encode images to x_T with a deterministic sampler, and decode it under other conditions or by another model.

    They are encoded under their own conditions and decoded under those of `conditioner.classes` or
    `conditioner.prompts`, guided by `guidance`: an edit. With `source` another run's model encodes, and the images are
    of its data; the checkpoint's decodes. Both follow the checkpoint's schedule, as a denoiser takes levels of any.
    Then both scales should be 1, so that x_T is noise to both.

    Sources: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, section 5.4; Su et al., Dual Diffusion
    Implicit Bridges, arXiv 2203.08382, algorithm 1.

    Args:
        source: The run, or a file of it, whose model encodes; null: the checkpoint's own.
        source_classes: Classes under which images are encoded, in turn; null: their own.
        source_prompts: Texts likewise.
        inversion_guidance: Scale of guidance in encoding; with more than 1 the images come back under the same
            conditions and scale, but their x_T is no standard noise, which other conditions need.
        fixed_point: Iterations that invert each step, with as many more calls; 0 takes a step the other way
            (`denoiselab.samplers.inversion.invert`).
        strength: Part of the way to noise, above 0 and at most 1, as in task=edit.
    """

    source: str | None = None
    source_classes: list[int] | None = None
    source_prompts: list[str] | None = None
    inversion_guidance: float = 1.0
    fixed_point: int = 0
    strength: float = 1.0

    folder: ClassVar[str] = "translations"

    def __post_init__(self) -> None:
        super().__post_init__()
        task.check_ranges(0, fixed_point=self.fixed_point)
        task.check_finite(self.inversion_guidance, "inversion_guidance")
        for name in _SOURCE:
            if getattr(self, name) == []:
                raise ValueError(f"{name}=[]: at least one is needed; null: those of the images.")
        self._entry = Entry(self.strength)
        self._counts, self._stds, self._residuals = Counter[str](), list[Tensor](), list[Tensor]()

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        schedule = opened.model.denoiser.schedule
        self._encoder = self._opened(asked, opened)
        source = self._encoder.model
        check_inversion("translate", sampler, source, Guidance(self.inversion_guidance), self.fixed_point)
        sampler = super().prepare(asked, opened, sampler)
        self.source_conditions(source, torch.arange(max(len(getattr(self, name) or "1") for name in _SOURCE)))
        sampler = self._entry.of(sampler, schedule)
        self._level = sampler.grid(schedule)[0]
        self._facts["start"] = described(self._level)
        return sampler

    def _opened(self, asked: SampleSettings, opened: task.Opened) -> task.Opened:
        """The run whose model encodes."""
        if self.source is None:
            return opened
        try:
            other = task.open_checkpoint(asked.model_copy(update={"ckpt": self.source, "weights": None, "data": None}))
        except BadInput as error:
            text = str(error)
            own = text.startswith("ckpt=")
            raise BadInput(f"task.source={text[5:]}" if own else f"task.source={self.source}: {text}") from None
        for name in ("shape", "latent_shape"):
            theirs, ours = (list(getattr(model.codec, name)) for model in (other.model, opened.model))
            if theirs != ours:
                what = "samples" if name == "shape" else "latents"
                raise BadInput(f"task.source={self.source}: its {what} are {theirs}, and the checkpoint's {ours}.")
        other.model.denoiser.to(opened.device)
        self._facts["source"] = {"checkpoint": str(other.path.resolve()), "checkpoint_sha256": other.sha256}
        return other

    def holder(self, opened: task.Opened) -> Loaded:
        return self._encoder.loaded

    def source_conditions(self, model: Model, rows: Tensor) -> Conditioning:
        """The conditions under which the images of samples `rows` `(B,)` are encoded."""
        for name in _SOURCE:
            values: Sequence[int] | Sequence[str] | None = getattr(self, name)
            if values is not None:
                try:
                    return model.conditioner.of([values[i % len(values)] for i in rows.tolist()], model.device)
                except ValueError as error:
                    raise BadInput(f"task.{name}={list(values)}: {str(error).partition(': ')[2] or error}") from None
        return self._given.conditions(model, rows)

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """The x_T of the images."""
        source, tally = self._encoder.model, Tally()
        cond = self.source_conditions(source, rows)
        denoise = tally.counted(source.bound(rows, Guidance(self.inversion_guidance), cond, tally))
        z = latents_of(source, self._given.clean(rows, model.device).images)
        x, residual = invert(sampler, denoise, model.denoiser.schedule, z, self.fixed_point)
        check_finite(x, rows, f"the x_T by {type(sampler).__name__} is not finite")
        self._counts.update(tally.counts)
        self._stds.append((x / float(torch.hypot(self._level.alpha, self._level.sigma))).flatten(1).std(1).cpu())
        self._residuals.append(residual.cpu())
        return Start(rows, x, self.conditions(model, rows))

    @property
    def said(self) -> str:
        return f", {mean_count(self._counts['nfe'], self.number)} more to encode"

    def facts(self) -> dict[str, Any]:
        inversion: dict[str, Any] = {name: mean_count(rows, self.number) for name, rows in self._counts.items()}
        inversion["x_t_std"] = float(torch.cat(self._stds).square().mean().sqrt())
        if self.fixed_point:
            inversion["residual"] = span(torch.cat(self._residuals))
        return {**super().facts(), "inversion": inversion}
