"""The loss of a checkpoint by noise level, with its protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from denoiselab.app.building.loaded import protocol, split_of
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation.level_losses import FOLDER, LOSSES_FILE, level_losses
from denoiselab.files import write_text

# Samples of the data where no number is given, if there are as many.
_MOST = 2048


@dataclass(kw_only=True)
class MeasureLosses(task.Task):
    """Measure the loss on data at fixed noise levels, and write it with its protocol to a new folder.

    Args:
        split: The data, `held_out` or `train`.
        num_samples: Number of samples of the data, at least 2; null for all, or the first 2,048.
        batch_size: Samples a network call; it does not change the result.
        seed: Of the noise.
    """

    split: Literal["held_out", "train"] = "held_out"
    num_samples: int | None = None
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        task.check_ranges(2, num_samples=self.num_samples)  # for a standard error
        task.check_ranges(batch_size=self.batch_size)
        task.check_seed(self.seed)

    def run(self, asked: SampleSettings) -> Path:
        """Measure, write `losses.json`, and print the losses; pages of the run that are written later show them."""
        opened = task.open_checkpoint(asked)
        train, held_out = opened.loaded.data()
        data = split_of(train, held_out, opened.loaded.config["data"]["name"], self.split, self.num_samples or 0)
        n = min(len(data), self.num_samples or _MOST)
        name = f"{self.split}_{opened.weights}_seed{self.seed}_n{n}_{short_hash([opened.sha256])}"
        out = opened.new_path(asked, FOLDER, name)
        opened.model.denoiser.to(opened.device)
        with task.working(out, "losses", n) as (partial, work):
            profile = level_losses(
                opened.model, data, n, self.batch_size, seed=self.seed, check=lambda index: work.done(len(index))
            )
            if not profile.levels:
                raise BadInput("task=losses: the schedule of this model has none of the levels, half log-SNR -4 to 3.")
            record = {
                **profile.record(),
                "seed": self.seed,
                **protocol(opened.loaded, opened.path, opened.sha256, opened.weights, data, self.split),
            }
            write_text(partial / LOSSES_FILE, json.dumps(record, indent=1))
        for level in profile.levels:
            console().print(f"half log-SNR {level.lam:+g}: {level.value:.4g} +- {level.standard_error or 0:.2g}")
        console().print(
            f"mean {profile.value:.4g} +- {profile.standard_error or 0:.2g}, n = {n} of {self.split}, weights "
            f"{opened.weights}: {out}"
        )
        if out.absolute().parent == (opened.home / FOLDER).absolute():
            console().print(
                f"A page that is written from now on shows it: python -m denoiselab.report 'runs=[{opened.home}]'"
            )
        return out
