"""Grids fitted to a model and a sampler, against a fine reference run from the same starts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers import DPMSolverPP, Moment, Sampler
from denoiselab.samplers.spacing import Karras, PowerTime, Spacing, UniformLogSNR
from denoiselab.schedules import Level, Schedule

Check = Callable[[object], None]

# Index of the first start, above the indices of all samples.
_FIRST_INDEX = 2**40


class Reference(NamedTuple):
    """A fine run.

    Attributes:
        levels: K levels from the noisiest on, without clean data.
        x: `(K, B, *)`, the states at the levels.
        x0: `(K, B, *)`, the predictions at the levels.
        end: `(B, *)`, the last state.
    """

    levels: list[Level]
    x: Tensor
    x0: Tensor
    end: Tensor


class Scored(NamedTuple):
    """A grid and how near the sampler ends on it.

    Attributes:
        name: What chose it: `own` is the sampler's own grid.
        levels: Its noisy levels.
        distance: Mean RMS distance of the sampler's end to the reference's.
    """

    name: str
    levels: Sequence[Level]
    distance: float


class Problem(NamedTuple):
    """The input of a search.

    Attributes:
        schedule: Path of the sampler.
        reference: The fine run.
        known: The sampler's own grid, the first, and the usual ones; the search returns as many noisy levels.
        clean: Whether clean data follow the noisy levels.
        distance: Mean RMS distance of the sampler's end on noisy levels, and what follows, to the reference's.
    """

    schedule: Schedule
    reference: Reference
    known: list[Scored]
    clean: bool
    distance: Callable[[Sequence[Level]], float]


class Grid(NamedTuple):
    """The result of a search.

    Attributes:
        lam: Half log-SNRs of its noisy levels, from noise to data; pure noise is minus infinity.
        distance: Mean RMS distance to the reference over as many other starts as those that chose the grid.
        before: As `distance`, of the sampler's own grid.
        fitted: As `distance`, over the starts that chose the grid: the least of those that were tried.
        fitted_before: As `fitted`, of the sampler's own grid.
        chosen: Name of the grid: of the search, of a usual one, or `own`, if that is nearer with this sampler.
        found: As `fitted`, of the grid that the search found, chosen or not.
    """

    lam: list[float]
    distance: float
    before: float
    fitted: float
    fitted_before: float
    chosen: str
    found: float


def usual_grids(
    schedule: Schedule, count: int, first_lam: float | None, *, to_clean: bool
) -> dict[str, Sequence[Level]]:
    """The `count` noisy levels of grids that any fitted one is compared with, by their names in `conf/spacing`."""
    grids: dict[str, Spacing] = {
        "uniform_log_snr": UniformLogSNR(),
        "karras": Karras(),
        "uniform_time": PowerTime(1.0),
        "quadratic": PowerTime(2.0),
        "power_time": PowerTime(3.0),
    }
    for grid in grids.values():
        grid.to_clean, grid.first_lam = to_clean, first_lam
    return {name: grid.levels(schedule, count).unbind() for name, grid in grids.items()}


class GridSearch(ABC):
    """Finds the grid of a sampler for a number of steps: the nearest of its own, the usual ones and one searched for.

    Nearest is decided with the sampler itself, so that a search that minimises another error cannot make it worse.

    Args:
        num_samples: Number of starts.
        fine: Steps of the reference, by DPM-Solver++(3M).
        seed: Of the starts.

    Raises:
        ValueError: If num_samples < 1 or fine < 16.

    Attributes:
        runs: Approximate number of runs of the sampler.
        name: Of the grids that it finds.
    """

    runs = 7
    name: str

    def __init__(self, num_samples: int = 64, fine: int = 128, seed: int = 0) -> None:
        for name, value, least in (("num_samples", num_samples, 1), ("fine", fine, 16)):
            if value < least:
                raise ValueError(f"{name}={value}: it must be at least {least}.")
        self.num_samples, self.fine, self.seed = num_samples, fine, seed

    def __call__(
        self,
        sampler: Sampler,
        denoise: Denoise,
        schedule: Schedule,
        shape: Sequence[int],
        device: torch.device,
        check: Check = lambda moment: None,
        dtype: torch.dtype = torch.float32,
    ) -> Grid:
        """The best grid found with the sampler's own number of steps.

        Args:
            sampler: Deterministic and not adaptive.
            denoise: A denoiser with its conditioning bound, for `num_samples` samples.
            schedule: Path of the sampler.
            shape: Of one sample.
            device: Of the samples.
            check: Called after each step; an exception stops the search.
            dtype: Of the samples.

        Raises:
            ValueError: If the sampler is stochastic or adaptive, or has more than `fine` / 4 steps.
        """
        if sampler.stochastic or sampler.adaptive:
            raise ValueError(f"sampler={type(sampler).__name__}: it must be deterministic and not adaptive.")
        if len(own := sampler.grid(schedule)) < 3:
            raise ValueError(f"steps={len(own) - 1}: it must be at least 2.")
        if len(own) - 1 > self.fine // 4:
            raise ValueError(f"steps={len(own) - 1}: it must be at most fine / 4 = {self.fine // 4}.")
        thresholded = denoise if sampler.threshold is None else sampler.threshold.wrap(denoise)
        first_lam, noisy = sampler.spacing.first_lam, [level for level in own if level.sigma > 0]
        fine, tail = UniformLogSNR(first_lam=first_lam)(schedule, self.fine), [Level.clean()] if own[-1].is_end else []

        def of_starts(first: int) -> tuple[Reference, Callable[[Sequence[Level]], float]]:
            noise = Noise(self.seed, _FIRST_INDEX + first + torch.arange(self.num_samples, device=device))
            reference = self.reference(
                thresholded, schedule, shape, noise, fine, clean=bool(tail), check=check, dtype=dtype
            )

            def distance(levels: Sequence[Level]) -> float:
                x = sampler.run(denoise, schedule, [*levels, *tail], reference.x[0], noise, on_step=check)
                rms = (x - reference.end).flatten(1).square().mean(1).sqrt().mean()
                return float(rms) if bool(rms.isfinite()) else math.inf

            return reference, distance

        reference, distance = of_starts(0)
        tried = {"own": noisy, **usual_grids(schedule, len(noisy), first_lam, to_clean=bool(tail))}
        known = [Scored(name, levels, distance(levels)) for name, levels in tried.items()]
        levels = self.search(Problem(schedule, reference, known, bool(tail), distance))
        found = Scored(self.name, levels, distance(levels))
        best = min((found, *known), key=lambda grid: grid.distance)
        fresh = of_starts(self.num_samples)[1]
        return Grid(
            [float(level.lam) for level in best.levels],
            *(fresh(best.levels), fresh(noisy), best.distance, known[0].distance),
            best.name,
            found.distance,
        )

    def reference(
        self, denoise: Denoise, schedule: Schedule, shape: Sequence[int], noise: Noise, levels: Sequence[Level], *,
        clean: bool, check: Check, dtype: torch.dtype,
    ) -> Reference:  # fmt: skip
        """The fine run from the first draw of the noise to clean data, or to the last noisy level."""
        start = noise.normal(shape, dtype) * float(levels[0].sigma)
        states, predictions = [start], []

        def keep(moment: Moment) -> None:
            check(moment)
            states.append(moment.x)
            predictions.append(moment.x0)

        rule = DPMSolverPP(UniformLogSNR(), self.fine, order=3, published=False)
        end = rule.run(denoise, schedule, levels, start, noise, on_step=keep)
        x = torch.stack(states[:-1])
        return Reference(list(levels[:-1]), x, torch.stack(predictions), end if clean else x[-1])

    @abstractmethod
    def search(self, problem: Problem) -> list[Level]:
        """The noisy levels."""
