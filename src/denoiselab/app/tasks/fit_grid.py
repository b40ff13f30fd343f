"""A grid fitted to a checkpoint and a sampler, as a file that any run can name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from denoiselab import progress
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks.task import Opened, Task, Work, check_finite, guidance_for, open_checkpoint, sampler_for
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import write_json
from denoiselab.guidance import Guidance
from denoiselab.samplers import Sampler
from denoiselab.samplers.fitting import Grid, GridSearch
from denoiselab.training.interruption import Interruption


@dataclass(kw_only=True)
class FitGrid(Task):
    """Fit a grid to the model and the sampler's number of steps, and write it to a new file.

    Args:
        method: How; a choice of task/method.
        guidance: Scale of the guider: of `cfg` 1 is the conditional model, 0 the unconditional one.
    """

    method: GridSearch
    guidance: float = 1.0

    less_memory: ClassVar[str] = "a smaller task.method.num_samples"

    def __post_init__(self) -> None:
        check_finite(self.guidance)

    def check(self, asked: SampleSettings) -> None:
        if asked.out is not None and not asked.out.endswith(".json"):
            raise BadInput(f"out={asked.out}: a grid's file ends in .json.")

    def run(self, asked: SampleSettings) -> Path:
        """Fit and write it; returns the file."""
        opened = open_checkpoint(asked)
        guidance = guidance_for(asked, self.guidance, opened)
        sampler = sampler_for(asked, opened.model, guidance)
        settings = {"sampler": asked.sampler, "grid": asked.task["method"], **guidance.facts}
        facts = {**settings, "weights": opened.weights, "checkpoint_sha256": opened.sha256}
        name = f"{type(sampler).__name__.lower()}_steps{sampler.steps}_{opened.weights}_{short_hash(facts)}.json"
        out = opened.new_path(asked, "grids", name)
        total = self.method.num_samples * (2 * self.method.fine + (self.method.runs + 2) * sampler.steps)
        with Interruption() as interruption, progress.bar("grid", total, unit="call") as bar:
            grid = self._fitted(sampler, opened, guidance, Work(bar, interruption))
            record = {
                "lam": grid.lam,
                "distance": grid.distance,
                "distance_before": grid.before,
                "fitted_distance": grid.fitted,
                "fitted_distance_before": grid.fitted_before,
                "chosen": grid.chosen,
                **facts,
                "checkpoint": str(opened.path.resolve()),
            }
            write_json(out, record)
        if grid.chosen != self.method.name:
            console().print(
                f"The file holds the grid {grid.chosen}: with this sampler it ends nearer to the reference "
                f"({grid.fitted:.4g}) than the grid of {self.method.name} ({grid.found:.4g})."
            )
        console().print(
            f"RMS distance to the reference, of other starts than those that chose the grid: {grid.distance:.4g}, "
            f"{grid.before:.4g} on the sampler's own grid; of those {grid.fitted:.4g}, {grid.fitted_before:.4g} "
            f"(n = {self.method.num_samples} each, weights {opened.weights}): {out}\n"
            f"use, with this sampler: {_use(sampler, out)}"
        )
        return out

    def _fitted(self, sampler: Sampler, opened: Opened, guidance: Guidance, work: Work) -> Grid:
        """The grid."""
        denoiser = opened.model.denoiser.to(opened.device)
        index = torch.arange(self.method.num_samples, device=opened.device)
        try:
            denoise = opened.model.bound(index, guidance)
        except ValueError as error:
            raise BadInput(str(error)) from None
        try:
            return self.method(
                sampler,
                denoise,
                denoiser.schedule,
                opened.model.shape,
                opened.device,
                lambda moment: work.done(self.method.num_samples),
            )
        except ValueError as error:
            raise BadInput(f"task=fit_grid: {error}") from None


def _use(sampler: Sampler, out: Path) -> str:
    """The options with which it takes the file, and ends as it did."""
    steps = f"sampler.steps={sampler.steps}"
    if not sampler.spacing.end_is_step:
        path = override("sampler.spacing.spacing.path", out)
        return f"spacing@sampler.spacing=denoise_to_zero spacing@sampler.spacing.spacing=from_file {path} {steps}"
    options = f"spacing@sampler.spacing=from_file {override('sampler.spacing.path', out)} {steps}"
    if not sampler.spacing.to_clean:
        return f"{options} sampler.spacing.to_clean=false"
    return f"{options}, or {override('evaluation.samplers', [f'<name>@{out}'])}"
