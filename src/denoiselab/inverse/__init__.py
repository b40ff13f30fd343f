"""Linear inverse problems: operators, and methods that sample given measurements y = A x + sigma_y z.

`operators` says what an operator is; `measurements` and `filters` have those with closed forms.
"""

from denoiselab.inverse.filters import Bicubic, Blur, GaussianBlur, MotionBlur
from denoiselab.inverse.measurements import AveragePool, Box, CompressedSensing, Grey, Identity, Mask, RandomPixels
from denoiselab.inverse.operators import LinearOperator, check_adjoint, conjugate_gradients

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
    "check_adjoint",
    "conjugate_gradients",
]
