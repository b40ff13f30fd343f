"""Affine guiders: classifier-free guidance, guidance by a weaker model, and CFG++."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from denoiselab.denoiser import Denoiser, Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance.branches import Branches, WithGuide
from denoiselab.guidance.guider import Guider, Scale, SpaceGuider, State, mix
from denoiselab.networks.conditioning import Conditioning
from denoiselab.samplers import Tally
from denoiselab.schedules import Level


@dataclass(frozen=True)
class ClassifierFree(SpaceGuider):
    """m = m_null + scale (m_cond - m_null), for x0 and eps alike.

    Scale 1 is the conditional model and 0 the unconditional one; the scale is Ho and Salimans' 1 + w. A call counts as
    1 NFE and 2 network evaluations. A learned variance is the conditional model's.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, eq. 6.
    """

    name: ClassVar[str] = "cfg"
    affine: ClassVar[bool] = True

    def combine(self, cond: Tensor, other: Tensor, scale: Scale, state: State) -> Tensor:
        return mix(cond, other, scale)


@dataclass(frozen=True)
class Auto(ClassifierFree):
    """m = m_guide + scale (m - m_guide): autoguidance, by a weaker version of the model with the same condition.

    Scale 1 is the model and 0 the guide; EDM2's scale. Evaluations of the guide are counted apart from the network's.

    Source: Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, arXiv 2406.02507, eq. 2.

    Args:
        guide: In evaluation mode, on the model's device, of inputs of the same shape and meaning. It may be on another
            schedule.
        named: What distinguishes the guide from others in the protocol of results, such as a hash of its weights.
    """

    name: ClassVar[str] = "auto"
    split: bool = field(init=False, repr=False, default=False)
    guide: Denoiser = field(kw_only=True, repr=False)
    named: str = field(kw_only=True)

    def branches(self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally) -> Branches:
        return WithGuide(denoiser, self.guide, cond, tally)

    def check(self, scale: float, cond: Conditioning, null: Conditioning) -> None:
        """Nothing is refused: the model need not have conditions."""


@dataclass(frozen=True)
class CFGPlusPlus(Guider):
    """x0 = x0_null + scale (x0_cond - x0_null), to which a step adds the unconditional eps.

    The scale is the source's lambda from 0 to 1: 0 is the unconditional model, and no scale is the conditional one. A
    step of DDIM from half log-SNR l to l + h is that of `ClassifierFree` at scale lambda / (1 - exp(-h)), which grows
    with the number of steps, so that samples do not converge as steps are added.

    Source: Chung et al., CFG++, arXiv 2406.08070, algorithm 2.
    """

    name: ClassVar[str] = "cfgpp"
    neutral: ClassVar[float | None] = None
    needs_renoise: ClassVar[bool] = True
    depends_on_nfe: ClassVar[bool] = True

    def guided(self, level: Level, cond: Prediction, other: Prediction, scale: Scale, state: State) -> Prediction:
        return Prediction(mix(cond.x0, other.x0, scale), mix(cond.eps, other.eps, scale), renoise=other.eps)

    def check(self, scale: float, cond: Conditioning, null: Conditioning) -> None:
        """Refuse scales outside [0, 1] too."""
        if not 0 <= scale <= 1:
            raise BadInput(f"guidance={scale:g}: the scale of CFG++ is its lambda, from 0 to 1.")
        super().check(scale, cond, null)
