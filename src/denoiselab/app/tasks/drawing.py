"""What tasks that draw samples share: their options, the loop over batches, and the folder that is written."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from denoiselab import progress
from denoiselab.app.building import checks
from denoiselab.app.building.analytic_moments import learn
from denoiselab.app.building.classifier_guidance import steering
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import write_text
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing, Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import OnStep, Sampler, Tally
from denoiselab.samplers.observers import mean_count
from denoiselab.schedules import Level, Schedule

# Options that the samples do not depend on, and those that the name of a folder states.
_NAMED = ("num_samples", "batch_size", "seed")


class Start(NamedTuple):
    """What a batch starts from.

    Attributes:
        samples: `(B,)` int64, the samples whose noise and condition it has.
        x_t: `(B, *)`, x_T; None for that of `samples`.
        cond: Their conditions; None for those that the conditioner gives `samples`.
        sampler: Another sampler for this batch; None for the task's.
    """

    samples: Tensor
    x_t: Tensor | None = None
    cond: Conditioning | None = None
    sampler: Sampler | None = None


@dataclass(kw_only=True)
class DrawingTask(task.Task):
    """Draws samples, and writes them with their protocol to a new folder.

    Args:
        num_samples: Number of samples.
        batch_size: Samples a network call; it does not change the samples.
        seed: Sample i is a function of (seed, i).
        guidance: Scale of the guider: of `cfg` 1 is the conditional model, 0 the unconditional one.
        format: `png`: a file a sample and a grid; `npz`: one array "images", (N, H, W, C) uint8, and a grid.
    """

    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    guidance: float = 1.0
    format: Literal["png", "npz"] = "png"

    # The folder in the run's directory where the new folder is.
    folder: ClassVar[str]

    def __post_init__(self) -> None:
        task.check_ranges(num_samples=self.num_samples, batch_size=self.batch_size)
        task.check_seed(self.seed)
        task.check_finite(self.guidance)

    @property
    def number(self) -> int:
        """Of samples that are drawn."""
        return self.num_samples

    @property
    def row(self) -> int | None:
        """Images a row of the grid; None for a square grid."""
        return None

    @property
    def noise_class(self) -> type[Noise]:
        """Of the noise in the steps."""
        return Noise

    @property
    def said(self) -> str:
        """What the last line says after the number of calls."""
        return ""

    def opened(self, opened: task.Opened, asked: SampleSettings) -> task.Opened:
        """The checkpoint as the task needs it."""
        return opened

    def check_conditions(self, model: Model) -> None:
        """Refuse a model that has no conditions for the samples."""
        checks.check_conditions(model)

    def check_sampler(self, sampler: Sampler) -> None:
        """Refuse a sampler that does not suit the task."""

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        """The sampler that the task needs in place of the one asked for; what it starts from is read and checked here.

        Raises:
            BadInput: If it cannot be used.
        """
        self.check_sampler(sampler)
        return sampler

    def facts(self) -> dict[str, Any]:
        """What the protocol says beside the options, once the samples are drawn."""
        return {}

    def draw(self, start: Start, drawing: Drawing, model: Model, on_step: OnStep) -> tuple[Tensor, Tally]:
        """The stored samples of a batch, `(B, *)` or more than one a row, and what they cost."""
        index, x_t, cond, sampler = start
        drawing = drawing if sampler is None else replace(drawing, sampler=sampler)
        return model.draw(index, drawing, on_step, start=x_t, cond=cond)

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        """Write the stored samples of all batches, and what else belongs to them."""
        medium(model.codec.shape).write_samples(folder, samples, self.format, self.row, labels)

    @abstractmethod
    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """What rows `(B,)` of all `number` samples start from."""

    def run(self, asked: SampleSettings) -> Path:
        """Draw the samples, and write them to a new folder, which is returned."""
        conditions = {} if asked.conditioner is None else asked.conditioner.given
        opened = self.opened(task.open_checkpoint(asked, conditions), asked)
        guidance = task.guidance_for(asked, self.guidance, opened)
        sampler = task.sampler_for(asked, opened.model, guidance)
        self.check_conditions(opened.model)
        checks.check_negative(opened.model, guidance)
        opened.model.denoiser.to(opened.device)
        sampler = self.prepare(asked, opened, sampler)
        checks.check_steps(sampler, opened.model, [guidance])
        steer = steering(asked.classifier_guidance, opened.loaded, opened.device)
        if steer is not None:
            steer.check_sampler(sampler, type(sampler).__name__)
        facts: dict[str, Any] = {**guidance.rule, **({} if steer is None else steer.facts), **tiles(opened.model)}
        options = {name: value for name, value in self.options(asked).items() if name not in _NAMED}
        short = short_hash([asked.sampler, opened.sha256, options, conditions, facts])
        rule = f"{type(sampler).__name__.lower()}_steps{sampler.steps}"
        name = f"{rule}_{opened.weights}_seed{self.seed}_n{self.num_samples}_{short}"
        out = opened.new_path(asked, self.folder, name)
        calls = _calls(sampler, opened.model.denoiser.schedule)
        with task.working(out, "sampling", self.number * calls, "call") as (partial, work):
            learn(sampler, opened.model, lambda: opened.loaded.data()[0], opened.home, work.check)
            samples, index, counts = self._drawn(
                Drawing(sampler, self.seed, None, guidance, self.noise_class, steer), opened, calls, work
            )
            labels = (opened.model.conditioner if steer is None else steer).described(index)
            self.write(partial, samples, opened.model, labels)
            record = {
                **{name: value for name, value in self.record(asked).items() if name != "guider"},
                "checkpoint": str(opened.path.resolve()),
                "checkpoint_sha256": opened.sha256,
                "weights": opened.weights,
                **counts,
                **({} if not guidance.acts else {"guided_channels": opened.model.conditioner.guided_channels}),
                **facts,
                **self.facts(),
            }
            write_text(partial / "samples.json", json.dumps(record, indent=1))
        spent = f"{counts['nfe']} network calls each{self.said}"
        console().print(f"{self.number} samples, {spent}, weights {opened.weights}: {out}")
        return out

    def _drawn(
        self, drawing: Drawing, opened: task.Opened, calls: int, work: task.Work
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The samples, on the CPU, whose conditions they have, and the calls and evaluations of networks of one."""
        model = opened.model
        samples, indices, counts = [], [], Counter[str]()
        for rows in torch.arange(self.number, device=opened.device).split(self.batch_size):
            start = self.start(rows, drawing.sampler, model)
            on_step = progress.Steps(work.bar, len(rows) * calls, work.check)
            drawn, tally = self.draw(start, drawing, model, on_step)
            on_step.finish()
            samples.append(drawn.cpu())
            indices.append(start.samples.cpu())
            counts.update(tally.counts)
        means = {name: mean_count(rows, self.number) for name, rows in counts.items()}
        return torch.cat(samples), torch.cat(indices), means


def _calls(sampler: Sampler, schedule: Schedule) -> int:
    """Network calls of a sample, as far as they are known before."""
    try:
        calls = 1 if sampler.adaptive else sampler.nfe(sampler.steps, schedule)
        if sampler.measurement is None:  # else the coefficients depend on the measurement
            with torch.no_grad():
                sampler.plan(schedule, sampler.grid(schedule))
    except ValueError as error:
        raise BadInput(f"sampler: {error}") from None
    return calls


def tiles(model: Model) -> dict[str, int]:
    """The side of the tiles in which latents are decoded, in the protocol; empty if they are decoded whole."""
    side = getattr(model.codec, "tile", None)
    return {} if side is None else {"decode_tile": side}


def described(level: Level) -> dict[str, float]:
    """A level in the protocol."""
    return {name: float(getattr(level, name)) for name in ("t", "alpha", "sigma", "rho")}
