"""Linear inverse problems: operators, and methods that sample given measurements y = A x + sigma_y z.

`operators` says what an operator is; `measurements` and `filters` have those with closed forms. `replacing` has
samplers that change the steps of another.
"""

from denoiselab.inverse.filters import Bicubic, Blur, GaussianBlur, MotionBlur
from denoiselab.inverse.measurements import AveragePool, Box, CompressedSensing, Grey, Identity, Mask, RandomPixels
from denoiselab.inverse.operators import LinearOperator, check_adjoint, conjugate_gradients
from denoiselab.inverse.replacing import RePaint, Replaced, StepMethod

__all__ = [
    "AveragePool",
    "Bicubic",
    "Blur",
    "Box",
    "CompressedSensing",
    "GaussianBlur",
    "Grey",
    "Identity",
    "LinearOperator",
    "Mask",
    "MotionBlur",
    "RandomPixels",
    "RePaint",
    "Replaced",
    "StepMethod",
    "check_adjoint",
    "conjugate_gradients",
]
