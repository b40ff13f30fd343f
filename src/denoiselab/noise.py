"""Random numbers that depend on (seed, sample index, draw) alone: not on batch size, rank, order or device.

Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011), in torch integer
operations over the whole batch, then Box-Muller.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

# Independent families of numbers under one seed.
TRAINING, SAMPLING = 0, 1

# Draw numbers from here on belong to noise that several samples share.
_SHARED = 2**31


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on four int64 tensors of 32-bit values (broadcast together) under a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit product wraps, as it should; masks undo the sign of the shifted high word.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


class Noise:
    """The random numbers of one batch; every call gives the next draw.

    Args:
        seed: Any integer from 0 to 2^63 - 1.
        index: `(B,)` int64, the global index of each sample.
        family: `TRAINING` or `SAMPLING`; families of one seed are independent.
    """

    def __init__(self, seed: int, index: Tensor, family: int = SAMPLING) -> None:
        self.index = index
        self.draw = 0
        self._key = (seed & _MASK, (seed >> 32) ^ (family << 31))

    def shared(self, count: int) -> Noise:
        """Noise common to each `count` consecutive indices, `(B,)` of it, independent of the batch's own."""
        other = copy.copy(self)
        other.index = self.index // count
        other.draw = self.draw + _SHARED
        self.draw += 1
        return other

    def _bits(self, elements: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four `(B, ceil(elements / 4))` int64 tensors of uniform 32-bit values."""
        block = torch.arange(-(-elements // 4), device=self.index.device)[None]
        index = self.index[:, None]
        draw = torch.full((1, 1), self.draw, dtype=torch.int64, device=self.index.device)
        self.draw += 1
        return philox((block, draw, index & _MASK, index >> 32), self._key)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Uniform draws in (0, 1), float64, `(B, *shape)`."""
        elements = math.prod(shape)
        bits = torch.stack(self._bits(elements), dim=-1).flatten(1)[:, :elements]
        return ((bits.to(torch.float64) + 0.5) * 2.0**-32).reshape(-1, *shape)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws `(B, *shape)`; made in float32, so every `dtype` sees the same numbers."""
        elements = math.prod(shape)
        u0, u1, u2, u3 = ((b.to(torch.float32) + 0.5) * 2.0**-32 for b in self._bits(elements))
        r0, r1 = torch.sqrt(-2 * u0.log()), torch.sqrt(-2 * u2.log())
        a0, a1 = u1 * (2 * math.pi), u3 * (2 * math.pi)
        z = torch.stack((r0 * a0.cos(), r0 * a0.sin(), r1 * a1.cos(), r1 * a1.sin()), dim=-1)
        return z.flatten(1)[:, :elements].reshape(-1, *shape).to(dtype)

    def like(self, x: Tensor) -> Tensor:
        """Standard normal draws shaped, typed and laid out like `x` `(B, *)`."""
        z = self.normal(x.shape[1:], x.dtype)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return z.contiguous(memory_format=torch.channels_last)
        return z
