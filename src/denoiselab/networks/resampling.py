"""Up- and down-sampling of images by two: by plain averages, by convolutions, or through FIR filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Folding the doubling into the weight is faster from so many positions of a batch on.
_FOLDS_FROM = 256


def filter_2d(taps: Sequence[float]) -> Tensor:
    """The separable filter taps x taps, of sum 1, `(1, 1, K, K)`.

    Raises:
        ValueError: If the number of taps is odd or their sum 0.
    """
    if not taps or len(taps) % 2:
        raise ValueError(f"fir={list(taps)}: the number of taps must be even, as in [1, 3, 3, 1].")
    if sum(taps) == 0:
        raise ValueError(f"fir={list(taps)}: the taps must not sum to 0.")
    row = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return torch.outer(row, row)[None, None]


class Averages(nn.Module):
    """Halves by averages of 2x2 pixels: `(B, C, H, W)` to `(B, C, H/2, W/2)`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class Repeats(nn.Module):
    """Doubles by repeating pixels: `(B, C, H, W)` to `(B, C, 2H, 2W)`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """Halve the resolution by a 3x3 convolution of stride 2.

    Args:
        symmetric: Pad one position on all sides (improved-diffusion; diffusers' default), instead of right and bottom
            (TensorFlow's "SAME", Ho et al.'s networks).
    """

    def __init__(self, channels: int, symmetric: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)
        self.symmetric = symmetric

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H/2, W/2)`."""
        out: Tensor = self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))
        return out


class UpConv2d(nn.Conv2d):
    """A 3x3 convolution of an image that is doubled first, by repeating pixels.

    Both are done in one transposed convolution of stride 2 with a 4x4 kernel, whose taps are sums of the 3x3's: 4/9 of
    the multiplications, without storing the doubled image. For few positions they are done in turn.
    """

    fold: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        with torch.device("cpu"):  # on the meta device this imports torch._dynamo, which takes 2 s
            axis = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # which of 3 taps are in each of 4
            fold = torch.kron(axis, axis)
        self.register_buffer("fold", fold.to(self.weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, 2H, 2W)`."""
        if x.shape[0] * x.shape[2] * x.shape[3] < _FOLDS_FROM:
            return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        kernel = self.fold @ self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # (O, 16, I)
        return F.conv_transpose2d(x, kernel.unflatten(1, (4, 4)).permute(3, 0, 1, 2), self.bias, stride=2, padding=1)


class Upsample(nn.Module):
    """Double the resolution by repeating pixels and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        out: Tensor = self.conv(x)
        return out


class _Filtered(nn.Module):
    """Holds an FIR filter as a buffer that is not saved.

    Args:
        taps: Of the filter in each direction; an even number.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        self.register_buffer("kernel", filter_2d(taps), persistent=False)
        self.reach = len(taps) // 2 - 1  # pixels beyond the border that the first output depends on

    def _weight(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return (gain * self.kernel).to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FIRDownsample(_Filtered):
    """Halves through an FIR filter with zeros beyond the border: `(B, C, H, W)` to `(B, C, H/2, W/2)`.

    Source: Karras et al., StyleGAN2, arXiv 1912.04958 (`upfirdn`); Zhang, arXiv 1904.11486.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._weight(x), stride=2, padding=self.reach, groups=x.shape[1])


class FIRUpsample(_Filtered):
    """Doubles by zeros between the pixels and an FIR filter of gain 4: `(B, C, H, W)` to `(B, C, 2H, 2W)`.

    Source: as of `FIRDownsample`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._weight(x, 4.0), stride=2, padding=self.reach, groups=x.shape[1])


def halving(fir: Sequence[float] | None) -> nn.Module:
    """Halves through the filter of these taps, or by averages."""
    return Averages() if fir is None else FIRDownsample(fir)


def doubling(fir: Sequence[float] | None) -> nn.Module:
    """Doubles through the filter of these taps, or by repeating pixels."""
    return Repeats() if fir is None else FIRUpsample(fir)


class FIRDownsampleConv(_Filtered):
    """FIR filter, then a 3x3 convolution of stride 2; zeros are padded once, before both.

    Source: as of `FIRDownsample`.

    Args:
        taps: Of the filter.
    """

    def __init__(self, channels_in: int, channels_out: int, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__(taps)
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, H/2, W/2)`."""
        h = F.conv2d(x, self._weight(x), padding=self.reach + 1, groups=x.shape[1])
        out: Tensor = self.conv(h)
        return out


class FIRUpsampleConv(_Filtered):
    """Doubles, through an FIR filter, then a 3x3 convolution that uses the filter's values beyond the border too.

    Source: as of `FIRDownsample`.

    Args:
        taps: Of the filter, at least 4.
    """

    def __init__(self, channels_in: int, channels_out: int, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__(taps)
        if self.reach < 1:
            raise ValueError(f"fir={list(taps)}: a convolution after upsampling needs at least 4 taps.")
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, 2H, 2W)`."""
        h = F.conv_transpose2d(x, self._weight(x, 4.0), stride=2, padding=self.reach - 1, groups=x.shape[1])
        out: Tensor = self.conv(h)
        return out
