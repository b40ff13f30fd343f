"""The two predictions that a guider combines, and what they cost."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, Prediction
from denoiselab.networks.conditioning import Conditioning
from denoiselab.samplers import Tally
from denoiselab.schedules import Level
from denoiselab.variances import StepVariance


class Branches(Protocol):
    """The predictions of one batch at scales 1 and 0."""

    def cond(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction at scale 1, from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        ...

    def other(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction at scale 0."""
        ...

    def both(self, x: Tensor, level: Level, /) -> tuple[Prediction, Prediction]:
        """Those at scales 1 and 0."""
        ...


class Conditions:
    """A network with a condition and with its null, in one call of a doubled batch or in two.

    Args:
        denoiser: Of the network.
        cond: The batch's conditioning.
        null: The null condition, with the same fields.
        tally: Counts the rows.
        split: Whether there are two calls.
    """

    def __init__(
        self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally, split: bool = False
    ) -> None:
        self._denoiser, self._cond, self._null, self._tally, self._split = denoiser, cond, null, tally, split

    def cond(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction with the condition."""
        return self._of(x, level, self._cond)

    def other(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction with the null condition."""
        return self._of(x, level, self._null)

    def both(self, x: Tensor, level: Level, /) -> tuple[Prediction, Prediction]:
        """Both of them; the variance is the conditional one's."""
        if self._split:
            return self.cond(x, level), self.other(x, level)
        if level.t.ndim:
            t, alpha, sigma = (torch.cat((part, part)) for part in (level.t, level.alpha, level.sigma))
            level = Level(t, alpha, sigma, level.path)
        x0, eps, variance = self._of(torch.cat((x, x)), level, self._doubled)[:3]
        variance = None if variance is None else _first_half(variance, len(x))
        (x0, null_x0), (eps, null_eps) = x0.chunk(2), eps.chunk(2)
        return Prediction(x0, eps, variance), Prediction(null_x0, null_eps)

    def _of(self, x: Tensor, level: Level, cond: Conditioning) -> Prediction:
        self._tally.add("network", len(x))
        prediction: Prediction = self._denoiser(x, level, cond)
        return prediction

    @cached_property
    def _doubled(self) -> Conditioning:
        pairs = zip(self._cond, self._null, strict=True)
        return Conditioning(*(None if a is None or b is None else torch.cat((a, b)) for a, b in pairs))


class WithGuide:
    """A network and another one that guides it, both with the same condition.

    Args:
        denoiser: Of the network.
        guide: Of the other one, on a schedule of its own.
        cond: The batch's conditioning.
        tally: Counts the rows, of each apart.
        of_guide: The guide's conditioning; None for the same.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser,
        cond: Conditioning,
        tally: Tally,
        of_guide: Conditioning | None = None,
    ) -> None:
        self._denoiser, self._guide, self._cond, self._tally = denoiser, guide, cond, tally
        self._of_guide = cond if of_guide is None else of_guide

    def cond(self, x: Tensor, level: Level, /) -> Prediction:
        """The network's prediction."""
        self._tally.add("network", len(x))
        prediction: Prediction = self._denoiser(x, level, self._cond)
        return prediction

    def other(self, x: Tensor, level: Level, /) -> Prediction:
        """The guide's prediction."""
        self._tally.add("guide", len(x))
        prediction: Prediction = self._guide(x, level, self._of_guide)
        return prediction

    def both(self, x: Tensor, level: Level, /) -> tuple[Prediction, Prediction]:
        """Both of them; the variance is the network's."""
        return self.cond(x, level), self.other(x, level)


def _first_half(variance: StepVariance, size: int) -> StepVariance:
    """The variance of the first `size` samples, where it differs between samples."""

    def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
        log_variance = variance(here, there, before)
        return log_variance[:size] if log_variance.ndim else log_variance

    return step
