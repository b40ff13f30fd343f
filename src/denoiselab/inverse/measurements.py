"""Operators with closed forms: identity, masks, average pooling, grey and compressed sensing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.inverse.operators import LinearOperator
from denoiselab.noise import AUGMENTING, Noise


class Identity(LinearOperator):
    """y = x + noise: denoising, as in Sohl-Dickstein et al., arXiv 1503.03585, figure 3."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return y / (v + s2)

    def pinv(self, y: Tensor) -> Tensor:
        return y


class Mask(LinearOperator):
    """The known entries of x, `(B, C, M)` of images whose mask has M known pixels: inpainting.

    Args:
        known: Of the last dimensions of a sample, such as `(H, W)`: nonzero where x is known.

    Raises:
        ValueError: If all or no entries are known.
    """

    known: Tensor
    _places: Tensor

    def __init__(self, known: Tensor | Sequence[object]) -> None:
        super().__init__()
        self._know(torch.as_tensor(known) != 0)

    def _know(self, known: Tensor) -> None:
        if not bool(known.any()) or bool(known.all()):
            raise ValueError(f"known: {'all' if bool(known.any()) else 'no'} entries are known; some must be.")
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("_places", known.flatten().nonzero()[:, 0], persistent=False)

    def bind(self, shape: Sequence[int]) -> Self:
        mask = tuple(self.known.shape)
        if tuple(shape)[-len(mask) :] != mask:
            raise ValueError(
                f"known: its shape is {list(mask)}, and samples have {list(shape)}; give one of their size."
            )
        return super().bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-self.known.ndim)[..., self._places]

    def adjoint(self, y: Tensor) -> Tensor:
        out = y.new_zeros(*y.shape[:-1], self.known.numel())
        return out.index_copy(-1, self._places, y).reshape(len(y), *self.shape)

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return y / (v + s2)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)


class Box(Mask):
    """All pixels but those of a box in the middle.

    Args:
        size: Side of the box, as a fraction of the image's, in (0, 1).

    Raises:
        ValueError: If the size is out of range.
    """

    def __init__(self, size: float = 0.5) -> None:
        LinearOperator.__init__(self)
        _check_fraction("size", size)
        self.size = size

    def bind(self, shape: Sequence[int]) -> Self:
        known = torch.ones(tuple(shape)[-2:], dtype=torch.bool)
        sides = [max(1, round(self.size * side)) for side in known.shape]
        starts = [(side - inner) // 2 for side, inner in zip(known.shape, sides, strict=True)]
        known[tuple(slice(start, start + inner) for start, inner in zip(starts, sides, strict=True))] = False
        self._know(known)
        return super().bind(shape)


class RandomPixels(Mask):
    """A random choice of pixels, the same of all samples.

    Args:
        ratio: Known fraction of the pixels, in (0, 1).
        seed: Of the choice.

    Raises:
        ValueError: If the ratio is out of range.
    """

    def __init__(self, ratio: float = 0.5, seed: int = 0) -> None:
        LinearOperator.__init__(self)
        _check_fraction("ratio", ratio)
        self.ratio, self.seed = ratio, seed

    def bind(self, shape: Sequence[int]) -> Self:
        size = tuple(shape)[-2:]
        places = _chosen(math.prod(size), self.ratio, _draws(self.seed))
        self._know(torch.zeros(math.prod(size)).index_fill(0, places, 1).reshape(size) != 0)
        return super().bind(shape)


class AveragePool(LinearOperator):
    """Means of blocks of factor x factor pixels, `(B, C, H / factor, W / factor)`: super-resolution.

    Args:
        factor: Side of a block, at least 2.

    Raises:
        ValueError: If factor < 2.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(f"factor={factor}: it must be at least 2.")
        self.factor = factor

    def bind(self, shape: Sequence[int]) -> Self:
        check_images(f"factor={self.factor}", shape, self.factor)
        return super().bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return y / (v / self.factor**2 + s2)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


class Grey(LinearOperator):
    """The weighted sum of the channels, `(B, 1, *)`: the measurement of colourisation.

    Args:
        weights: Of the channels; None for their mean. Rec. 601's luma is [0.299, 0.587, 0.114].

    Raises:
        ValueError: If all weights are 0.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self._given = weights is not None
        self._weigh(torch.tensor([1.0] if weights is None else weights, dtype=torch.float64))

    def _weigh(self, weights: Tensor) -> None:
        if not bool((weights != 0).any()):
            raise ValueError(f"weights={weights.tolist()}: one must not be 0.")
        self.register_buffer("weights", weights, persistent=False)
        self._norm2 = float(weights.square().sum())

    def bind(self, shape: Sequence[int]) -> Self:
        channels = shape[0]
        if channels < 2:
            raise ValueError(f"operator=Grey: samples of shape {list(shape)} have no colours.")
        if not self._given:
            self._weigh(torch.full((channels,), 1 / channels, dtype=torch.float64, device=self.weights.device))
        if len(self.weights) != channels:
            raise ValueError(
                f"weights={self.weights.tolist()}: give one for each of the {channels} channels of a sample."
            )
        return super().bind(shape)

    def _column(self, like: Tensor) -> Tensor:
        return self.weights.to(like).reshape(-1, *[1] * (like.ndim - 2))

    def forward(self, x: Tensor) -> Tensor:
        return (self._column(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._column(y) * y

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return y / (v * self._norm2 + s2)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self._norm2


class CompressedSensing(LinearOperator):
    """Some rows of an orthogonal transform of random signs and a Hartley transform of the whole sample, `(B, M)`.

    Source: structurally random matrices, Do et al., IEEE Transactions on Signal Processing 60 (2012), with the
    discrete Hartley transform, which is its own inverse.

    Args:
        ratio: Number of measurements a number of the sample, in (0, 1).
        seed: Of signs and rows.

    Raises:
        ValueError: If the ratio is out of range.
    """

    _signs: Tensor
    _rows: Tensor

    def __init__(self, ratio: float = 0.25, seed: int = 0) -> None:
        super().__init__()
        _check_fraction("ratio", ratio)
        self.ratio, self.seed = ratio, seed

    def bind(self, shape: Sequence[int]) -> Self:
        size = math.prod(shape)
        draws = _draws(self.seed)
        self.register_buffer("_rows", _chosen(size, self.ratio, draws), persistent=False)
        self.register_buffer("_signs", (draws.uniform([size])[0] < 0.5) * 2.0 - 1.0, persistent=False)
        return super().bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return _hartley(self._signs.to(x) * x.flatten(1))[:, self._rows]

    def adjoint(self, y: Tensor) -> Tensor:
        full = y.new_zeros(len(y), len(self._signs)).index_copy(1, self._rows, y)
        return (self._signs.to(y) * _hartley(full)).reshape(len(y), *self.shape)

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return y / (v + s2)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)


def check_images(option: str, shape: Sequence[int], factor: int = 1) -> None:
    """Refuse samples that are no images `(C, H, W)` whose sides the factor divides.

    Raises:
        ValueError: If they are not.
    """
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        divided = f" with sides that are multiples of {factor}" if factor > 1 else ""
        raise ValueError(f"{option}: samples have the shape {list(shape)}; it takes images (C, H, W){divided}.")


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value}: it must be above 0 and below 1.")


def _draws(seed: int) -> Noise:
    """Of an operator, independent of those of samples of the same seed."""
    return Noise(seed, torch.zeros(1, dtype=torch.int64), AUGMENTING)


def _chosen(size: int, ratio: float, draws: Noise) -> Tensor:
    """A random choice of max(1, ratio size) of `size` places, in order."""
    order = draws.uniform([size])[0].argsort()
    return order[: max(1, round(ratio * size))].sort().values


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform of rows `(B, D)`: symmetric, and its own inverse."""
    f: Tensor = torch.fft.fft(x, norm="ortho")
    return f.real - f.imag
