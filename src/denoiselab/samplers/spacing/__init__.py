"""Grids: the levels at which a sampler stops. A grid is not a schedule; any sampler takes any grid."""

from denoiselab.samplers.spacing.ends import DenoiseToZero, ToLeastNoise, WithoutLast
from denoiselab.samplers.spacing.grids import (
    Asinh,
    Beta,
    Karras,
    PowerTime,
    Spacing,
    ToZero,
    UniformLogSNR,
    UniformTime,
    VPTime,
    fractions,
    is_one_call,
)
from denoiselab.samplers.spacing.listed import FromFile, Listed, Refining, Stretched
from denoiselab.samplers.spacing.trained import (
    DDIMQuadratic,
    DDIMQuadraticReleased,
    DDIMUniform,
    DDIMUniformReleased,
    Leading,
    Linspace,
    Trailing,
    TrainedSpacing,
)
from denoiselab.samplers.spacing.truncated import Truncated
from denoiselab.samplers.spacing.until import Until

__all__ = [
    "Asinh",
    "Beta",
    "DDIMQuadratic",
    "DDIMQuadraticReleased",
    "DDIMUniform",
    "DDIMUniformReleased",
    "DenoiseToZero",
    "FromFile",
    "Karras",
    "Leading",
    "Linspace",
    "Listed",
    "PowerTime",
    "Refining",
    "Spacing",
    "Stretched",
    "ToLeastNoise",
    "ToZero",
    "Trailing",
    "TrainedSpacing",
    "Truncated",
    "UniformLogSNR",
    "UniformTime",
    "Until",
    "VPTime",
    "WithoutLast",
    "fractions",
    "is_one_call",
]
