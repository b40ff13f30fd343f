"""Distances: functions of the error of a network's output, element by element or of a whole sample."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distance(Protocol):
    """The loss of a regression as a function of the error of the output."""

    def __call__(self, error: Tensor, /) -> Tensor:
        """The loss of each element of an error `(B, *)`, in the same shape; at least 0, and 0 for an error of 0."""
        ...


def l2(error: Tensor) -> Tensor:
    """error^2; its optimum is the posterior mean, the only one for which that holds."""
    return error.square()


def l1(error: Tensor) -> Tensor:
    """|error|; its optimum is the posterior median."""
    return error.abs()


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """error^2 up to delta, 2 delta |error| - delta^2 beyond: twice Huber's, so that it is `l2` near zero.

    Args:
        error: Of the output, `(B, *)`.
        delta: Where the square ends and the straight line starts.
    """
    return 2 * torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def pseudo_huber(error: Tensor, c: float = 0.03) -> Tensor:
    """sqrt(error^2 + c^2) - c of each element (Charbonnier et al., ICIP 1994); of samples, `sample_pseudo_huber`.

    Args:
        error: Of the output, `(B, *)`.
        c: Where the square, over 2 c, becomes the straight line.
    """
    return error.square() / (torch.hypot(error, torch.full_like(error, c)) + c)


class SampleDistance(Protocol):
    """A loss as a function of the error of a whole sample."""

    def __call__(self, error: Tensor, /) -> Tensor:
        """The loss `(B,)` of errors `(B, *)`; at least 0, and 0 with a gradient of 0 for an error of 0."""
        ...


def norm(error: Tensor) -> Tensor:
    """|error|, the root of the sum of squares; its gradient at 0 is 0."""
    length: Tensor = torch.linalg.vector_norm(error.flatten(1), dim=1)
    return length


def squared_norm(error: Tensor) -> Tensor:
    """|error|^2, the sum of squares."""
    return error.flatten(1).square().sum(1)


def sample_pseudo_huber(error: Tensor, c: float | None = None) -> Tensor:
    """sqrt(|error|^2 + c^2) - c (Song and Dhariwal, arXiv 2310.14189, section 3.3).

    Args:
        error: Of x0, `(B, *)`.
        c: None: 0.00054 sqrt(d), for d dimensions.

    Raises:
        ValueError: If c <= 0.
    """
    if c is None:
        c = 0.00054 * math.sqrt(error[0].numel())
    if c <= 0:
        raise ValueError(f"c={c}: it must be positive; without it, the distance is norm.")
    square = squared_norm(error)
    return square / ((square + c**2).sqrt() + c)
