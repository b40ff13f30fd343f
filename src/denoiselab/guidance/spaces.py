"""The quantities in which a rule that is not affine may combine predictions: its result depends on which it is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.parameterizations import Coefficients, determinant
from denoiselab.schedules import Level
from denoiselab.schedules.base import like

# x0; eps; v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2), which v-prediction gives; flow: eps - x0, the velocity
# of rectified flow. In pure noise (alpha = 0) eps has no information on x0, so `eps` is x0 there.
Space = Literal["x0", "eps", "v", "flow"]


def value(space: Space, level: Level, prediction: Prediction) -> Tensor:
    """The quantity `(B, *)` of a prediction at a level (scalar or `(B,)`)."""
    if space == "x0":
        return prediction.x0
    a, b = _coefficients(space, level)
    return like(a, prediction.x0) * prediction.x0 + like(b, prediction.eps) * prediction.eps


def moved(space: Space, level: Level, prediction: Prediction, change: Tensor) -> Prediction:
    """The prediction whose quantity is larger by `change` `(B, *)`, with alpha x0 + sigma eps as it was."""
    coefficients = _coefficients(space, level)
    det = determinant(level, coefficients)
    x0 = prediction.x0 - like(level.sigma / det, change) * change
    return prediction._replace(x0=x0, eps=prediction.eps + like(level.alpha / det, change) * change)


def still(space: Space, level: Level, x: Tensor) -> Prediction:
    """The prediction from `x` `(B, *)` whose quantity is 0: with `flow`, x stays as it is along rectified flow."""
    a, b = coefficients = _coefficients(space, level)
    det = determinant(level, coefficients)
    return Prediction(like(b / det, x) * x, like(-a / det, x) * x)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner products of samples `(B, *)`, as `(B, 1, ..., 1)` in at least float32."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _coefficients(space: Space, level: Level) -> Coefficients:
    """(a, b) of a x0 + b eps, shaped like the level."""
    one, zero = torch.ones_like(level.alpha), torch.zeros_like(level.alpha)
    if space == "x0":
        return one, zero
    if space == "eps":
        informed = (level.alpha > 0).to(one)
        return one - informed, informed
    if space == "v":
        norm = torch.hypot(level.alpha, level.sigma)
        return -level.sigma / norm, level.alpha / norm
    return -one, one
