"""Tables for discrete schedules, float64 `(steps,)`, from the data on: betas, and NCSN's sigmas.

`start` and `end` of betas are stated for a chain of `per` steps; a chain of another length has them multiplied by
per / steps, as Nichol and Dhariwal do, so that it adds the same noise in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.schedules.ve import check_sigmas


def linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02, per: int = 1000) -> Tensor:
    """Equal steps from start to end (Ho et al., DDPM, arXiv 2006.11239, section 4).

    Args:
        steps: Number of noise levels.
        start: First beta.
        end: Last beta.
        per: Length of the chain for which the betas are stated.

    Raises:
        ValueError: If a number is out of range, or a beta is not between 0 and 1.
    """
    return _scaled(_line(start, end, steps), steps, per)


def scaled_linear(steps: int = 1000, start: float = 0.00085, end: float = 0.012, per: int = 1000) -> Tensor:
    """Equal steps in the square root: DDPM's `quad`, latent diffusion's `linear`.

    Rombach et al., arXiv 2112.10752, have 0.0015 to 0.0195; Stable Diffusion 0.00085 to 0.012.

    Args:
        steps: Number of noise levels.
        start: First beta.
        end: Last beta.
        per: Length of the chain for which the betas are stated.

    Raises:
        ValueError: If a number is out of range, or a beta is not between 0 and 1.
    """
    if start <= 0 or end <= 0:
        raise ValueError(f"start={start} and end={end}: they must be positive.")
    return _scaled(_line(math.sqrt(start), math.sqrt(end), steps).square(), steps, per)


def cosine(steps: int = 1000, s: float = 0.008, maximum: float = 0.999) -> Tensor:
    """alpha^2 = cos^2((t + s) / (1 + s) pi / 2), betas at most `maximum` (arXiv 2102.09672, eq. 17).

    Args:
        steps: Number of noise levels.
        s: Offset of the time, which keeps the first betas from being too small.
        maximum: Largest beta.

    Raises:
        ValueError: If a number is out of range.
    """
    _check_steps(steps)
    if not 0 <= s < math.inf or not 0 < maximum < 1:
        raise ValueError(f"s={s} and maximum={maximum}: they must satisfy 0 <= s < inf and 0 < maximum < 1.")
    a = (torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps + s) / (1 + s) * math.pi / 2
    # 1 - cos^2 b / cos^2 a = sin(b - a) sin(b + a) / cos^2 a.
    before, after = a[:-1], a[1:]
    return (torch.sin(after - before) * torch.sin(after + before) / torch.cos(before).square()).clamp_max(maximum)


def const(steps: int = 1000, beta: float = 0.02, per: int = 1000) -> Tensor:
    """The same beta in each step (Ho et al.'s code).

    Args:
        steps: Number of noise levels.
        beta: Beta of each step.
        per: Length of the chain for which the betas are stated.

    Raises:
        ValueError: If a number is out of range, or a beta is not between 0 and 1.
    """
    return _scaled(_line(beta, beta, steps), steps, per)


def jsd(steps: int = 1000) -> Tensor:
    """1/T, 1/(T-1), ..., 1: each step destroys an equal share of the data (arXiv 1503.03585, section 2.4.1).

    Args:
        steps: Number of noise levels.

    Raises:
        ValueError: If steps < 2.
    """
    _check_steps(steps)
    return 1 / torch.arange(steps, 0, -1, dtype=torch.float64, device="cpu")


def warmup(steps: int = 1000, start: float = 1e-4, end: float = 0.02, fraction: float = 0.1, per: int = 1000) -> Tensor:
    """Equal steps from start to end in the first fraction of the chain, then end (Ho et al.'s code).

    Args:
        steps: Number of noise levels.
        start: First beta.
        end: Beta after the rise.
        fraction: Share of the chain in which betas rise.
        per: Length of the chain for which the betas are stated.

    Raises:
        ValueError: If a number is out of range, or a beta is not between 0 and 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: it must be more than 0 and at most 1.")
    betas = _line(end, end, steps)
    rising = int(steps * fraction)
    betas[:rising] = torch.linspace(start, end, rising, dtype=torch.float64, device="cpu")
    return _scaled(betas, steps, per)


def sigmoid(steps: int = 1000, start: float = 1e-4, end: float = 0.02, span: float = 6.0, per: int = 1000) -> Tensor:
    """A logistic curve from start to end, cut off at +-span (Xu et al., GeoDiff, arXiv 2203.02923, appendix).

    Args:
        steps: Number of noise levels.
        start: Beta at minus infinity, off the table.
        end: Beta at infinity, off the table.
        span: The logistic function is taken from -span to span.
        per: Length of the chain for which the betas are stated.

    Raises:
        ValueError: If a number is out of range, or a beta is not between 0 and 1.
    """
    if not 0 < span < math.inf:
        raise ValueError(f"span={span}: it must be positive and finite.")
    return _scaled(start + (end - start) * torch.sigmoid(_line(-span, span, steps)), steps, per)


def listed(values: Sequence[float]) -> Tensor:
    """The given betas.

    Args:
        values: Betas, from the data on.
    """
    return torch.tensor(list(values), dtype=torch.float64, device="cpu")


def geometric(steps: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Tensor:
    """NCSN's sigmas, each a constant multiple of the one before (arXiv 1907.05600, section 4.1).

    Args:
        steps: Number of noise levels.
        sigma_min: Smallest sigma.
        sigma_max: Largest sigma.

    Raises:
        ValueError: If steps < 2, or unless 0 < sigma_min < sigma_max.
    """
    check_sigmas(sigma_min, sigma_max)
    return _line(math.log(sigma_min), math.log(sigma_max), steps).exp()


def uniform(steps: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Tensor:
    """Sigmas in equal steps: NCSNv2's `sigma_dist: uniform`.

    Args:
        steps: Number of noise levels.
        sigma_min: Smallest sigma.
        sigma_max: Largest sigma.

    Raises:
        ValueError: If steps < 2, or unless 0 < sigma_min < sigma_max.
    """
    check_sigmas(sigma_min, sigma_max)
    return _line(sigma_min, sigma_max, steps)


def _line(start: float, end: float, steps: int) -> Tensor:
    _check_steps(steps)
    return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"steps={steps}: it must be at least 2.")


def _scaled(betas: Tensor, steps: int, per: int) -> Tensor:
    if per < 1:
        raise ValueError(f"per={per}: it must be at least 1.")
    betas = betas * (per / steps)
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(
            f"steps={steps}: betas stated per={per} steps run from {float(betas.min()):.3g} to "
            f"{float(betas.max()):.3g} in so many; each must lie between 0 and 1, both excluded."
        )
    return betas
