"""Dropout whose masks depend on the sample and the layer alone: not on batch size, rank, order or device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Odd constants of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as int64.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


class Dropout(nn.Module):
    """Sets numbers to zero at random in training, and scales the others up by as much.

    The mask is a function of `key` alone: calls between two changes of it, such as the second computation of a
    checkpointed block, draw the same one. While there is no key, torch's generator draws masks.

    Args:
        p: Probability, rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        # Two words a sample, `(B, 2)` int64. A tensor, so that compiled blocks share their code.
        self.key: Tensor | None = None

    def extra_repr(self) -> str:
        """The probability, for `repr`."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """Of `x` `(B, *)`; in evaluation `x` itself."""
        if not self.training or not self.p:
            return x
        if self.key is None:
            return functional.dropout(x, self.p)
        values = min(round(self.p * 2**16), 2**16 - 1)
        drop = bits(self.key, x[0].numel(), len(x)).view(x.shape) < values - 2**15
        return x.masked_fill(drop, 0.0) * (2**16 / (2**16 - values))


def bits(key: Tensor, count: int, rows: int) -> Tensor:
    """Uniform int16 numbers `(rows, count)`, each row a function of its two words of `key`.

    SplitMix64 with a second word of the key between its two multiplications, four numbers a state.

    Args:
        key: `(B, 2)` int64.
        count: Numbers a row.
        rows: From row B on, the words of `key` are used again, each time with others added.
    """
    if rows != len(key):
        place = torch.arange(rows, device=key.device)
        key = key[place % len(key)] + (place // len(key) * _MIX[0])[:, None]
    first, second = key[:, :1], key[:, 1:]
    state = torch.arange(-(-count // 4), device=key.device) * _STEP + first
    # The shift copies the sign, which here loses one bit of 64; the last one may not.
    state.bitwise_xor_(state >> 32).mul_(_MIX[0]).bitwise_xor_(second)
    state.bitwise_xor_(state >> 29).mul_(_MIX[1])
    state.bitwise_xor_((state >> 32).bitwise_and_(0xFFFFFFFF))
    return state.view(torch.int16)[:, :count]
