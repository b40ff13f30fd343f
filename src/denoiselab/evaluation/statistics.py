"""Mean and covariance of features as float64 sums, and the Fréchet distance between two."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


class GaussianStatistics:
    """Running sums n, sum x, sum x x^T: exact for any split into batches and ranks.

    Args:
        dimension: Of the features.
        features: Maps what is added to features; None where features are added.
    """

    def __init__(self, dimension: int, features: Callable[[Tensor], Tensor] | None = None) -> None:
        self._features = features
        self.n = torch.zeros((), dtype=torch.float64)
        self.sum = torch.zeros(dimension, dtype=torch.float64)
        self.outer = torch.zeros(dimension, dimension, dtype=torch.float64)

    def update(self, samples: Tensor) -> None:
        """Add features `(B, D)`, or samples `(B, *)` that have features.

        Raises:
            ValueError: A feature is not finite.
        """
        x = (samples if self._features is None else self._features(samples)).to("cpu", torch.float64)
        if not bool(x.isfinite().all()):
            bad = int((~x.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"the features of image {bad} of the batch are not finite.")
        self.n += len(x)
        self.sum += x.sum(0)
        self.outer += x.T @ x

    def reduce(self, device: torch.device) -> None:
        """Add up over all ranks; the copies go by way of `device`."""
        if dist.is_available() and dist.is_initialized():
            for tensor in (self.n, self.sum, self.outer):
                moved = tensor.to(device)
                dist.all_reduce(moved)
                tensor.copy_(moved)

    @property
    def mean(self) -> Tensor:
        """`(D,)` float64."""
        return self.sum / self.n

    @property
    def covariance(self) -> Tensor:
        """`(D, D)` float64, with the unbiased divisor n - 1."""
        return (self.outer - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)

    @property
    def fingerprint(self) -> str:
        """sha256 of the three sums."""
        digest = hashlib.sha256()
        for tensor in (self.n, self.sum, self.outer):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def frechet_distance(p: GaussianStatistics, q: GaussianStatistics) -> float:
    """|m_p - m_q|^2 + tr(S_p + S_q - 2 (S_p^1/2 S_q S_p^1/2)^1/2), by symmetric eigenvalues in float64.

    Source: Heusel et al., TTUR, arXiv 1706.08500, eq. 6.
    """
    values, vectors = torch.linalg.eigh(p.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ q.covariance @ root).clamp_min(0).sqrt().sum()
    trace = p.covariance.trace() + q.covariance.trace()
    return float((p.mean - q.mean).square().sum() + trace - 2 * cross)
