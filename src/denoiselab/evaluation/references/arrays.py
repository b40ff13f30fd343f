"""Checks of the arrays of a reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rounding of an eigenvalue that is zero, relative to the largest variance.
_ROUNDING = 1e-6


def check_moments(mean: Tensor, covariance: Tensor, n: int, names: Sequence[str], file: str, option: str) -> None:
    """Check that n images can have these moments.

    Args:
        mean: `(D,)`.
        covariance: `(D, D)`.
        n: Number of images.
        names: Of both arrays.
        file: The option that names the file, and the file.
        option: The option that sets n.

    Raises:
        ValueError: If they cannot.
    """
    if mean.ndim != 1:
        raise ValueError(f"{file}: {names[0]} has shape {list(mean.shape)}; it must be a vector.")
    d = len(mean)
    if covariance.shape != (d, d):
        raise ValueError(f"{file}: {names[1]} has shape {list(covariance.shape)}; with {names[0]} it must be {[d, d]}.")
    for name, array in zip(names, (mean, covariance), strict=True):
        if not bool(array.isfinite().all()):
            raise ValueError(f"{file}: {name} holds NaN or infinity.")
    exact = covariance.double()
    slack = _ROUNDING * exact.diagonal().abs().max()
    if bool((exact - exact.T).abs().max() > slack):
        raise ValueError(f"{file}: {names[1]} is not symmetric, so not a covariance.")
    moved = exact + (slack + torch.finfo(torch.float64).tiny) * torch.eye(d, dtype=torch.float64)
    if bool(torch.linalg.cholesky_ex(moved).info):
        raise ValueError(f"{file}: {names[1]} has negative eigenvalues, so it is not a covariance.")
    if n <= d:  # the distance takes the rank from n
        values = torch.linalg.eigvalsh(exact)
        if bool(values[d - n] > torch.finfo(torch.float32).eps * values[-1]):
            raise ValueError(
                f"{file}: the rank of {names[1]} is above {n - 1}: it is of more images than {option}={n}."
            )


def check_features(features: Tensor, d: int, name: str, file: str) -> None:
    """Check that features are `(m, d)` and finite.

    Raises:
        ValueError: If they are not.
    """
    if features.ndim != 2 or features.shape[1] != d:
        raise ValueError(f"{file}: {name} has shape {list(features.shape)}; its rows must have {d} dimensions.")
    if not all(bool(part.isfinite().all()) for part in features.split(4096)):
        raise ValueError(f"{file}: {name} holds NaN or infinity.")


def check_images(images: Tensor, shape: Sequence[int], name: str, file: str) -> None:
    """Check that images are `(m, H, W, C)` uint8, for samples of shape (C, H, W).

    Raises:
        ValueError: If they are not.
    """
    wanted = [*shape[1:], shape[0]]
    if images.ndim != 4 or [*images.shape[1:]] != wanted or images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(
            f"{file}: {name} has shape {list(images.shape)} of {kind}; samples are {wanted} of uint8 (H, W, C)."
        )
