"""A solver fitted to a checkpoint, as a file that any run can name."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from denoiselab import progress
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks.task import (
    Opened,
    Task,
    Work,
    check_finite,
    check_ranges,
    check_seed,
    guidance_for,
    open_checkpoint,
    sampler_for,
)
from denoiselab.console import console
from denoiselab.denoiser import Denoise
from denoiselab.errors import BadInput
from denoiselab.files import atomic, read_json, write_json
from denoiselab.guidance import Guidance
from denoiselab.model import Model, digest
from denoiselab.samplers import DDIM, Sampler
from denoiselab.samplers.fitting import GridSearch, Solver, SolverFit, solver_of
from denoiselab.samplers.fitting.fit import Recomputed
from denoiselab.samplers.fitting.solvers import Batch, mean_rms
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.transfer import Lam
from denoiselab.training.interruption import Interruption


@dataclass(kw_only=True)
class FitSolver(Task):
    """Fit a solver to the model and the sampler's number of steps, and write it to a new file.

    The levels of its states are those of a grid, which stay as they are: of one fitted to the sampler, and of one
    fitted to DDIM, that with which the first part of the fit ends nearer. What is done is kept beside the file until it
    is written: the same command goes on where it was stopped, and finds the same.

    Args:
        method: How the grids are fitted; a choice of task/method. None for the sampler's own grid alone.
        guidance: Scale of the guider: of `cfg` 1 is the conditional model, 0 the unconditional one.
        num_samples: Starts that it is fitted on; as many more choose it and measure the result.
        iterations: Of the fit of all numbers together.
        batch_size: Starts of an iteration, and of a network call.
        history: Predictions that a step combines.
        fine: Steps of the run whose end is the target, by DPM-Solver++(3M), about.
        rate: Of Adam.
        seed: Of the starts.
        recompute: Whether the backward pass computes activations again, one call at a time, instead of storing all.
    """

    method: GridSearch | None = None
    guidance: float = 1.0
    num_samples: int = 512
    iterations: int = 300
    batch_size: int = 64
    history: int = 3
    fine: int = 128
    rate: float = 0.005
    seed: int = 0
    recompute: bool = True

    less_memory: ClassVar[str] = "a smaller task.batch_size"

    def __post_init__(self) -> None:
        check_finite(self.guidance)
        check_seed(self.seed)
        check_ranges(2, num_samples=self.num_samples)
        self._fit = SolverFit(
            self.num_samples, self.iterations, self.batch_size, self.history, self.fine, self.rate, self.seed
        )

    def check(self, asked: SampleSettings) -> None:
        if asked.out is not None and not asked.out.endswith(".json"):
            raise BadInput(f"out={asked.out}: a solver's file ends in .json.")

    def run(self, asked: SampleSettings) -> Path:
        """Fit and write it; returns the file."""
        opened = open_checkpoint(asked)
        guidance = guidance_for(asked, self.guidance, opened)
        sampler = sampler_for(asked, opened.model, guidance)
        try:
            bases = [solver_of(sampler, opened.model.denoiser.schedule)]
            opened.model.bound(torch.arange(1), guidance)
        except ValueError as error:
            raise BadInput(f"task=fit_solver: {error}") from None
        steps = len(bases[0].asked)
        options = {name: value for name, value in self.options(asked).items() if name not in ("recompute", "guidance")}
        facts = {"sampler": asked.sampler, "fit": options, **guidance.facts, "weights": opened.weights}
        of_model = {**facts, "checkpoint_sha256": opened.sha256}
        name = f"{type(sampler).__name__.lower()}_steps{steps}_{opened.weights}_{short_hash(of_model)}.json"
        out = opened.new_path(asked, "solvers", name)
        # The file is of all that the numbers depend on: another command does not go on from this one's.
        folder = out.parent / f".{out.stem}.{short_hash(of_model)}.partial"
        model = opened.model.denoiser.to(opened.device)
        advice = "stopped; the same command goes on from here."
        with Interruption(advice) as interruption, _frozen(model), opened.model.evaluating():
            job = _Job(opened, guidance, self._fit, folder, interruption)
            rules = [] if self.method is None else [sampler]
            if rules and not isinstance(sampler, DDIM):
                rules.append(DDIM(sampler.spacing, sampler.steps))
            total = self._told(job, len(rules), steps)
            with progress.bar("fit_solver", total, unit="call") as bar:
                work = Work(bar, interruption)
                if self.method is not None:
                    bases = [_on_grid(self.method, job, rule, work) for rule in rules]
                record = self._record(job, bases, work)
        write_json(
            out, {**record, **of_model, "weights_sha256": digest(model), "checkpoint": str(opened.path.resolve())}
        )
        shutil.rmtree(folder, ignore_errors=True)
        console().print(
            f"RMS distance to the fine run of {steps} network calls {record['distance']:.4g}, "
            f"{record['distance_before']:.4g} of {type(sampler).__name__} on its grid, of starts that it was not "
            f"fitted to (n = {record['distance_n']}, weights {opened.weights}): {out}\n"
            f"use: sampler=fitted {override('sampler.path', out)}, or "
            f"{override('evaluation.samplers', [f'fitted@{out}'])}"
        )
        return out

    def _record(self, job: _Job, bases: list[Solver], work: Work) -> dict[str, Any]:
        """The numbers of the solver that was found, and its distances."""
        model, fit = job.opened.model, self._fit
        schedule, parts = model.denoiser.schedule, fit.parts()
        batches = [job.batch(number, bases, *part, work) for number, part in enumerate(parts)]
        trained = replace(model, denoiser=Recomputed(model.denoiser)) if self.recompute else model
        found = fit(bases, schedule, job.bind(trained), batches, work.done, job.read("fit"), job.writer("fit"))
        fresh = fit.split(batches)[2]
        after, before = (mean_rms(one, schedule, job.bind(model), fresh, work.done) for one in (found.solver, bases[0]))
        work.finish()
        levels = found.solver.levels
        noisy = [level for level in levels if level.sigma > 0]
        rows = found.solver.coefficients.tolist()
        return {
            "lam": [max(float(level.lam), -100.0) for level in noisy],
            "to_clean": len(noisy) < len(levels),
            "asked": found.solver.asked.tolist(),
            "coefficients": [
                row[: 2 + max((j for j in range(k + 1) if row[j + 1]), default=0)] for k, row in enumerate(rows)
            ],
            "distance": after,
            "distance_before": before,
            "fitted_distance": found.distance,
            "distance_n": sum(len(batch.numbers) for batch in fresh),
            "iteration": found.iteration,
        }

    def _told(self, job: _Job, grids: int, steps: int) -> int:
        """Say what it will cost; returns the number of network calls."""
        calls = {} if self.method is None else {"the grids": grids * _of_grid(self.method, steps)}
        calls |= self._fit.calls(steps, grids or 1)
        total, seconds = sum(calls.values()), job.seconds_of_a_row(recompute=self.recompute)
        expected = (total - calls["the gradients"]) * seconds[0] + calls["the gradients"] * seconds[1]
        double = " (of guidance, each of two evaluations)" if job.guidance.acts else ""
        console(stderr=True).print(
            f"fit_solver: {total:,} network calls{double}: "
            + ", ".join(f"{count:,} of {what}" for what, count in calls.items())
            + f"; about {_duration(expected)} on this device"
            + ("; goes on from where it was stopped." if job.begun else ".")
        )
        return total


class _Job(NamedTuple):
    """A fit, and the files that it goes on from."""

    opened: Opened
    guidance: Guidance
    fit: SolverFit
    folder: Path
    interruption: Interruption

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.folder.is_dir()

    def bind(self, model: Model) -> Callable[[Tensor], Denoise]:
        """The denoisers of samples `(B,)`."""
        return lambda numbers: model.bound(numbers.to(self.opened.device), self.guidance)

    def read(self, name: str) -> Any:
        """What was written by that name; None if there is none, or it is damaged."""
        with contextlib.suppress(Exception):
            return torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        return None

    def writer(self, name: str) -> Callable[[Any], None]:
        """Writes plain containers of tensors by that name."""

        def write(content: Any) -> None:
            with atomic(self.folder / f"{name}.pt") as file:
                torch.save(content, file)

        return write

    def batch(self, number: int, bases: list[Solver], numbers: Tensor, states: bool, work: Work) -> Batch:
        """Some starts with the fine run from them, read or made."""
        device, model, name = self.opened.device, self.opened.model, f"starts_{number:04d}"
        kept = self.read(name)
        if kept is None:
            index = numbers.to(device)
            made = self.fit.batch(
                index, bases, model.denoiser.schedule, model.shape, self.bind(model)(index), work.done, states=states
            )
            kept = [state.cpu() for state in made.states]
            self.writer(name)(kept)
        else:
            work.done(len(numbers) * self.fit.fine)
        return Batch(numbers.to(device), [state.to(device) for state in kept])

    def seconds_of_a_row(self, *, recompute: bool) -> tuple[float, float]:
        """Seconds of a network call of one sample, without and with its gradient."""
        model = self.opened.model
        numbers = torch.arange(min(self.fit.batch_size, self.fit.num_samples), device=self.opened.device)
        schedule = model.denoiser.schedule
        level = schedule.level(torch.tensor((schedule.t_min + schedule.t_max) / 2, dtype=torch.float64))
        x, times = torch.randn(len(numbers), *model.shape, device=self.opened.device), []
        for differentiated in (False, False, True):
            start = time.perf_counter()
            with torch.set_grad_enabled(differentiated):
                out = self.bind(model)(numbers)(x.requires_grad_(differentiated), level).x0.sum()
                if differentiated:
                    out.backward()
                out.item()
            times.append((time.perf_counter() - start) / len(numbers))
        return times[1], times[2] + (times[1] if recompute else 0)


def _of_grid(method: GridSearch, steps: int) -> int:
    """Network calls of a search of a grid, about."""
    return method.num_samples * (2 * method.fine + (method.runs + 2) * steps)


def _on_grid(method: GridSearch, job: _Job, sampler: Sampler, work: Work) -> Solver:
    """The sampler on the grid that the method finds, as a table; the grid is read where it was found before."""
    opened, path = job.opened, job.folder / f"grid_{type(sampler).__name__.lower()}.json"
    schedule, before = opened.model.denoiser.schedule, work.bar.n
    try:
        lam = read_json(path)["lam"]
    except (OSError, ValueError, KeyError):
        denoise = job.bind(opened.model)(torch.arange(method.num_samples))
        try:
            grid = method(
                sampler, denoise, schedule, opened.model.shape, opened.device,
                lambda moment: work.done(method.num_samples),
            )  # fmt: skip
        except ValueError as error:
            raise BadInput(f"task=fit_solver: {error}") from None
        lam = [max(value, -100.0) for value in grid.lam]
        write_json(path, {"lam": lam})
    work.done(max(0, before + _of_grid(method, len(sampler.grid(schedule)) - 1) - work.bar.n))
    clean = sampler.grid(schedule)[-1].is_end
    on_grid = replace(sampler, spacing=Listed(lam, Lam(), to_clean=clean), steps=len(lam) - (not clean))
    return solver_of(on_grid, schedule)


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Within it no gradient of a weight is computed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
