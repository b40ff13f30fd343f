"""Guiders: rules that combine the conditional prediction of a batch with another one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Denoiser, Prediction
from denoiselab.errors import BadInput
from denoiselab.networks.conditioning import Conditioning
from denoiselab.samplers.observers import Tally
from denoiselab.schedules import Level
from denoiselab.variances import StepVariance


class Branches(Protocol):
    """The two predictions that a guider combines, and the count of what they cost."""

    def cond(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction at scale 1, from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        ...

    def other(self, x: Tensor, level: Level, /) -> Prediction:
        """The prediction at scale 0."""
        ...

    def both(self, x: Tensor, level: Level, /) -> tuple[Prediction, Prediction]:
        """Those at scales 1 and 0."""
        ...


@dataclass(frozen=True)
class Guider(ABC):
    """A rule that combines two predictions of one batch.

    Subclasses document the arguments that they add, and the convention of their scale.

    Args:
        split: Whether the two predictions are two calls of B rows, for small memory, instead of one of 2 B; they
            agree up to rounding.
    """

    split: bool = field(default=False, kw_only=True, repr=False)  # no result depends on it

    # The scale at which the guided prediction is the conditional one; None if there is none.
    neutral: ClassVar[float | None] = 1.0

    @abstractmethod
    def combine(self, cond: Prediction, other: Prediction, scale: float) -> Prediction:
        """The guided prediction; its variance is not used."""

    def check(self, cond: Conditioning, null: Conditioning, scale: float) -> None:
        """Refuse a scale where there is nothing to guide.

        Args:
            cond: Of samples.
            null: Of the same samples.
            scale: Of the guidance.

        Raises:
            ValueError: If the scale is not neutral and there is no condition or no null condition.
        """
        if scale == self.neutral:
            return
        if not any(field is not None for field in cond):
            raise BadInput(f"guidance={scale}: the model takes no condition, so there is nothing to guide; use 1.")
        if any(a is not None and b is None for a, b in zip(cond, null, strict=True)):
            raise BadInput(
                f"guidance={scale}: the model was trained without a null class or its like, so it has no guidance; "
                "use 1."
            )

    def branches(self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally) -> Branches:
        """The predictions with a condition and with its null, whose rows count as the network's."""
        return _Conditions(denoiser, cond, null, tally, self.split)


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
    guider: Guider = field(default_factory=lambda: ClassifierFree())

    def __post_init__(self) -> None:
        scale: object = self.scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
            raise BadInput(f"guidance={scale!r}: it must be a finite number.")
        object.__setattr__(self, "scale", float(scale))

    @property
    def facts(self) -> dict[str, Any]:
        """The part of a protocol that it adds: `guidance`, and `guider` if it is not the plain rule and acts."""
        plain = self.guider == ClassifierFree(split=self.guider.split) or self.scale == self.guider.neutral
        return {"guidance": self.scale, **({} if plain else {"guider": repr(self.guider)})}

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether it made the samples of a record."""
        return all(record.get(key) == self.facts.get(key) for key in ("guidance", "guider"))


@dataclass(frozen=True)
class ClassifierFree(Guider):
    """m = m_null + scale (m_cond - m_null), for x0 and eps alike.

    Scale 1 is the conditional model and 0 the unconditional one; the scale is Ho and Salimans' 1 + w. One call counts
    as 1 NFE and 2 network evaluations. A learned variance is the conditional model's.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, eq. 6.
    """

    def combine(self, cond: Prediction, other: Prediction, scale: float) -> Prediction:
        return Prediction(torch.lerp(other.x0, cond.x0, scale), torch.lerp(other.eps, cond.eps, scale))


class Guided:
    """A denoiser that a guider guides. It holds the state of one run.

    Args:
        guidance: The scale and the rule.
        branches: The predictions that are combined.
        channels: The first so many channels are guided, the others are the conditional model's; None for all. DiT's
            `forward_with_cfg` guides 3 of 4 (https://github.com/facebookresearch/DiT, models.py).
    """

    def __init__(self, guidance: Guidance, branches: Branches, channels: int | None = None) -> None:
        self._guidance, self._branches, self._channels = guidance, branches, channels

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        scale, guider = self._guidance.scale, self._guidance.guider
        if scale == guider.neutral:
            return self._branches.cond(x, level)
        if scale == 0 and self._channels is None:
            return self._branches.other(x, level)
        cond, other = self._branches.both(x, level)
        k = self._channels
        if k is None:
            return guider.combine(cond, other, scale)._replace(variance=cond.variance)
        first, second = (Prediction(one.x0[:, :k], one.eps[:, :k]) for one in (cond, other))
        guided = guider.combine(first, second, scale)
        x0, eps = (torch.cat((a, b[:, k:]), dim=1) for a, b in zip(guided[:2], cond[:2], strict=True))
        return Prediction(x0, eps, cond.variance)


def bind(
    denoiser: Denoiser,
    cond: Conditioning,
    null: Conditioning,
    guidance: Guidance = Guidance(),
    tally: Tally | None = None,
    channels: int | None = None,
) -> Denoise:
    """A denoiser with its conditioning bound, and guided, for one run: bind again for another.

    Scale 1, and scale 0 if all channels are guided, take one network evaluation a call.

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
    guidance.guider.check(cond, null, guidance.scale)
    branches = guidance.guider.branches(denoiser, cond, null, Tally() if tally is None else tally)
    return Guided(guidance, branches, channels)


class _Conditions:
    """The predictions of a network with a condition and with its null, in one call of a doubled batch or in two."""

    def __init__(
        self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally, split: bool = False
    ) -> None:
        self._denoiser, self._cond, self._null, self._tally, self._split = denoiser, cond, null, tally, split

    def cond(self, x: Tensor, level: Level, /) -> Prediction:
        return self._of(x, level, self._cond)

    def other(self, x: Tensor, level: Level, /) -> Prediction:
        return self._of(x, level, self._null)

    def both(self, x: Tensor, level: Level, /) -> tuple[Prediction, Prediction]:
        if self._split:
            return self.cond(x, level), self.other(x, level)
        if level.t.ndim:
            t, alpha, sigma = (torch.cat((part, part)) for part in (level.t, level.alpha, level.sigma))
            level = Level(t, alpha, sigma, level.path)
        x0, eps, variance, _ = self._of(torch.cat((x, x)), level, self._doubled)
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


def _first_half(variance: StepVariance, size: int) -> StepVariance:
    """The variance of the first `size` samples, where it differs between samples."""

    def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
        log_variance = variance(here, there, before)
        return log_variance[:size] if log_variance.ndim else log_variance

    return step
