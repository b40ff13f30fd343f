"""Likelihood methods: a Gaussian p(x0 | x_t) with the denoiser's x0 as its mean and different covariances V.

With r = y - A x0 and S = A V A^T + sigma_y^2, a method of the score adds (sigma^2 / alpha) J^T A^T S^-1 r to x0, where
J = dx0 / dx; one without derivatives adds V A^T S^-1 r. For a Gaussian prior MMPS alone is exact.

At high noise the error of a trained network's J, which sigma^2 / alpha multiplies, is larger than J. A sampler with a
threshold (`Clip`) bounds x0; on digits, without one, PiGDM and DPS in few steps end in numbers that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoiselab.inverse.base import LikelihoodMethod, Problem
from denoiselab.inverse.operators import conjugate_gradients, minimal_residuals

_SOLVERS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]] = {
    "gmres": minimal_residuals,
    "cg": conjugate_gradients,
}


@dataclass(frozen=True)
class MMPS(LikelihoodMethod):
    """Moment-matching posterior sampling: V = (sigma^2 / alpha) J, the covariance of x0 by Tweedie's formula.

    S^-1 r is found by iterations of a linear solver. A call takes iterations + 1 backward passes.

    Source: Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, arXiv 2405.13712.

    Args:
        iterations: Of the solver; as many as there are measurements solve the system of an exact denoiser. Of a trained
            network, whose J is neither symmetric nor positive, many made samples worse, most where the noise is small
            (3 and 8 were best, 16 far worse, in 25 steps of `dpmpp_2m`); `ancestral` with 50 steps and 3 was better.
        solver: `gmres`, whose residual of the system, not of the samples, does not grow, or `cg`, conjugate gradients,
            of which more iterations made samples worse unless x0 is clipped.

    Raises:
        ValueError: If iterations < 1, or there is no such solver.
    """

    iterations: int = 3
    solver: Literal["gmres", "cg"] = "gmres"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations}: it must be at least 1.")
        if self.solver not in _SOLVERS:
            raise ValueError(f"solver={self.solver}: unknown; allowed: {', '.join(_SOLVERS)}.")

    def shift(self, problem: Problem) -> Tensor:
        operator, gain, jacobian = problem.operator, problem.gain, problem.jacobian

        def product(u: Tensor) -> Tensor:
            moved: Tensor = operator(gain * jacobian(operator.adjoint(u)))
            return moved + problem.sigma_y**2 * u

        solved = _SOLVERS[self.solver](product, problem.r, self.iterations)
        return gain * jacobian(operator.adjoint(solved), last=True)


@dataclass(frozen=True)
class TMPD(LikelihoodMethod):
    """Tweedie moment projected diffusion: that of MMPS, with the sums of the rows of A V A^T in place of the matrix.

    A call takes two backward passes. Sums that are negative, as of a network's inexact J, are taken as 0.

    Source: Boys et al., Tweedie Moment Projected Diffusions for Inverse Problems, arXiv 2310.06721.
    """

    needs_noise: ClassVar[bool] = True

    def shift(self, problem: Problem) -> Tensor:
        operator, gain, jacobian = problem.operator, problem.gain, problem.jacobian
        sums = operator(gain * jacobian(operator.adjoint(torch.ones_like(problem.r))))
        solved = problem.r / (sums.clamp_min(0) + problem.sigma_y**2)
        return gain * jacobian(operator.adjoint(solved), last=True)


@dataclass(frozen=True)
class PiGDMScore(LikelihoodMethod):
    """Pseudoinverse-guided diffusion as a score: V = s^2 sigma^2 / (sigma^2 + alpha^2 s^2), that of data N(0, s^2).

    A call takes one backward pass. The published sampler moves x after a DDIM step instead, and keeps eps.

    Source: Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023.

    Args:
        data_std: s; the published one is 1.

    Raises:
        ValueError: If data_std <= 0.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("data_std", self.data_std)

    def shift(self, problem: Problem) -> Tensor:
        s2, sigma2 = self.data_std**2, problem.sigma.square()
        v = s2 * sigma2 / (sigma2 + s2 * problem.alpha.square())
        return problem.gain * problem.jacobian(problem.solved(v), last=True)


@dataclass(frozen=True)
class DPSLikelihood(LikelihoodMethod):
    """Diffusion posterior sampling as the likelihood that it starts from, V = 0, times a scale.

    A call takes one backward pass. Steps at high noise are stiff: for small sigma_y the run diverges unless there are
    many steps. The published sampler divides by the residual's norm instead, and moves x after a step.

    Source: Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, arXiv 2209.14687.

    Args:
        scale: Factor on the gradient.

    Raises:
        ValueError: If scale <= 0.
    """

    scale: float = 1.0

    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)

    def shift(self, problem: Problem) -> Tensor:
        gradient = problem.jacobian(problem.operator.adjoint(problem.r), last=True)
        return self.scale / problem.sigma_y**2 * problem.gain * gradient


@dataclass(frozen=True)
class ReconstructionGuidance(LikelihoodMethod):
    """Reconstruction guidance: x0 moves by weight alpha J^T A^T r, which is S = sigma^2 / (weight alpha^2).

    A call takes one backward pass. Noise in y is not accounted for. Where A A^T = I and the weight is 1, it is
    `PiGDMScore` of data of infinite variance and measurements without noise. The colourisation of score SDE (arXiv
    2011.13456) takes no gradient: it is `Replaced` with `Grey`.

    Source: Ho et al., Video Diffusion Models, arXiv 2204.03458, eq. 7.

    Args:
        weight: w_r.

    Raises:
        ValueError: If weight <= 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("weight", self.weight)

    def shift(self, problem: Problem) -> Tensor:
        return self.weight * problem.alpha * problem.jacobian(problem.operator.adjoint(problem.r), last=True)


@dataclass(frozen=True)
class DDNM(LikelihoodMethod):
    """Denoising diffusion null-space model: x0 + A^+ (y - A x0), whatever the noise in y; no backward passes.

    Source: Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, arXiv 2212.00490,
    eq. 13 and algorithm 1.

    Args:
        keep_eps: Steps add the denoiser's own eps back to the new x0, as published, with `DDIM` (eta 0.85); else eps
            follows x0, as any sampler can have it.
    """

    keep_eps: bool = False

    differentiates: ClassVar[bool] = False

    @property
    def renoises(self) -> bool:  # type: ignore[override]
        """Whether predictions have a `renoise`."""
        return self.keep_eps

    def shift(self, problem: Problem) -> Tensor:
        return problem.operator.pinv(problem.r)


@dataclass(frozen=True)
class DiffPIR(LikelihoodMethod):
    """The proximal step of plug-and-play restoration: V = (sigma / alpha)^2 / weight, without backward passes.

    x0 becomes the minimum in x of |y - A x|^2 / sigma_y^2 + weight (alpha / sigma)^2 |x - x0|^2, and eps follows, which
    is the published sampler with zeta = 0.

    Source: Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, arXiv 2305.08995,
    algorithm 1.

    Args:
        weight: lambda, of the prior.

    Raises:
        ValueError: If weight <= 0.
    """

    weight: float = 1.0

    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive("weight", self.weight)

    def shift(self, problem: Problem) -> Tensor:
        v = (problem.sigma / problem.alpha).square() / self.weight
        return v * problem.solved(v)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: it must be positive and finite.")
