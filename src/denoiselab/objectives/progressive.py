"""Progressive distillation: one step of the student is two of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.denoising import DenoisingObjective
from denoiselab.objectives.distances import Distance, l2
from denoiselab.objectives.level_distributions import Draw, LevelDistribution
from denoiselab.objectives.uniforms import Uniforms
from denoiselab.objectives.weights import Weighting
from denoiselab.samplers.checks import same_levels
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class GridLevels(LevelDistribution):
    """One of the noisy levels of a grid, all equally likely.

    Args:
        spacing: The grid.
        steps: Of a run along it, at least 1.
        uniforms: As in `LevelDistribution`.
    """

    def __init__(self, spacing: Spacing, steps: int, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if steps < 1:
            raise ValueError(f"steps={steps}: it must be at least 1.")
        self.spacing, self.steps = spacing, steps
        self._last: tuple[Schedule, int, Tensor] | None = None

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        return Draw(self.step(schedule, noise, 1)[0])

    def step(self, schedule: Schedule, noise: Noise, parts: int) -> list[Level]:
        """The `parts + 1` levels `(B,)` of a step each, at which it begins, is divided into `parts`, and ends."""
        first = (self.uniforms(noise) * self.steps).long() * parts
        table = self._table(schedule, parts).to(first.device)
        rows = (table[:, first + n].unbind() for n in range(parts + 1))
        return [Level(t, alpha, sigma, schedule) for t, alpha, sigma in rows]

    @torch.no_grad()
    def _table(self, schedule: Schedule, parts: int) -> Tensor:
        """Times, alphas and sigmas of the grid divided into `parts`, `(3, N)` float64 on the CPU."""
        learned = next(schedule.parameters(), None) is not None
        if self._last is None or self._last[0] is not schedule or self._last[1] != parts or learned:
            levels = self.spacing(schedule, parts * self.steps)
            rows = [[getattr(level, name) for level in levels] for name in ("t", "alpha", "sigma")]
            self._last = schedule, parts, torch.stack([torch.stack(row).cpu() for row in rows])
        return self._last[2]

    def check(self, schedule: Schedule) -> None:
        """Check that the levels of a run are among those of one of twice as many steps, and are noisy but the last."""
        levels = self.spacing(schedule, self.steps)
        if len(levels) != self.steps + 1 or not self.spacing.nests(schedule, self.steps):
            raise ValueError(
                f"objective.spacing={type(self.spacing).__name__}: its levels of {self.steps} steps on "
                f"{type(schedule).__name__} are not among those of {2 * self.steps}, so that a step is not two of the "
                "teacher's; choose spacing@objective.spacing=vp_time, asinh, uniform_time or power_time."
            )


class Progressive(DenoisingObjective):
    """w(level) |x0_hat - x|^2 for the x with which one step of DDIM ends where two of the teacher's end.

    With the teacher's predictions x1 at the step's beginning t, and x2 at its middle u, that is
    x = x1 + w (x2 - x1), w = (1 - rho_r / rho_u) / (1 - rho_r / rho_t) for its end r: the paper's
    (z_r - (sigma_r / sigma_t) z_t) / (alpha_r - alpha_t sigma_r / sigma_t) without the difference of close numbers. A
    trained network is sampled by DDIM on the same grid, and by nothing else.

    Source: Salimans and Ho, Progressive Distillation, arXiv 2202.00512, section 3 and appendix G.

    Args:
        spacing: The student's grid, which must be part of that of twice as many steps.
        steps: The student's, from noise to data.
        weighting: w; the paper's are `truncated_snr` and, as `edm` with a sigma_data of 1, SNR + 1.
        distance: As in `DenoisingObjective`.
        uniforms: Source of the numbers by which steps are chosen; None for `Independent`.
        sum_dimensions: As in `DenoisingObjective`.
        clip: Clamp the x0 that the teacher predicts to [-clip, clip], as the authors' code does: of images it errs by
            more where an eps network sees noise alone. None for not.
    """

    uses_teacher = True
    teacher_calls = 2

    level_distribution: GridLevels

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        weighting: Weighting,
        distance: Distance = l2,
        uniforms: Uniforms | None = None,
        sum_dimensions: bool = False,
        clip: float | None = None,
    ) -> None:
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip}: it must be positive, or null for none.")
        super().__init__(weighting, GridLevels(spacing, steps, uniforms), distance, sum_dimensions=sum_dimensions)
        self.clip = clip

    def check_distilled(self, grid: Sequence[Level], schedule: Schedule) -> None:
        steps = self.level_distribution.steps
        if not same_levels(self.level_distribution.spacing(schedule, 2 * steps), grid):
            raise ValueError(
                f"teacher: it was distilled for {len(grid) - 1} steps on one grid, and objective.steps={steps} takes "
                f"one of {2 * steps} steps on the same grid; give objective.steps={(len(grid) - 1) // 2 or 1}, or "
                "another teacher."
            )

    def check_stage(self, former: Objective) -> None:
        steps = self.level_distribution.steps
        if isinstance(former, Progressive) and former.level_distribution.steps != 2 * steps:
            raise ValueError(
                f"objective.steps: {steps} after {former.level_distribution.steps}; a stage has half the steps of its "
                "teacher's."
            )

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        levels = self.level_distribution.step(denoiser.schedule, noise, 2)
        x = corrupt(x0, noise.like(x0), levels[0]).to(x0)
        target = self.target(x, levels, cond)
        eps = (x - like(levels[0].alpha, x) * target) / like(levels[0].sigma, x)
        return self.loss(denoiser.output(x, levels[0], cond), target, eps, Draw(levels[0]))

    @torch.no_grad()
    def target(self, x: Tensor, levels: list[Level], cond: Conditioning = Conditioning()) -> Tensor:
        """The x0 `(B, *)` that takes `x` `(B, *)` from the first of three levels `(B,)` to the last in one step."""
        begin, middle, end = levels
        first = self._taught(x, begin, cond)
        keep = middle.sigma / begin.sigma
        between = like(keep, x) * x + like(middle.alpha - begin.alpha * keep, x) * first
        share = (1 - end.rho / middle.rho) / (1 - end.rho / begin.rho)
        return torch.lerp(first, self._taught(between, middle, cond), like(share, x))

    def _taught(self, x: Tensor, level: Level, cond: Conditioning) -> Tensor:
        assert self.teacher is not None
        x0: Tensor = self.teacher(x, level, cond).x0
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)
