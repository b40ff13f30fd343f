"""Guidance as a value, and denoisers bound to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Denoiser, Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance.branches import Branches
from denoiselab.guidance.classifier_free import ClassifierFree
from denoiselab.guidance.guider import Guider, State
from denoiselab.networks.conditioning import Conditioning
from denoiselab.samplers import Sampler, Tally
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


@dataclass(frozen=True)
class Guidance:
    """How a denoiser is guided: the scale and the rule.

    Args:
        scale: In the rule's convention; 1 is the conditional model unless the rule says otherwise.
        guider: The rule; classifier-free guidance by default.

    Raises:
        ValueError: If the scale is no finite number.
    """

    scale: float = 1.0
    guider: Guider = field(default_factory=ClassifierFree)

    def __post_init__(self) -> None:
        scale: object = self.scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
            raise BadInput(f"guidance={scale!r}: it must be a finite number.")
        object.__setattr__(self, "scale", float(scale))

    @property
    def acts(self) -> bool:
        """Whether samples are not simply the conditional model's."""
        return self.scale != self.guider.neutral

    @property
    def facts(self) -> dict[str, Any]:
        """The part of a protocol that it adds: `guidance`, and `guider` where it acts and is not the plain rule."""
        return {"guidance": self.scale, **self.rule}

    @property
    def rule(self) -> dict[str, Any]:
        """`guider` with its facts, where it acts and is not the plain rule."""
        named = self.guider.facts
        return {"guider": named} if self.acts and named != ClassifierFree().facts else {}

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether it made the samples of a record."""
        facts = self.facts
        return all(record.get(key) == facts.get(key) for key in ("guidance", "guider"))

    def check(self, sampler: Sampler, schedule: Schedule, steps: int | None = None) -> None:
        """Refuse a sampler with which the rule does not work.

        Args:
            sampler: Of the run.
            schedule: Along which it samples.
            steps: Instead of its own number.

        Raises:
            ValueError: As in `Guider.check_sampler`, or if the sampler was fitted with other guidance.
        """
        if sampler.fitted is not None:
            sampler.fitted.check_guidance(self.facts)
        plain = self.scale == 0 and self.guider.other_alone and self.guider.interval is None
        if self.acts and not plain:
            self.guider.check_sampler(sampler, schedule, steps)


class Guided:
    """A denoiser that a guider guides in one run.

    The order is: the two predictions, the rule, its rescaling. A classifier or a likelihood acts on the result
    (`Drawing.steer`), and a sampler's threshold on that.

    Args:
        guidance: The scale and the rule.
        branches: The predictions that are combined.
        channels: The first so many channels are guided, the others are the conditional model's; None for all. DiT's
            `forward_with_cfg` guides 3 of 4 (https://github.com/facebookresearch/DiT, models.py).
    """

    def __init__(self, guidance: Guidance, branches: Branches, channels: int | None = None) -> None:
        self._scale, self._guider = guidance.scale, guidance.guider
        self._branches, self._channels, self._state = branches, channels, State()

    def __copy__(self) -> Guided:
        """One that goes on from the same place of the run, with a memory of its own."""
        other = Guided.__new__(Guided)
        other.__dict__ |= self.__dict__
        other._state = copy.copy(self._state)
        return other

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        guider, begun = self._guider, level.step or level
        self._state.enter(begun)
        scale, on = guider.scale_at(self._scale, level, x), guider.acts(begun)
        alone = not isinstance(scale, Tensor) and scale == guider.neutral
        if on is False or alone:
            return self._branches.cond(x, level)
        still = guider.still(x, level, self._state)
        if still is not None:
            return still
        plain = not isinstance(scale, Tensor) and scale == 0 and guider.other_alone
        if plain and self._channels is None and on is True:
            return self._branches.other(x, level)
        cond, other = self._branches.both(x, level)
        guided = self._of_channels(level, cond, other, scale)
        if isinstance(on, Tensor):
            guided = _where(on, guided, cond)
        return guided._replace(variance=cond.variance)

    def _of_channels(self, level: Level, cond: Prediction, other: Prediction, scale: float | Tensor) -> Prediction:
        k = self._channels
        if k is None:
            return self._guider.guided(level, cond, other, scale, self._state)
        first, second = (Prediction(one.x0[:, :k], one.eps[:, :k]) for one in (cond, other))
        guided = self._guider.guided(level, first, second, scale, self._state)
        x0, eps = (torch.cat((a, b[:, k:]), dim=1) for a, b in ((guided.x0, cond.x0), (guided.eps, cond.eps)))
        added = None if guided.renoise is None else torch.cat((guided.renoise, cond.eps[:, k:]), dim=1)
        return Prediction(x0, eps, renoise=added)


def bind(
    denoiser: Denoiser,
    cond: Conditioning,
    null: Conditioning,
    guidance: Guidance = Guidance(),
    tally: Tally | None = None,
    channels: int | None = None,
) -> Denoise:
    """A denoiser with its conditioning bound, and guided, for one run: bind again for another.

    Args:
        denoiser: For guidance, trained with the condition dropped at times.
        cond: The batch's conditioning.
        null: The null condition, with the same fields.
        guidance: The scale and the rule.
        tally: Counts the evaluations; None for a tally that nobody reads.
        channels: As in `Guided`.

    Raises:
        ValueError: As in `Guider.check`.
    """
    guidance.guider.check(guidance.scale, cond, null)
    branches = guidance.guider.branches(denoiser, cond, null, Tally() if tally is None else tally)
    return Guided(guidance, branches, channels)


def _where(on: Tensor, guided: Prediction, cond: Prediction) -> Prediction:
    """The guided predictions of the samples `on` `(B,)`, and the conditional ones of the others."""
    rows = like(on, guided.x0).bool()
    x0, eps = (torch.where(rows, a, b) for a, b in ((guided.x0, cond.x0), (guided.eps, cond.eps)))
    added = None if guided.renoise is None else torch.where(rows, guided.renoise, cond.eps)
    return Prediction(x0, eps, renoise=added)
