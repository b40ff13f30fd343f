"""Operators that filter images: circular blurs and bicubic reduction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.inverse.measurements import check_images
from denoiselab.inverse.operators import LinearOperator


class Blur(LinearOperator):
    """Circular convolution of each channel of images with a kernel, diagonal under the Fourier transform.

    The pseudo-inverse leaves out frequencies that the kernel passes less of than `cut`, relative to the most.

    Args:
        kernel: `(h, w)`, rows from top to bottom; its middle, (h // 2, w // 2), lies on the pixel. It is divided by its
            sum.
        cut: Not negative.

    Raises:
        ValueError: If the kernel is no matrix of finite numbers of another sum than 0, or cut < 0.
    """

    transfer: Tensor

    def __init__(self, kernel: Tensor | Sequence[Sequence[float]], cut: float = 0.01) -> None:
        super().__init__()
        if cut < 0:
            raise ValueError(f"cut={cut}: it must not be negative.")
        self.cut = cut
        try:
            self._kernel = torch.as_tensor(kernel, dtype=torch.float64)
        except ValueError:
            raise ValueError("kernel: its rows must be of numbers, and of one length.") from None
        if self._kernel.ndim != 2 or not bool(self._kernel.isfinite().all()) or float(self._kernel.sum()) == 0:
            raise ValueError("kernel: it must be a matrix of finite numbers whose sum is not 0.")

    def bind(self, shape: Sequence[int]) -> Self:
        check_images(f"operator={type(self).__name__}", shape)
        kernel, (height, width) = self._kernel, tuple(shape)[1:]
        rows = (torch.arange(kernel.shape[0]) - kernel.shape[0] // 2) % height
        columns = (torch.arange(kernel.shape[1]) - kernel.shape[1] // 2) % width
        point = torch.zeros(height, width, dtype=torch.float64)
        point.index_put_((rows[:, None], columns), kernel / kernel.sum(), accumulate=True)
        self.register_buffer("transfer", torch.fft.rfft2(point), persistent=False)
        return super().bind(shape)

    def _filtered(self, x: Tensor, factor: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * factor, s=x.shape[-2:])
        return out.to(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.transfer)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.transfer.conj())

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        return self._filtered(y, 1 / (v * self.transfer.abs().square() + s2))

    def pinv(self, y: Tensor) -> Tensor:
        passed = self.transfer.abs()
        kept = passed > self.cut * passed.max()
        return self._filtered(y, torch.where(kept, self.transfer.conj() / passed.square(), 0))


class GaussianBlur(Blur):
    """Blur by a Gaussian, cut off at four standard deviations.

    Args:
        std: In pixels.

    Raises:
        ValueError: If std <= 0.
    """

    def __init__(self, std: float = 1.0, cut: float = 0.01) -> None:
        if not 0 < std < math.inf:
            raise ValueError(f"std={std}: it must be positive.")
        line = torch.arange(-math.ceil(4 * std), math.ceil(4 * std) + 1, dtype=torch.float64) / std
        weight = (-line.square() / 2).exp()
        super().__init__(weight[:, None] * weight, cut)


class MotionBlur(Blur):
    """Blur along a line, whose points are spread over the four pixels around them.

    Args:
        length: Of the line, in pixels.
        angle: From the horizontal, in degrees counter-clockwise.

    Raises:
        ValueError: If length <= 0.
    """

    def __init__(self, length: float = 5.0, angle: float = 0.0, cut: float = 0.01) -> None:
        if not 0 < length < math.inf:
            raise ValueError(f"length={length}: it must be positive.")
        reach = math.ceil(length / 2) + 1
        along = length * ((torch.arange(64 * reach, dtype=torch.float64) + 0.5) / (64 * reach) - 0.5)
        at = torch.stack((-math.sin(math.radians(angle)) * along, math.cos(math.radians(angle)) * along)) + reach
        line = torch.arange(2 * reach + 1, dtype=torch.float64)
        rows, columns = (1 - (line[:, None, None] - at).abs()).clamp_min(0).unbind(1)
        super().__init__(rows @ columns.T, cut)


class Bicubic(LinearOperator):
    """Bicubic reduction with antialiasing, as of PIL, `(B, C, H / factor, W / factor)`: super-resolution.

    It is L x R^T with matrices of the rows and the columns, so that A A^T has the products of their eigenvalues.

    Args:
        factor: At least 2.

    Raises:
        ValueError: If factor < 2.
    """

    _left: Tensor
    _right: Tensor

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(f"factor={factor}: it must be at least 2.")
        self.factor = factor

    def bind(self, shape: Sequence[int]) -> Self:
        check_images(f"factor={self.factor}", shape, self.factor)
        for name, side in (("left", shape[1]), ("right", shape[2])):
            points = torch.eye(side, dtype=torch.float64)[None, None]
            reduced = F.interpolate(points, (side // self.factor, side), mode="bicubic", antialias=True)[0, 0]
            self.register_buffer(f"_{name}", reduced, persistent=False)
            values, vectors = torch.linalg.eigh(reduced @ reduced.T)
            self.register_buffer(f"_{name}_values", values, persistent=False)
            self.register_buffer(f"_{name}_vectors", vectors, persistent=False)
        return super().bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self._left.to(x) @ x @ self._right.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return self._left.to(y).T @ y @ self._right.to(y)

    def gram_inverse(self, y: Tensor, v: Tensor | float, s2: Tensor | float) -> Tensor:
        left, right = self.get_buffer("_left_vectors").to(y), self.get_buffer("_right_vectors").to(y)
        values = self.get_buffer("_left_values")[:, None] * self.get_buffer("_right_values")
        return (left @ ((left.T @ y @ right) / (v * values.to(y) + s2)) @ right.T).to(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(self.gram_inverse(y, 1, 0))
