"""What the header and the arrays of a reference must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Of the largest variance: what rounding leaves of an eigenvalue that is zero.
_ROUNDING = 1e-6


def check_moments(mean: Tensor, covariance: Tensor, n: int, names: Sequence[str], file: str, option: str) -> None:
    """Refuse moments that no n images have.

    Args:
        mean: `(D,)`.
        covariance: `(D, D)`.
        n: Number of images.
        names: Of both arrays.
        file: The option that names the file, and the file.
        option: That gives n.

    Raises:
        ValueError: Says what is wrong with which array.
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
        raise ValueError(f"{file}: {names[1]} is not symmetric, so it is no covariance.")
    moved = exact + (slack + torch.finfo(torch.float64).tiny) * torch.eye(d, dtype=torch.float64)
    if bool(torch.linalg.cholesky_ex(moved).info):
        raise ValueError(f"{file}: {names[1]} has negative eigenvalues, so it is no covariance.")
    if n <= d:  # the distance takes the rank from n
        values = torch.linalg.eigvalsh(exact)
        if bool(values[d - n] > torch.finfo(torch.float32).eps * values[-1]):
            raise ValueError(
                f"{file}: the rank of {names[1]} is above {n - 1}: it is of more images than {option}={n}."
            )


def check_features(features: Tensor, d: int, name: str, file: str) -> None:
    """Refuse features that are not `(m, d)` and finite.

    Raises:
        ValueError: Says what is wrong with the array.
    """
    if features.ndim != 2 or features.shape[1] != d:
        raise ValueError(f"{file}: {name} has shape {list(features.shape)}; its rows must have {d} dimensions.")
    if not all(bool(part.isfinite().all()) for part in features.split(4096)):
        raise ValueError(f"{file}: {name} holds NaN or infinity.")


def check_images(images: Tensor, shape: Sequence[int], name: str, file: str) -> None:
    """Refuse images `(m, H, W, C)` that are not uint8 of the samples' shape (C, H, W).

    Raises:
        ValueError: Says what is wrong with the array.
    """
    wanted = [*shape[1:], shape[0]]
    if images.ndim != 4 or [*images.shape[1:]] != wanted or images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(
            f"{file}: {name} has shape {list(images.shape)} of {kind}; samples are {wanted} of uint8 (H, W, C)."
        )


def protocol_of(path: Path) -> dict[str, Any]:
    """The protocol in the header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a file of reference statistics; a sentence without the path.
    """
    try:
        with safe_open(path, framework="pt") as file:
            protocol = json.loads((file.metadata() or {})["protocol"])
        kinds = {"n": int, "shape": list, "extractor": str, "extractor_sha256": str, "moments": list, "features": list}
        if all(type(protocol[name]) is kind for name, kind in kinds.items()) and protocol["n"] > 0:
            return dict(protocol)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ValueError("it is not a file of reference statistics")
