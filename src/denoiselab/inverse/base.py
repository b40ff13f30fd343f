"""What a method of inverse problems is, and the denoiser that a likelihood method makes of another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.inverse.operators import LinearOperator
from denoiselab.samplers.base import Sampler
from denoiselab.samplers.observers import Tally
from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class Method(ABC):  # noqa: B024  # what it must have depends on whether it changes predictions or steps
    """A way to sample given measurements y = A x0 + sigma_y z; a choice of `conf/task/method` of `task=inverse`.

    Attributes:
        renoises: Whether predictions have a `renoise`, which not all samplers use.
        decodes: Whether measurements may be of decoded samples, `Decoded`, where samples are latents.
    """

    renoises: bool = False
    decodes: ClassVar[bool] = False

    def check(self, sigma_y: float) -> None:
        """Check that the method takes measurements of this noise.

        Raises:
            ValueError: If it does not.
        """
        if not 0 <= sigma_y < math.inf:
            raise ValueError(f"noise={sigma_y}: the standard deviation of the measurements' noise is at least 0.")

    def steps(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> Sampler:
        """The sampler of a batch with measurements: the one given, unless the method changes its steps.

        Args:
            sampler: Asked for.
            operator: A, bound to the samples' shape, on their device.
            y: The measurements of the batch, `(B, *)`.

        Raises:
            ValueError: If the method cannot change the steps of such a sampler.
        """
        return sampler


@dataclass(frozen=True)
class Problem:
    """What a likelihood method knows in one call.

    Args:
        operator: A.
        x0: The denoiser's own prediction, `(B, *)`.
        r: y - A x0, `(B, *)`.
        sigma_y: Standard deviation of the noise in y.
        alpha: Of the level, shaped `()` or `(B, 1, ..., 1)`, positive.
        sigma: Likewise.
        jacobian: J^T u, `(B, *)`, of u like x0, where J = dx0 / dx; one backward pass. With `last`, none follows.
    """

    operator: LinearOperator
    x0: Tensor
    r: Tensor
    sigma_y: float
    alpha: Tensor
    sigma: Tensor
    jacobian: _Jacobian

    @property
    def gain(self) -> Tensor:
        """sigma^2 / alpha, by which the gradient of a log-likelihood in x moves x0."""
        return self.sigma.square() / self.alpha

    def solved(self, v: Tensor) -> Tensor:
        """A^T (v A A^T + sigma_y^2)^-1 r, like x0; without noise by the pseudo-inverse."""
        if self.sigma_y == 0:
            return self.operator.pinv(self.r) / v
        return self.operator.adjoint(self.operator.gram_inverse(self.r, v, self.sigma_y**2))


class LikelihoodMethod(Method):
    """A method that changes the predictions of a denoiser, and so works with every sampler.

    Predictions stay consistent: x0 moves by d, and eps by -d alpha / sigma, which are (sigma^2 / alpha) g and -sigma g
    for a gradient g of log p(y | x). Nothing moves where alpha = 0. Models of latents measure latents.

    Attributes:
        differentiates: Whether a call takes backward passes through the denoiser, whose memory is that of training.
        needs_noise: Whether it divides by sigma_y.
    """

    differentiates: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = False

    @abstractmethod
    def shift(self, problem: Problem) -> Tensor:
        """What is added to x0, `(B, *)`."""

    def check(self, sigma_y: float) -> None:
        super().check(sigma_y)
        if self.needs_noise and sigma_y == 0:
            raise ValueError(
                f"noise=0: {type(self).__name__} divides by the measurements' noise; give a positive one, or a method "
                "that takes exact measurements, such as MMPS."
            )

    def wrap(
        self, denoise: Denoise, operator: LinearOperator, y: Tensor, sigma_y: float, tally: Tally | None = None
    ) -> Denoise:
        """The denoiser given measurements.

        Args:
            denoise: With its conditioning bound, differentiable in x if the method differentiates.
            operator: Bound to the samples' shape, on their device.
            y: The measurements of the batch, `(B, *)`.
            sigma_y: Standard deviation of their noise, in the network's range.
            tally: Counts backward passes, as `gradient`: in each the evaluations of the call, which guidance doubles.
                None for a tally that nobody reads.

        Raises:
            ValueError: If the method does not take such noise, or y is not what the operator makes of samples.
        """
        self.check(sigma_y)
        wanted = operator.shape_of(operator.shape)
        if tuple(y.shape[1:]) != wanted:
            raise ValueError(f"y: its rows have the shape {list(y.shape[1:])}, and A x has {list(wanted)}.")
        return Conditioned(self, denoise, operator, y, sigma_y, Tally() if tally is None else tally)


class Conditioned:
    """A denoiser given measurements, by a likelihood method.

    Args:
        method: The rule.
        denoise: Of the prior.
        operator: A.
        y: The measurements, `(B, *)`.
        sigma_y: Standard deviation of their noise.
        tally: Counts backward passes.
    """

    def __init__(
        self,
        method: LikelihoodMethod,
        denoise: Denoise,
        operator: LinearOperator,
        y: Tensor,
        sigma_y: float,
        tally: Tally,
    ) -> None:
        self._method, self._denoise, self._operator, self._tally = method, denoise, operator, tally
        self._y, self._sigma_y = y, float(sigma_y)
        if method.differentiates:
            tally.add("gradient", 0)

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`); the prediction is detached.

        Raises:
            ValueError: If the method differentiates, and the denoiser is not differentiable.
        """
        if level.alpha.ndim == 0 and not bool(level.alpha > 0):
            return self._denoise(x, level)
        at = x.detach()
        with torch.set_grad_enabled(self._method.differentiates):
            if self._method.differentiates:
                at.requires_grad_()
            before = self._tally.differentiated
            predicted = self._denoise(at, level)
        x0, eps = predicted.x0.detach(), predicted.eps.detach()
        with torch.no_grad():
            alpha, sigma = like(level.alpha, x), like(level.sigma, x)
            informed = alpha > 0
            if alpha.ndim:
                alpha = torch.where(informed, alpha, 1)
            r = self._y.to(x0) - self._operator(x0)
            jacobian = _Jacobian(predicted.x0, at, self._tally, max(len(x), self._tally.differentiated - before))
            d = self._method.shift(Problem(self._operator, x0, r, self._sigma_y, alpha, sigma, jacobian))
            if alpha.ndim:
                d = torch.where(informed, d, 0)
            kept = predicted.added.detach() if self._method.renoises else predicted.renoise
            return predicted._replace(x0=(x0 + d).to(x0), eps=(eps - alpha / sigma * d).to(eps), renoise=kept)


class _Jacobian:
    """Products with the transpose of dx0 / dx, counted; results are at least float32."""

    def __init__(self, x0: Tensor, x: Tensor, tally: Tally, rows: int) -> None:
        self._x0, self._x, self._tally, self._rows = x0, x, tally, rows

    def __call__(self, u: Tensor, *, last: bool = False) -> Tensor:
        if not self._x0.requires_grad:
            raise ValueError(
                "the denoiser's prediction is not differentiable in x, as this method needs; DDNM and DiffPIR do not."
            )
        self._tally.add("gradient", self._rows)
        (out,) = torch.autograd.grad(self._x0, self._x, u.to(self._x0), retain_graph=not last)
        # sigma^2 / alpha multiplies it afterwards: at high noise J underflows in half precision.
        return out.to(torch.promote_types(out.dtype, torch.float32))
