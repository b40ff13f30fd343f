"""Loss weights, written once in x0-space: the weight of |x0_hat - x0|^2 at a level.

The objective converts them to the space of the network's output, where the published forms reappear.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from denoiselab.schedules import Level

Weighting = Callable[[Level], Tensor]


def snr(level: Level) -> Tensor:
    """|eps_hat - eps|^2, the L_simple of Ho et al. (DDPM, arXiv 2006.11239, eq. 14)."""
    return level.snr
