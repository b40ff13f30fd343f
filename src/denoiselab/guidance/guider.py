"""The contract of guiders: rules that combine the conditional prediction of a batch with another one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance.branches import Branches, Conditions
from denoiselab.guidance.scale_schedules import ScaleSchedule
from denoiselab.guidance.spaces import Space, moved, value
from denoiselab.networks.conditioning import Conditioning
from denoiselab.samplers import Sampler, Tally
from denoiselab.samplers.checks import check_number
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like

# A level of a grid that is meant to be an end of an interval may miss it by this share.
_ROUNDING = 1e-9

# The scale of a call: a number, or one a sample, `(B, 1, ..., 1)`.
Scale = float | Tensor


class State:
    """What a run of a guider remembers.

    Attributes:
        steps: Steps of the sampler that began before the present one.
        running: A running sum of the guider, `(B, *)`; None before the first.
    """

    def __init__(self) -> None:
        self.steps, self._begun = -1, None
        self.running: Tensor | None = None

    _begun: Level | None

    def enter(self, begun: Level) -> None:
        """Note that a call belongs to the step that began at that level."""
        if begun is not self._begun:
            self.steps, self._begun = self.steps + 1, begun


@dataclass(frozen=True)
class Guider(ABC):
    """A rule that combines two predictions of one batch.

    Guiders are values: what a run must remember is in the `State` that `bind` makes. Subclasses document the arguments
    that they add, and the convention of their scale.

    Source of the interval: Kynkäänniemi et al., Applying Guidance in a Limited Interval, arXiv 2404.07724.

    Args:
        interval: (lo, hi): guidance acts in steps that begin at lo < sigma / alpha <= hi, in all of their calls; others
            are the conditional model's, with one evaluation. None for all steps. With samples on levels of their own
            (adaptive samplers) each call decides, and evaluates both predictions. If ends of the interval are levels of
            the grid, one-step samplers keep their order; multistep ones keep past predictions across the ends, and have
            order 1.
        scale_schedule: The scale as a function of the level; None for a constant.
        split: Whether the two predictions are two calls of B rows, for small memory, instead of one of 2 B; they agree
            up to rounding.

    Raises:
        ValueError: If the interval is empty.
    """

    interval: Sequence[float] | None = field(default=None, kw_only=True)
    scale_schedule: ScaleSchedule | None = field(default=None, kw_only=True)
    split: bool = field(default=False, kw_only=True, repr=False)  # no result depends on it

    # In records and labels; empty for that of the class.
    name: ClassVar[str] = ""
    # The scale at which the guided prediction is the conditional one; None if there is none.
    neutral: ClassVar[float | None] = 1.0
    # Whether predictions have a `renoise`, so that the sampler must use one.
    needs_renoise: ClassVar[bool] = False
    # Whether the strength of guidance grows with the number of steps, so that samples do not converge.
    depends_on_nfe: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.interval is None:
            return
        ends = tuple(float(end) for end in self.interval)
        if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
            given = ", ".join(f"{end:g}" for end in ends)
            raise BadInput(f"guider.interval=[{given}]: it must be [lo, hi] with 0 <= lo < hi, sigma / alpha.")
        object.__setattr__(self, "interval", ends)

    @property
    def facts(self) -> dict[str, Any]:
        """What results depend on, as JSON has it: its name, and the options that are not the default."""
        marked = {"depends_on_nfe": True} if self.depends_on_nfe else {}
        return {"name": self.name or type(self).__name__, **_plain_fields(self), **marked}

    @abstractmethod
    def guided(self, level: Level, cond: Prediction, other: Prediction, scale: Scale, state: State) -> Prediction:
        """The guided prediction; its variance is not used.

        Args:
            level: Scalar or `(B,)`.
            cond: At scale 1.
            other: At scale 0.
            scale: Of this call.
            state: Of this run.
        """

    @property
    def other_alone(self) -> bool:
        """Whether the guided prediction at scale 0 is the other one."""
        return True

    def still(self, x: Tensor, level: Level, state: State) -> Prediction | None:
        """The prediction `(B, *)` of a call that needs no evaluation; None for one that does."""
        return None

    def acts(self, begun: Level) -> bool | Tensor:
        """Whether guidance acts in a step that began at a level; a bool for each sample `(B,)` on levels `(B,)`."""
        if self.interval is None:
            return True
        lo, hi = (end * (1 + _ROUNDING) for end in self.interval)
        within = (begun.rho > lo) & (begun.rho <= hi)
        return within if within.ndim else bool(within)

    def scale_at(self, scale: float, level: Level, x: Tensor) -> Scale:
        """The scale of a call at a level, for `x` `(B, *)`."""
        if self.scale_schedule is None:
            return scale
        neutral, factor = self.neutral or 0.0, self.scale_schedule(level)
        return (
            like(neutral + (scale - neutral) * factor, x)
            if factor.ndim
            else neutral + (scale - neutral) * float(factor)
        )

    def branches(self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally) -> Branches:
        """The predictions that it combines: with a condition and with its null, whose rows count as the network's."""
        return Conditions(denoiser, cond, null, tally, self.split)

    def check(self, scale: float, cond: Conditioning, null: Conditioning) -> None:
        """Refuse a scale where there is nothing to guide.

        Args:
            scale: Of the guidance.
            cond: Of samples.
            null: Of the same samples.

        Raises:
            ValueError: If the scale is not neutral and there is no condition or no null condition.
        """
        if scale == self.neutral:
            return
        if not any(one is not None for one in cond):
            raise BadInput(f"guidance={scale:g}: the model takes no condition, so there is nothing to guide; use 1.")
        if any(a is not None and b is None for a, b in zip(cond, null, strict=True)):
            raise BadInput(
                f"guidance={scale:g}: the model was trained without a null class or its like, so it has no guidance; "
                "use 1."
            )

    def check_sampler(self, sampler: Sampler, schedule: Schedule, steps: int | None = None) -> None:
        """Refuse a sampler with which the rule does not work.

        Args:
            sampler: Of the run.
            schedule: Along which it samples.
            steps: Instead of its own number.

        Raises:
            ValueError: If no step is guided, or the sampler cannot use its predictions.
        """
        name = type(sampler).__name__
        if self.needs_renoise and not sampler.renoises:
            own = self.name or type(self).__name__
            raise BadInput(f"guider={own}: {name} adds no predicted noise to x0; use DDIM or Analytic.")
        if self.interval is not None:
            (lo, hi), levels = self.interval, sampler.grid(schedule, steps)
            begins, measurement = levels[:-1], sampler.measurement
            if not sampler.adaptive and (measurement is None or measurement.moments is not None):
                begins = [levels[0], *(step.there for step in sampler.plan(schedule, levels)[:-1])]  # as in `run`
            first, last = float(begins[0].rho), float(begins[-1].rho)
            crossed = lo < first and float(levels[-1].rho) <= hi if sampler.adaptive else any(map(self.acts, begins))
            if not crossed:
                raise BadInput(
                    f"guider.interval=[{lo:g}, {hi:g}]: no step of {name} begins there; they begin at sigma / alpha of "
                    f"{first:.3g} to {last:.3g}."
                )


@dataclass(frozen=True)
class SpaceGuider(Guider):
    """A guider whose rule combines two tensors.

    Guidance that is rescaled is m <- rescale m std(cond) / std(m) + (1 - rescale) m, where std is over all of a sample
    (Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, arXiv 2305.08891, section 3.4).

    Args:
        rescale: From 0 (not at all) to 1.
        space: In which quantity tensors are combined and rescaled. An affine rule (`affine`) is the same in all, and
            uses it to rescale.

    Raises:
        ValueError: If rescale is not in [0, 1], or there is no such space.
    """

    rescale: float = field(default=0.0, kw_only=True)
    space: Space = field(default="x0", kw_only=True)

    # Whether the rule is a mean of the two with weights of sum 1.
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guider.rescale", self.rescale, 0, 1)
        if self.space not in ("x0", "eps", "v", "flow"):
            raise BadInput(f"guider.space={self.space!r}: allowed: x0, eps, v, flow.")

    @property
    def other_alone(self) -> bool:
        return self.affine and self.rescale == 0

    @abstractmethod
    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        """The guided tensor `(B, *)`.

        Args:
            cond: `(B, *)`, at scale 1.
            other: `(B, *)`, at scale 0.
            scale: Of this call.
            state: Of this run.
        """

    def guided(self, level: Level, cond: Prediction, other: Prediction, scale: Scale, state: State) -> Prediction:
        if self.affine:
            x0, eps = (self.combine(*pair, scale, state) for pair in zip(cond[:2], other[:2], strict=True))
            out = Prediction(x0, eps)
            if self.rescale == 0:
                return out
            c, m = (value(self.space, level, one) for one in (cond, out))
            return moved(self.space, level, out, self._rescaled(c, m) - m)
        c = value(self.space, level, cond)
        m = self.combine(c, value(self.space, level, other), scale, state)
        return moved(self.space, level, cond, self._rescaled(c, m) - c)

    def _rescaled(self, cond: Tensor, m: Tensor) -> Tensor:
        if self.rescale == 0:
            return m
        wide = torch.promote_types(m.dtype, torch.float32)
        wanted, found = (one.to(wide).flatten(1).std(1, correction=0) for one in (cond, m))
        ratio = like(torch.where(found > 0, wanted / found, 1), m)
        return (self.rescale * ratio + (1 - self.rescale)) * m


def _plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass on which results depend, where they are not the default, as JSON has them."""
    shown = [one for one in fields(value) if one.repr and getattr(value, one.name) != one.default]
    return {one.name: _plain(getattr(value, one.name)) for one in shown}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"name": type(value).__name__, **_plain_fields(value)}
    if isinstance(value, tuple | list):
        return [*map(_plain, value)]
    return value if isinstance(value, str | int | None) or math.isfinite(value) else str(value)


def mix(cond: Tensor, other: Tensor, scale: Scale) -> Tensor:
    """Other + scale (cond - other)."""
    return other + scale * (cond - other) if isinstance(scale, Tensor) else torch.lerp(other, cond, scale)
