"""Predictor-corrector sampling: Langevin steps at each level, and a step of another sampler to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step, check_one_step, jump
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.sde import ReverseDiffusion
from denoiselab.samplers.spacing import Spacing, UniformTime
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


@dataclass(eq=False)
class PredictorCorrector(OneStep):
    """Langevin steps at every noisy level, the last included, each followed by a step of a predictor.

    A Langevin step is x += d score + sqrt(2 d) z with d = 2 a (snr |z| / |score|)^2, where a is the squared ratio of
    alpha to the next level's, or with `annealed` d = 2 a (snr sigma)^2. The norms are each sample's own, not the
    batch's mean as in the released code, so that a sample does not depend on the others. Their ratio is nearly
    constant in many dimensions, and the remaining bias is of order snr^2. In few dimensions the step depends on x, and
    the bias is large: on three modes in the plane, of deviations 0.90 and 0.78, 500 steps along the linear VP schedule
    (4,000 samples, seed 0, reverse diffusion as the predictor) give 2.49 and 1.24 at snr = 0.16, and 0.92 and 0.80 at
    0.01.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, algorithms 4 and 5, and the
    released code, which corrects before it predicts.

    The other arguments are those of `Sampler`; `threshold=None` takes the predictor's.

    Args:
        predictor: A single-step sampler, whose grid is not used; None for none, so that x only changes by corrections.
        corrector_steps: Langevin steps at a level.
        snr: Signal-to-noise ratio of a Langevin step.
        annealed: Whether the steps are those of annealed Langevin dynamics (`ald` in the released code), which do not
            depend on x.

    Raises:
        ValueError: If the predictor is multistep, an option is out of range, or there is neither predictor nor
            corrector.
    """

    spacing: Spacing = field(default_factory=UniformTime)
    steps: int = 200
    predictor: OneStep | None = field(default_factory=ReverseDiffusion)
    corrector_steps: int = 1
    snr: float = 0.16
    annealed: bool = False

    stochastic = True
    convergence_order = None
    no_order = "a Langevin step leaves an error of order snr^2, for any number of levels"

    def __post_init__(self) -> None:
        predictor = self.predictor
        if predictor is not None:
            self.threshold = self.threshold or predictor.threshold
            check_one_step("predictor", predictor)
        super().__post_init__()
        check_number("corrector_steps", self.corrector_steps, 1 if predictor is None else 0)
        check_number("snr", self.snr)
        self.calls_at_last = self.corrector_steps
        self.calls_per_step = self.corrector_steps + (predictor.calls_per_step if predictor else 0)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        correct = self._corrections(here, there)
        if self.predictor is None:
            return correct
        predict = self.predictor.between(schedule, here, there)
        return lambda denoise, x, memory, noise: predict(denoise, correct(denoise, x, memory, noise), memory, noise)

    def at_last(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        last = levels[-1]
        return [Planned(self._corrections(last, Level.clean()), last)] if self.corrector_steps else []

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        return self.predictor.land(schedule, here, there) if self.predictor else jump(here, there)

    def _corrections(self, here: Level, there: Level) -> Step:
        sigma = float(here.sigma)
        shrink = float(here.alpha / there.alpha) ** 2

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            for _ in range(self.corrector_steps):
                score = denoise(x, here).eps / -sigma
                z = noise.like(x)
                if self.annealed:
                    size = torch.as_tensor(2 * shrink * (self.snr * sigma) ** 2, dtype=torch.float64)
                else:
                    ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp_min(1e-12)
                    size = like(2 * shrink * (self.snr * ratio).square(), x)
                x = x + size * score + torch.sqrt(2 * size) * z
            return x

        return step
