"""Predictor-corrector sampling: Langevin steps at each level, and a step of another sampler to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler, Step, check_number, jump
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class PredictorCorrector(OneStep):
    """Langevin steps at every noisy level, the last included, each followed by a step of a predictor.

    A Langevin step is x += d score + sqrt(2 d) z with d = 2 a (snr |z| / |score|)^2, a being the squared ratio of
    alpha to the next level's, or with `annealed` d = 2 a (snr sigma)^2. The norms are each sample's own, not the
    batch's mean as in the released code, so a sample does not depend on its neighbours. Their ratio settles with the
    number of dimensions, and what bias is left is of order snr^2. In few dimensions the step depends on x, and the
    bias is large: on three modes in the plane, of deviations 0.90 and 0.78, 500 steps along the linear VP schedule
    (4,000 samples, seed 0, reverse diffusion as the predictor) give 2.49 and 1.24 at snr = 0.16, at 0.01 0.92 and
    0.80.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, algorithms 4 and 5, and the
    released code, which corrects before it predicts.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        predictor: A single-step sampler; its grid is not used. None for none: x is then left as it is between levels.
        corrector_steps: Langevin steps a level.
        snr: Their signal-to-noise ratio.
        annealed: Steps of annealed Langevin dynamics (`ald` in the released code), which do not depend on x.
        threshold: Mends each predicted x0; None for the predictor's.

    Raises:
        ValueError: The predictor is multistep, an option out of range, or there is neither predictor nor corrector.
    """

    stochastic = True
    order = None
    no_order = "a Langevin step leaves an error of order snr^2, however many levels there are"

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        predictor: Sampler | None,
        corrector_steps: int = 1,
        snr: float = 0.16,
        annealed: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold or (predictor.threshold if predictor else None))
        if predictor is not None and not isinstance(predictor, OneStep):
            raise ValueError(f"predictor={type(predictor).__name__}: it must be a single-step sampler.")
        check_number("corrector_steps", corrector_steps, 1 if predictor is None else 0)
        check_number("snr", snr)
        self.predictor, self.corrector_steps, self.snr, self.annealed = predictor, corrector_steps, snr, annealed
        self.calls_at_last = corrector_steps
        self.calls_per_step = corrector_steps + (predictor.calls_per_step if predictor else 0)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The corrections, and the prediction."""
        correct = self._corrections(here, there)
        if self.predictor is None:
            return correct
        predict: Step = self.predictor.between(schedule, here, there)
        return lambda denoise, x, memory, noise: predict(denoise, correct(denoise, x, memory, noise), memory, noise)

    def at_last(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """The corrections at the last level."""
        last = levels[-1]
        return [Planned(self._corrections(last, Level.clean()), last)] if self.corrector_steps else []

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        """The predictor's step to clean data."""
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
