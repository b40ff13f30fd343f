"""How straight the paths of a checkpoint's ODE are, with the protocol."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from denoiselab.app.building import checks
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation.straightness import straightness
from denoiselab.files import write_text
from denoiselab.noise import SAMPLING, Noise


@dataclass(kw_only=True)
class MeasureStraightness(task.Task):
    """Measure how straight the paths from noise to samples are, and write it with its protocol to a new folder.

    S is 0 for straight paths of constant speed, whose one step is exact; it is summed over dimensions.

    Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, section 2.2.

    Args:
        num_samples: Number of paths, at least 2.
        batch_size: Paths a network call; it does not change the result.
        seed: Path i is a function of (seed, i).
        guidance: Scale of the guider: of `cfg` 1 is the conditional model, 0 the unconditional one.
    """

    num_samples: int = 256
    batch_size: int = 64
    seed: int = 0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        task.check_ranges(2, num_samples=self.num_samples)  # for a standard error
        task.check_ranges(batch_size=self.batch_size)
        task.check_seed(self.seed)
        task.check_finite(self.guidance)

    def run(self, asked: SampleSettings) -> Path:
        """Measure, write `straightness.json`, and print it; returns the new folder."""
        conditions = {} if asked.conditioner is None else asked.conditioner.given
        opened = task.open_checkpoint(asked, conditions)
        model = opened.model
        guidance = task.guidance_for(asked, self.guidance, opened)
        sampler = task.sampler_for(asked, model, guidance)
        checks.check_conditions(model)
        facts = {"sampler": asked.sampler, **guidance.facts, "conditioner": conditions, "seed": self.seed}
        name = f"{opened.weights}_seed{self.seed}_n{self.num_samples}_{short_hash([facts, opened.sha256])}"
        out = opened.new_path(asked, "straightness", name)
        model.denoiser.to(opened.device)
        with task.working(out, "straightness", self.num_samples) as (partial, work):
            found = []
            for index in torch.arange(self.num_samples, device=opened.device).split(self.batch_size):
                noise = Noise(self.seed, index, SAMPLING)
                try:
                    denoise = model.bound(index, guidance)
                    found.append(straightness(denoise, sampler, model.denoiser.schedule, model.shape, noise))
                except ValueError as refusal:
                    raise BadInput(f"task=straightness: {refusal}") from None
                work.done(len(index))
            paths, chords = (torch.cat(part) for part in zip(*found, strict=True))
            value, error = float(paths.mean()), float(paths.std()) / math.sqrt(self.num_samples)
            record = {
                "straightness": value,
                "standard_error": error,
                "squared_chord": float(chords.mean()),
                "n": self.num_samples,
                **facts,
                "weights": opened.weights,
                "images_seen": opened.loaded.images_seen,
                "checkpoint": str(opened.path.resolve()),
                "checkpoint_sha256": opened.sha256,
            }
            write_text(partial / "straightness.json", json.dumps(record, indent=1))
        share = value / float(chords.mean())
        console().print(
            f"S = {value:.4g} +- {error:.2g}, {share:.3g} of the squared distance of the ends (n = {self.num_samples}, "
            f"{sampler.steps} steps, weights {opened.weights}): {out}"
        )
        return out
