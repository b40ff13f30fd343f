"""Teachers that are guided, so that a student learns what they predict with guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoiser, Prediction
from denoiselab.guidance.guider import mix
from denoiselab.networks.conditioning import Conditioning
from denoiselab.schedules import Level


class GuidedTeacher(Denoiser):
    """A denoiser with classifier-free guidance of one scale, in two evaluations a call, at levels of each sample.

    Source: Meng et al., On Distillation of Guided Diffusion Models, arXiv 2210.03142, section 3.

    Args:
        denoiser: Trained with its condition dropped at times.
        conditioner: Gives the null condition, and the channels that guidance acts on.
        scale: 1 is the conditional model.

    Raises:
        ValueError: If the conditioner has no null condition.
    """

    def __init__(self, denoiser: Denoiser, conditioner: Conditioner, scale: float) -> None:
        parts = (denoiser.parameterization, denoiser.time_label, denoiser.input_scale, denoiser.variance)
        super().__init__(denoiser.network, denoiser.schedule, *parts)
        if all(field is None for field in conditioner.null(torch.zeros(1, dtype=torch.int64))):
            raise ValueError(f"teacher_guidance={scale:g}: the teacher has no null condition to be guided by; give 1.")
        self._null, self._channels, self._scale = conditioner.null, conditioner.guided_channels, scale

    def forward(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Prediction:
        null = self._null(torch.arange(len(x), device=x.device)).filled(cond)
        own, other = (super(GuidedTeacher, self).forward(x, level, one) for one in (cond, null))
        return Prediction(self._mixed(own.x0, other.x0), self._mixed(own.eps, other.eps))

    def _mixed(self, own: Tensor, other: Tensor) -> Tensor:
        k = self._channels
        if k is None:
            return mix(own, other, self._scale)
        return torch.cat((mix(own[:, :k], other[:, :k], self._scale), own[:, k:]), 1)


def guided(denoiser: Denoiser, conditioner: Conditioner, scale: float) -> Denoiser:
    """A denoiser with guidance of a scale, or as it is at 1."""
    return denoiser if scale == 1 else GuidedTeacher(denoiser, conditioner, scale)
