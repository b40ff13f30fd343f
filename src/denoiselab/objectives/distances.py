"""Distances: functions of the error of a network's output, element by element."""

from __future__ import annotations

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
    """sqrt(error^2 + c^2) - c (Song and Dhariwal, Improved Consistency Training, arXiv 2310.14189, eq. 6)."""
    return error.square() / (torch.hypot(error, torch.full_like(error, c)) + c)
