"""Linear inverse problems: operators, and methods that sample given measurements y = A x + sigma_y z.

`operators` says what an operator is; `measurements` and `filters` have those with closed forms. `base` says what a
method is; `likelihoods` has those that change the predictions of a denoiser, for any sampler, `replacing` samplers that
change the steps of another, and `published` those and their like as methods.
"""

from denoiselab.inverse.base import LikelihoodMethod, Method
from denoiselab.inverse.filters import Bicubic, Blur, GaussianBlur, MotionBlur
from denoiselab.inverse.likelihoods import (
    DDNM,
    MMPS,
    TMPD,
    DiffPIR,
    DPSLikelihood,
    PiGDMScore,
    ReconstructionGuidance,
)
from denoiselab.inverse.measurements import AveragePool, Box, CompressedSensing, Grey, Identity, Mask, RandomPixels
from denoiselab.inverse.operators import Decoded, LinearOperator, check_adjoint, conjugate_gradients, minimal_residuals
from denoiselab.inverse.published import (
    PosteriorStep,
    PublishedDiffPIR,
    PublishedDPS,
    PublishedPiGDM,
    Refreshed,
    Replacement,
    Resampling,
)
from denoiselab.inverse.replacing import RePaint, Replaced, StepMethod

__all__ = [
    "DDNM",
    "MMPS",
    "TMPD",
    "AveragePool",
    "Bicubic",
    "Blur",
    "Box",
    "CompressedSensing",
    "DPSLikelihood",
    "Decoded",
    "DiffPIR",
    "GaussianBlur",
    "Grey",
    "Identity",
    "LikelihoodMethod",
    "LinearOperator",
    "Mask",
    "Method",
    "MotionBlur",
    "PiGDMScore",
    "PosteriorStep",
    "PublishedDPS",
    "PublishedDiffPIR",
    "PublishedPiGDM",
    "RandomPixels",
    "RePaint",
    "ReconstructionGuidance",
    "Refreshed",
    "Replaced",
    "Replacement",
    "Resampling",
    "StepMethod",
    "check_adjoint",
    "conjugate_gradients",
    "minimal_residuals",
]
