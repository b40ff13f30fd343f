"""Grids fitted to a model and a sampler, against a fine reference run from the same starts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

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

# Least half log-SNR of a grid's second level, on a schedule that starts at pure noise.
_LEAST_LAM = -5.0


class Reference(NamedTuple):
    """A fine run.

    Args:
        levels: K levels from the noisiest on, without clean data.
        x: `(K, B, *)`, the states at the levels.
        x0: `(K, B, *)`, the predictions at the levels.
        end: `(B, *)`, the last state.
    """

    levels: list[Level]
    x: Tensor
    x0: Tensor
    end: Tensor


class Problem(NamedTuple):
    """The input of a search.

    Args:
        schedule: Path of the sampler.
        reference: The fine run.
        own: The noisy levels of the sampler's own grid; the search returns as many.
        tail: What follows them: clean data, or nothing.
        distance: Mean RMS distance of the sampler's end on a grid, with `tail`, to the reference's.
        first_lam: `first_lam` of the sampler's own `Spacing`.
    """

    schedule: Schedule
    reference: Reference
    own: Sequence[Level]
    tail: list[Level]
    distance: Callable[[Sequence[Level]], float]
    first_lam: float | None


class Grid(NamedTuple):
    """The result of a search.

    Args:
        lam: Half log-SNRs of its noisy levels, from noise to data; pure noise is minus infinity.
        distance: Mean over the starts of the RMS distance to the reference.
        before: The distance of the sampler's own grid.
        fresh: As `distance`, of as many fresh starts: unlike `distance`, not the least of those that were tried.
        fresh_before: As `before`, of the fresh starts.
    """

    lam: list[float]
    distance: float
    before: float
    fresh: float
    fresh_before: float


class GridSearch(ABC):
    """Finds the grid of a sampler for a number of steps.

    Args:
        num_samples: Number of starts.
        fine: Steps of the reference, by DPM-Solver++(3M).
        seed: Of the starts.

    Raises:
        ValueError: If num_samples < 1 or fine < 16.

    Attributes:
        runs: Approximate number of runs of the sampler.
    """

    runs = 2

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
        first_lam = sampler.spacing.first_lam
        fine = UniformLogSNR(first_lam=first_lam)(schedule, self.fine)

        def of_starts(first: int) -> tuple[Reference, Callable[[Sequence[Level]], float]]:
            noise = Noise(self.seed, _FIRST_INDEX + first + torch.arange(self.num_samples, device=device))
            reference = self.reference(
                thresholded, schedule, shape, noise, fine, clean=own[-1].is_end, check=check, dtype=dtype
            )

            def distance(levels: Sequence[Level]) -> float:
                x = sampler.run(denoise, schedule, levels, reference.x[0], noise, on_step=check)
                rms = (x - reference.end).flatten(1).square().mean(1).sqrt().mean()
                return float(rms) if bool(rms.isfinite()) else math.inf

            return reference, distance

        reference, distance = of_starts(0)
        noisy, tail = [level for level in own if level.sigma > 0], [Level.clean()] if own[-1].is_end else []
        found, best = self.search(Problem(schedule, reference, noisy, tail, distance, first_lam))
        fresh = of_starts(self.num_samples)[1]
        return Grid([float(level.lam) for level in found], best, distance(own), fresh([*found, *tail]), fresh(own))

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
    def search(self, problem: Problem) -> tuple[list[Level], float]:
        """The noisy levels and their distance."""


class LocalErrors(GridSearch):
    """The grid with the least sum of local errors, by dynamic programming over the levels of the reference.

    The error of a step is that of DDIM from the reference's state, relative to the scale of the noisy state, so that
    errors of all levels count equally at the end. It needs the calls of the reference only.

    Source: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, arXiv 2405.11326, section 4,
    with this unit of the error; Watson et al., arXiv 2106.03802, for the programme.
    """

    def search(self, problem: Problem) -> tuple[list[Level], float]:
        clean, reference = bool(problem.tail), problem.reference
        path = _shortest(_step_errors(reference, clean=clean), len(problem.own), clean=clean)
        found = [reference.levels[i] for i in path]
        return found, problem.distance([*found, *problem.tail])


class NearestEnd(LocalErrors):
    """The grid with which the sampler ends nearest to the reference.

    The best of `LocalErrors`'s grid and the usual ones is improved by scipy's Powell method, a derivative-free line
    search, over the gaps between levels.

    Source: the target is that of Tong et al., Learning to Discretize Denoising Diffusion ODEs, arXiv 2405.15506.

    Args:
        evaluations: Maximum number of runs of the sampler.
    """

    def __init__(self, num_samples: int = 64, fine: int = 128, seed: int = 0, evaluations: int = 300) -> None:
        super().__init__(num_samples, fine, seed)
        if evaluations < 1:
            raise ValueError(f"evaluations={evaluations}: it must be at least 1.")
        self.evaluations = evaluations
        self.runs = evaluations + 10

    def search(self, problem: Problem) -> tuple[list[Level], float]:
        from scipy.optimize import minimize

        schedule, reference, own, tail, distance, first_lam = problem
        starts = [super().search(problem)[0], list(own)]
        usual: list[Spacing] = [UniformLogSNR(), Karras(), PowerTime(1.0), PowerTime(2.0), PowerTime(3.0)]
        for spacing in usual:
            spacing.to_clean, spacing.first_lam = bool(tail), first_lam
            starts.append([level for level in spacing(schedule, len(own) - 1 + len(tail)) if level.sigma > 0])
        scores = [distance([*levels, *tail]) for levels in starts]
        best = min(range(len(starts)), key=scores.__getitem__)
        knots = _Knots(schedule, starts[best], reference.levels[-1], free_end=bool(tail))

        def cost(gaps: Any) -> float:
            value = distance([*knots.levels(gaps), *tail])
            return math.log(value) if value > 0 else -100.0

        result = minimize(cost, knots.start, method="Powell", options={"maxfev": self.evaluations, "xtol": 1e-2})
        improved = knots.levels(result.x)
        return min(((starts[best], scores[best]), (improved, distance([*improved, *tail]))), key=lambda pair: pair[1])


class _Knots:
    """A grid in terms of the logarithms of its gaps in half log-SNR: any numbers make one. Its first level is fixed.

    Args:
        schedule: Of the levels.
        levels: The grid to start with.
        last: The schedule's last level.
        free_end: Whether the last knot may lie before it.
    """

    def __init__(self, schedule: Schedule, levels: Sequence[Level], last: Level, *, free_end: bool) -> None:
        self._schedule, self._first, self._free_end = schedule, levels[0], free_end
        lam = [float(level.lam) for level in levels]
        # Pure noise has no finite log-SNR: the first gap begins at a level of almost no signal.
        self._low = lam[0] if math.isfinite(lam[0]) else min(_LEAST_LAM, *lam[1:]) - 1
        self._span = float(last.lam) - self._low
        ends = [self._low, *lam[1:], *([max(float(last.lam), lam[-1] + 1e-3 * self._span)] if free_end else [])]
        gaps = [b - a for a, b in pairwise(ends)]
        self.start = [math.log(gap / gaps[0]) for gap in gaps[1:]]

    def levels(self, gaps: Sequence[float]) -> list[Level]:
        """The grid."""
        weights = torch.tensor([0.0, *gaps], dtype=torch.float64).softmax(0)
        lam = self._low + self._span * weights.cumsum(0)
        return [self._first, *self._schedule.at(lam[:-1] if self._free_end else lam).unbind()]


def _step_errors(reference: Reference, *, clean: bool) -> Tensor:
    """The error of DDIM's step from each level to each later one, `(K, K)` or with clean data `(K, K + 1)`."""
    count = len(reference.levels)
    out = torch.full((count, count + 1), math.inf, dtype=torch.float64)
    for i, here in enumerate(reference.levels):
        x, x0 = reference.x[i], reference.x0[i]
        eps = (x - float(here.alpha) * x0) / float(here.sigma)
        for j, there in enumerate(reference.levels[i + 1 :], start=i + 1):
            moved = float(there.alpha) * x0 + float(there.sigma) * eps
            scale = math.hypot(float(there.alpha), float(there.sigma))
            out[i, j] = _rms(moved - reference.x[j]) / scale
        out[i, count] = _rms(x0 - reference.end)
    return out if clean else out[:, :count]


def _rms(x: Tensor) -> float:
    return float(x.flatten(1).double().square().mean(1).sqrt().mean())


def _shortest(errors: Tensor, count: int, *, clean: bool) -> list[int]:
    """The `count` noisy levels, the first among them, of the path of least sum to the last column."""
    steps = count if clean else count - 1
    best = torch.full((errors.shape[1],), math.inf, dtype=torch.float64)
    best[0] = 0
    before: list[Tensor] = []
    for _ in range(steps):
        costs = best[: len(errors), None] + errors
        best, choice = costs.min(0)
        before.append(choice)
    at, path = errors.shape[1] - 1, []
    for choice in reversed(before):
        at = int(choice[at])
        path.append(at)
    return [*reversed(path), *([] if clean else [errors.shape[1] - 1])]
