"""Up- and down-sampling of images by two, by plain averages or through FIR filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def filter_2d(taps: Sequence[float]) -> Tensor:
    """The separable filter taps x taps, of sum 1, `(1, 1, K, K)`.

    Raises:
        ValueError: The number of taps is odd, so that there is no centre between two pixels, or they sum to 0.
    """
    if not taps or len(taps) % 2:
        raise ValueError(f"fir={list(taps)}: the number of taps must be even, as in [1, 3, 3, 1].")
    if sum(taps) == 0:
        raise ValueError(f"fir={list(taps)}: the taps must not sum to 0.")
    row = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return torch.outer(row, row)[None, None]


class Averages(nn.Module):
    """Halves by averages of 2x2 pixels: the FIR filter [1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H/2, W/2)`."""
        return F.avg_pool2d(x, 2)


class Repeats(nn.Module):
    """Doubles by repeating pixels: the FIR filter [1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _Filtered(nn.Module):
    """Holds the filter; it follows from the options, so checkpoints leave it out.

    Args:
        taps: Of the filter in each direction; an even number.

    Raises:
        ValueError: Their number is odd or their sum 0.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        self.register_buffer("kernel", filter_2d(taps), persistent=False)
        self.reach = len(taps) // 2 - 1  # pixels beyond the border that the output's first pixel sees

    def _weight(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return (gain * self.kernel).to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FIRDownsample(_Filtered):
    """Halves through an FIR filter; beyond the border is 0.

    Source: Karras et al., StyleGAN2, arXiv 1912.04958 (`upfirdn`); Zhang, arXiv 1904.11486.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H/2, W/2)`."""
        return F.conv2d(x, self._weight(x), stride=2, padding=self.reach, groups=x.shape[1])


class FIRUpsample(_Filtered):
    """Doubles by zeros between the pixels and an FIR filter of gain 4; beyond the border is 0.

    Source: as of `FIRDownsample`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        return F.conv_transpose2d(x, self._weight(x, 4.0), stride=2, padding=self.reach, groups=x.shape[1])


class FIRDownsampleConv(_Filtered):
    """FIR filter, then a 3x3 convolution of stride 2; zeros are padded once, before both.

    Source: as of `FIRDownsample`.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
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
    """Doubles, through an FIR filter, then a 3x3 convolution that sees the filter's values beyond the border too.

    Source: as of `FIRDownsample`.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        taps: Of the filter, at least 4.

    Raises:
        ValueError: There are two taps.
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
