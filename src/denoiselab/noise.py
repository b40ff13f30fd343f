"""Random numbers that depend on (seed, sample index, draw) alone: not on batch size, rank, order or device.

Philox4x32 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) in torch integer operations over
the whole batch, then Box-Muller. Seven rounds: the fewest that pass BigCrush in their table 2.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.schedules import Level

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 7

# Counters worked on together: their words stay in the cache.
_CHUNK = 2**17

# Independent families of numbers under one seed.
TRAINING, SAMPLING, LOADING, AUGMENTING = 0, 1, 2, 3

# Bits of a draw's number: noise that several samples share, the nodes of Brownian paths, the second two families. What
# is left counts the draws, or is the node's number.
_SHARED = 2**31
_PATHS = 2**30
_SECOND = 2**29

# The first block of four words of keys, above those of all elements of a draw.
_KEYS = 2**31


def philox(
    counter: Sequence[Tensor], key: tuple[int, int], rounds: int = _ROUNDS, work: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rounds of Philox4x32 on four int64 tensors of 32-bit values (broadcast together) under a 64-bit key.

    Args:
        counter: The four words.
        key: Two 32-bit words.
        rounds: Their number.
        work: `(3, 2, *)` int64, memory to work in; the result lies there.

    Returns:
        Words 0 and 2, `(2, *)` int64, and words 1 and 3, which are right in their lower 32 bits.
    """
    shape = torch.broadcast_tensors(*counter)[0].shape  # torch.broadcast_shapes imports sympy
    device = counter[0].device
    work = torch.empty(3, 2, *shape, dtype=torch.int64, device=device) if work is None else work
    even, odd, spare = work
    # A round exchanges the places of its two words of a kind; instead of moving them back, the next takes them as they
    # lie. So the last finds them in order if the first has them so or, of an odd number, the other way round.
    order = -1 if rounds % 2 else 1
    for words, pair in ((even, counter[::2]), (odd, counter[1::2])):
        words[0], words[1] = pair[::order]
    for multipliers, keys in _constants(key, rounds, len(shape), device):
        # The 64-bit product wraps, as it should, and the mask undoes the sign of its shifted high word. Only the low
        # word of `odd` counts.
        torch.mul(even, multipliers, out=spare)
        torch.bitwise_right_shift(spare, 32, out=even)
        even[0].bitwise_xor_(odd[1])
        even[1].bitwise_xor_(odd[0])
        even.bitwise_xor_(keys).bitwise_and_(_MASK)
        odd, spare = spare, odd
    return even, odd


@functools.lru_cache
def _constants(key: tuple[int, int], rounds: int, ndim: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The multipliers and keys of each round, in the order of its words, shaped `(2, 1, ..., 1)`."""
    rows = []
    for n in range(rounds):
        keys = [(k + n * w) & _MASK for k, w in zip(key, _WEYL, strict=True)]
        order = -1 if (rounds - n) % 2 else 1
        rows += [_MULTIPLIERS[::order], keys[::-order]]
    table = torch.tensor(rows, device=device).view(-1, 2, *[1] * ndim).unbind()
    return list(zip(table[::2], table[1::2], strict=True))


class Noise:
    """The random numbers of one batch; every call gives the next draw.

    Args:
        seed: Any integer from 0 to 2^63 - 1.
        index: `(B,)` int64, the global index of each sample.
        family: `TRAINING`, `SAMPLING`, `LOADING` or `AUGMENTING`; families of one seed are independent.
    """

    def __init__(self, seed: int, index: Tensor, family: int = SAMPLING) -> None:
        self.index = index
        self.draw = self._first = (family >> 1) * _SECOND
        self._key = (seed & _MASK, (seed >> 32) ^ ((family & 1) << 31))
        self._ahead: dict[int, Tensor] = {}
        self._size = -1
        self._given: Tensor | None = None
        # Fresh memory costs as much as the numbers.
        self._memory: tuple[Tensor, Tensor, Tensor] | None = None

    def shared(self, count: int) -> Noise:
        """Noise common to each `count` consecutive indices, `(B,)` of it, independent of the batch's own."""
        other = copy.copy(self)
        other._ahead = {}
        other.index = self.index // count
        other.draw, other._first = self.draw + _SHARED, self._first + _SHARED
        self.draw += 1
        return other

    def paired(self, given: Tensor) -> Noise:
        """The same noise, but the next `like` gives `given` `(B, *)`: the noise that a batch of samples was made of."""
        other = copy.copy(self)
        other._ahead, other._given = {}, given
        return other

    def keys(self, count: int) -> Tensor:
        """Two 64-bit words a sample and key, `(count, B, 2)` int64: no draw, and the same on each call."""
        block = torch.arange(count, device=self.index.device)[:, None] + _KEYS
        draw = torch.tensor(self._first, device=self.index.device)
        even, odd = philox((block, draw, self.index & _MASK, self.index >> 32), self._key)
        return (even | odd << 32).movedim(0, -1)

    def _words(
        self, draws: Sequence[int], elements: int, rows: slice = slice(None), work: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`philox` for some rows of the batch: `(2, draws, rows, ceil(elements / 4))` each."""
        device = self.index.device
        block = torch.arange(-(-elements // 4), device=device)
        index = self.index[rows, None]
        draw = torch.tensor(draws, device=device)[:, None, None]
        return philox((block, draw, index & _MASK, index >> 32), self._key, work=work)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Uniform draws in (0, 1), float64, `(B, *shape)`."""
        elements = math.prod(shape)
        even, odd = self._words([self.draw], elements)
        odd = odd & _MASK
        self.draw += 1
        bits = torch.stack((even[0], odd[0], even[1], odd[1]), dim=-1)[0].flatten(1)[:, :elements]
        return ((bits.to(torch.float64) + 0.5) * 2.0**-32).reshape(-1, *shape)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws `(B, *shape)`; made in float32, so that they are the same for every `dtype`."""
        elements = math.prod(shape)
        z = self._ahead.pop(self.draw, None)
        if z is None or z.shape[1] != elements:
            # A small draw costs as much as its operations: from the second of a size on, several are made together.
            many = max(1, min(16, 4 * _CHUNK // max(1, len(self.index) * elements)))
            count, self._size = many if elements == self._size else 1, elements
            draws = range(self.draw, self.draw + count)
            self._ahead = dict(zip(draws, self._normal(draws, elements), strict=True))
            z = self._ahead.pop(self.draw)
        self.draw += 1
        return z.reshape(-1, *shape).to(dtype)

    def node(self, number: int, x: Tensor) -> Tensor:
        """Standard normal draws like `x` `(B, *)`, addressed by a number instead of by order.

        Raises:
            ValueError: If the number is not from 0 to 2^29 - 1.
        """
        if not 0 <= number < _SECOND:
            raise ValueError(f"number={number}: it must be from 0 to {_SECOND - 1}.")
        elements = math.prod(x.shape[1:])
        return self._normal([self._first + _PATHS + number], elements)[0].reshape(x.shape).to(x)

    def _normal(self, draws: Sequence[int], elements: int) -> Tensor:
        """Standard normal draws `(draws, B, elements)`, float32."""
        device, blocks, size, many = self.index.device, -(-elements // 4), len(self.index), len(draws)
        # Without a cache to stay in, as on a GPU, one chunk holds all.
        step = min(size, max(1, _CHUNK // max(1, blocks * many))) if device.type == "cpu" else size
        shape = (many, step, blocks)
        if self._memory is None or self._memory[0].shape[2:] != shape:
            self._memory = (
                torch.empty(3, 2, *shape, dtype=torch.int64, device=device),
                torch.empty(3, 2, *shape, device=device),
                torch.empty(2, *shape, dtype=torch.int32, device=device),
            )
        work, (radius, angle, wave), signed = self._memory
        out = torch.empty(many, size, blocks, 2, 2, device=device)
        for first in range(0, size, max(1, step)):
            rows = slice(first, first + step)
            n = min(step, size - first)
            even, odd = self._words(draws, elements, rows, work if n == step else work[..., :n, :])
            r, a, w, s = (
                (radius, angle, wave, signed) if n == step else (t[..., :n, :] for t in (radius, angle, wave, signed))
            )
            torch.sqrt(r.copy_(even).add_(0.5).mul_(2.0**-32).log_().mul_(-2), out=r)
            # A signed word is an angle from -pi to pi: the same one.
            a.copy_(s.copy_(odd)).add_(0.5).mul_(2.0**-31 * math.pi)
            place = out[:, rows].movedim(3, 0)  # (2, draws, rows, blocks, 2)
            torch.mul(r, torch.cos(a, out=w), out=place[..., 0])
            torch.mul(r, a.sin_(), out=place[..., 1])
        return out.view(many, size, blocks * 4)[..., :elements]

    def like(self, x: Tensor) -> Tensor:
        """Standard normal draws shaped, typed and laid out like `x` `(B, *)`."""
        if self._given is not None:
            given, self._given = self._given, None
            return _laid_out(given.to(x), x)
        return _laid_out(self.normal(x.shape[1:], x.dtype), x)

    def between(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """Standard normal draws like `x` `(B, *)` for a step between two levels: the next draw, whichever they are."""
        return self.like(x)


class BrownianNoise(Noise):
    """Noise whose `between` follows one Brownian path a sample, whatever the steps: halving them refines the path.

    The path is B(snr), the clock in which the reverse process with the data known is additive, so that two steps
    with an unchanged prediction of x0 end where one does. It is built by halving intervals of half log-SNR, each
    node a function of (seed, sample index, node), down to steps of 2^-14.

    Source: the virtual Brownian tree of Li et al., Scalable Gradients for SDEs, arXiv 2001.01328, section 4.

    Args:
        seed: As in `Noise`.
        index: As in `Noise`.
        family: As in `Noise`.
    """

    _SPAN = 16.0  # of half log-SNR, either way; what lies beyond is taken as the end
    _DEPTH = 19

    def __init__(self, seed: int, index: Tensor, family: int = SAMPLING) -> None:
        super().__init__(seed, index, family)
        self._cells: list[tuple[int, Tensor]] = []
        self._last: tuple[int, Tensor] | None = None

    def shared(self, count: int) -> Noise:
        """Not of paths, whose nodes are addressed by number and would be the batch's own.

        Raises:
            ValueError: On every call.
        """
        raise ValueError("BrownianNoise: a path is not shared between samples; use Noise.")

    def between(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """The path's increment from `here` to `there`, levels inside the axis, in standard deviations."""
        first, last = self._place(here), self._place(there)
        if first == last:
            return self.like(x)
        start = self._last[1] if self._last is not None and self._last[0] == first else self._value(first, x)
        end = self._value(last, x)
        self._last = (last, end)
        return _laid_out((end - start) / math.sqrt(abs(self._clock(last) - self._clock(first))), x)

    def _place(self, level: Level) -> int:
        unit = (float(level.lam) / self._SPAN + 1) / 2
        out: int = round(min(1.0, max(0.0, unit)) * 2**self._DEPTH)
        return out

    def _clock(self, place: int) -> float:
        return math.exp(2 * self._SPAN * (2 * place / 2**self._DEPTH - 1))

    def _value(self, place: int, x: Tensor) -> Tensor:
        """The path at a dyadic place, `(B, *)`."""
        left, right = 0, 2**self._DEPTH
        at_left = torch.zeros_like(x)
        if place == left:
            return at_left
        at_right = math.sqrt(self._clock(right) - self._clock(left)) * self.node(0, x)
        if place == right:
            return at_right
        for depth in range(self._DEPTH):
            middle = (left + right) // 2
            if depth >= len(self._cells) or self._cells[depth][0] != middle:
                low, mid, high = (self._clock(p) for p in (left, middle, right))
                std = math.sqrt((mid - low) * (high - mid) / (high - low))
                share = (mid - low) / (high - low)
                value = torch.lerp(at_left, at_right, share) + std * self.node(middle, x)
                self._cells[depth:] = [(middle, value)]
            value = self._cells[depth][1]
            if place == middle:
                return value
            if place < middle:
                right, at_right = middle, value
            else:
                left, at_left = middle, value
        return at_left


def _laid_out(z: Tensor, x: Tensor) -> Tensor:
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return z.contiguous(memory_format=torch.channels_last)
    return z
