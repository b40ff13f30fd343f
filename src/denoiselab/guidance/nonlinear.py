"""Guiders whose rule is not affine, so that its result depends on the space in which it combines predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance.guider import Scale, SpaceGuider, State, mix
from denoiselab.guidance.spaces import Space, dot, still
from denoiselab.samplers import Sampler
from denoiselab.samplers.checks import check_number, check_positive
from denoiselab.schedules import Level, Schedule


@dataclass(frozen=True)
class AdaptiveProjected(SpaceGuider):
    """APG: m = c + (scale - 1) (d_across + eta d_along), where d is split along c, for c = m_cond and d = c - m_null.

    Before it is split, d is d + momentum times that of the step before, of a norm of at most `norm_threshold`. Scale 1
    is the conditional model. With the defaults and eta = 1 it is `ClassifierFree`. The source has eta 0, momentum about
    -0.5.

    diffusers' `AdaptiveProjectedGuidance` is this rule with `use_original_formulation` and scale - 1; without, it
    starts from m_null, which differs wherever eta, momentum or the threshold act.

    Source: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales, arXiv 2410.02416, algorithm
    1.

    Args:
        eta: Factor on the part of d along c.
        momentum: Of d; 0 for none. It takes a sampler of one call a step.
        norm_threshold: Largest norm of d, in units of the space; None for no limit.

    Raises:
        ValueError: If |momentum| >= 1 or norm_threshold <= 0.
    """

    name: ClassVar[str] = "apg"
    eta: float = 0.0
    momentum: float = 0.0
    norm_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 < self.momentum < 1:
            raise BadInput(f"guider.momentum={self.momentum}: it must be between -1 and 1.")
        if self.norm_threshold is not None:
            check_positive("guider.norm_threshold", self.norm_threshold)

    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        d = cond - other
        if self.momentum:
            d = state.running = d if state.running is None else d + self.momentum * state.running
        if self.norm_threshold is not None:
            d = d * (self.norm_threshold / dot(d, d).sqrt()).clamp_max(1).to(d)
        along = (dot(d, cond) / dot(cond, cond).clamp_min(1e-12)).to(d) * cond
        return cond + (scale - 1) * (d + (self.eta - 1) * along)

    def check_sampler(self, sampler: Sampler, schedule: Schedule, steps: int | None = None) -> None:
        super().check_sampler(sampler, schedule, steps)
        if self.momentum and (sampler.adaptive or sampler.calls_per_step > 1 or sampler.calls_at_last):
            kind = "chooses its own steps" if sampler.adaptive else "makes several calls a step"
            raise BadInput(
                f"guider.momentum={self.momentum}: it is that of steps, and {type(sampler).__name__} {kind}; use 0, or "
                "a sampler of one call a step such as DDIM or DPMSolverPP."
            )


@dataclass(frozen=True)
class CFGZeroStar(SpaceGuider):
    """CFG-Zero*: m = s n + scale (c - s n) with s = `<c, n> / <n, n>` for c = m_cond and n = m_null, of each sample.

    In the first steps the prediction is 0, so that x stays (in the space `flow`, along rectified flow); they take no
    network evaluation. Scale 1 is the conditional model, without such steps.

    Source: Fan et al., CFG-Zero*, arXiv 2503.18886, algorithm 1.

    Args:
        zero_init_steps: Number of first steps whose prediction is 0; the source has 4 % of them.
        space: As in `SpaceGuider`; the source's is `flow`.

    Raises:
        ValueError: If zero_init_steps < 0.
    """

    name: ClassVar[str] = "cfg_zero_star"
    zero_init_steps: int = 1
    space: Space = field(default="flow", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guider.zero_init_steps", self.zero_init_steps)

    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        share = dot(cond, other) / dot(other, other).clamp_min(1e-12)
        return mix(cond, share.to(other) * other, scale)

    def still(self, x: Tensor, level: Level, state: State) -> Prediction | None:
        return still(self.space, level, x) if state.steps < self.zero_init_steps else None

    def check_sampler(self, sampler: Sampler, schedule: Schedule, steps: int | None = None) -> None:
        super().check_sampler(sampler, schedule, steps)
        if self.zero_init_steps and sampler.adaptive:
            raise BadInput(
                f"guider.zero_init_steps={self.zero_init_steps}: {type(sampler).__name__} chooses its own steps; use 0."
            )
        if self.zero_init_steps and not sampler.adaptive:
            run = len(sampler.grid(schedule, steps)) - 1
            if self.zero_init_steps >= run:
                raise BadInput(
                    f"guider.zero_init_steps={self.zero_init_steps}: the run has {run} steps, all of which would "
                    "predict 0; use less."
                )


@dataclass(frozen=True)
class Tangential(SpaceGuider):
    """TCFG: n + scale (c - n), where n = m_null is projected on the first right singular vector of [c; n], c = m_cond.

    Scale 1 is the conditional model.

    Source: Kwon et al., TCFG: Tangential Damping Classifier-free Guidance, arXiv 2503.18137, section 4.
    """

    name: ClassVar[str] = "tcfg"

    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        # The vector is cos(phi) c + sin(phi) n over its norm, with tan(2 phi) = 2 <c, n> / (<c, c> - <n, n>).
        cosine, sine = dot(cond, cond) - dot(other, other), 2 * dot(cond, other)
        size = torch.hypot(cosine, sine).clamp_min(1e-30)
        projected = (sine / size / 2).to(cond) * cond + ((1 - cosine / size) / 2).to(cond) * other
        return mix(cond, projected, scale)


@dataclass(frozen=True)
class MagnitudeAware(SpaceGuider):
    """MAMBO-G: n + (1 + (scale - 1) exp(-alpha |d| / |n|)) d for n = m_null and d = m_cond - n, of each sample.

    Scale 1 is the conditional model.

    Source: MAMBO-G, arXiv 2508.03442.

    Args:
        alpha: How much large differences are damped.

    Raises:
        ValueError: If alpha < 0.
    """

    name: ClassVar[str] = "mambo_g"
    alpha: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guider.alpha", self.alpha)

    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        d = cond - other
        ratio = (dot(d, d) / dot(other, other).clamp_min(1e-12)).sqrt()
        return cond + ((scale - 1) * torch.exp(-self.alpha * ratio)).to(d) * d
