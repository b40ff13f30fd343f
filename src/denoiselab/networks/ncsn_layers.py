"""The blocks of NCSN's RefineNets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class InstanceNormPlus(nn.Module):
    """gamma (instance norm + alpha times the channels' means, normalized over channels) + beta.

    The means, which instance norm removes, keep colour. Source: Song and Ermon, arXiv 1907.05600, appendix A.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.alpha = (nn.Parameter(1 + 0.02 * torch.randn(channels)) for _ in range(2))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return _instance_norm_plus(x, self.gamma, self.alpha, self.beta)


class ConditionalInstanceNormPlus(nn.Module):
    """`InstanceNormPlus` with gamma, alpha and beta for each noise level.

    Args:
        levels: Noise levels.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(levels, 3 * channels)
        with torch.no_grad():
            nn.init.normal_(self.table.weight[:, : 2 * channels], 1, 0.02)
            nn.init.zeros_(self.table.weight[:, 2 * channels :])

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Map `x` `(B, C, H, W)` and indices of noise levels `(B,)` int64 to the shape of `x`."""
        return _instance_norm_plus(x, *self.table(index).chunk(3, dim=1))


class NoNorm(nn.Module):
    """The identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x


def _instance_norm_plus(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    # (B, C), in float32 at least, as their differences are small
    means = x.to(torch.promote_types(x.dtype, torch.float32)).mean(dim=(2, 3))
    variance, mean = torch.var_mean(means, dim=1, keepdim=True)
    means = ((means - mean) / torch.sqrt(variance + 1e-5)).to(x.dtype)
    h = F.group_norm(x, x.shape[1])  # a group for each channel is instance norm
    return h * gamma[..., None, None] + (gamma * alpha * means + beta)[..., None, None]


class RefineNetBlock(nn.Module):
    """Norm, ELU, conv; norm, ELU, conv; add the input.

    Args:
        dilation: Of the convolutions.
        down: Halve the resolution after the last convolution and after the shortcut's, by averages.
        deepens: Begin a level: the first convolution keeps the channels, and the shortcut has a convolution.
    """

    def __init__(
        self, channels_in: int, channels_out: int, dilation: int, norm: Norm, down: bool = False, deepens: bool = False
    ) -> None:
        super().__init__()
        between = channels_in if deepens else channels_out
        self.norm_in, self.norm_out = norm(channels_in), norm(between)
        self.conv_in = nn.Conv2d(channels_in, between, 3, padding=dilation, dilation=dilation)
        self.conv_out = nn.Conv2d(between, channels_out, 3, padding=dilation, dilation=dilation)
        self.down = down
        self.skip: nn.Module = nn.Identity()
        if down or (channels_in != channels_out and dilation == 1):
            self.skip = nn.Conv2d(channels_in, channels_out, 1)
        elif deepens or channels_in != channels_out:
            self.skip = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Map `x` `(B, channels_in, H, W)` and indices of noise levels `(B,)` to `(B, channels_out, H', W')`."""
        h = self.conv_in(F.elu(self.norm_in(x, index)))
        out: Tensor = self.conv_out(F.elu(self.norm_out(h, index))) + self.skip(x)
        return F.avg_pool2d(out, 2) if self.down else out


class ResidualUnits(nn.Module):
    """Residual units: twice norm, ELU, conv; add the input.

    Args:
        count: Units.
    """

    def __init__(self, channels: int, count: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2 * count))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2 * count))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        h = x
        for number, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = conv(F.elu(norm(h, index)))
            if number % 2:
                h = x = h + x
        return h


class Refiner(nn.Module):
    """Adapts its inputs, adds them at the resolution of the first, pools them in a chain, and adapts the result.

    Args:
        inputs: Channels of each input.
        channels: Of the output.
        units: Residual units at the end.
        pool: Keeps the resolution.
    """

    def __init__(self, inputs: Sequence[int], channels: int, units: int, norm: Norm, pool: nn.Module) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ResidualUnits(width, 2, norm) for width in inputs)
        fused = inputs if len(inputs) > 1 else []
        self.fuse_norms = nn.ModuleList(norm(width) for width in fused)
        self.fuse_convs = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for width in fused)
        self.chain_norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.chain_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.pool = pool
        self.units = ResidualUnits(channels, units, norm)

    def forward(self, inputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """Map inputs `(B, C_i, H_i, W_i)` and indices of noise levels `(B,)` to `(B, channels, H_0, W_0)`."""
        adapted = [adapt(x, index) for adapt, x in zip(self.adapt, inputs, strict=True)]
        size = adapted[0].shape[2:]
        parts = []
        for norm, conv, x in zip(self.fuse_norms, self.fuse_convs, adapted, strict=False):
            h = conv(norm(x, index))
            parts.append(h if h.shape[2:] == size else F.interpolate(h, size, mode="bilinear", align_corners=True))
        h = path = F.elu(functools.reduce(torch.add, parts) if parts else adapted[0])
        for norm, conv in zip(self.chain_norms, self.chain_convs, strict=True):
            path = conv(self.pool(norm(path, index)))
            h = h + path
        out: Tensor = self.units(h, index)
        return out
