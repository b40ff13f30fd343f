"""A network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.networks import Conditioning
from denoiselab.networks.conditioning import check_conditioning


class GatedConvNet(nn.Module):
    """Residual convolutions whose channels are gated by the noise level.

    Args:
        shape: (C, H, W) of a sample.
        width: Channels inside.
        depth: Number of blocks.
    """

    conditioning: frozenset[str] = frozenset()  # fields of Conditioning that it takes

    def __init__(self, shape: Sequence[int], width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.gates = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, depth * width))
        self.head = nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        """Map `x` `(B, C, H, W)` and time labels `(B,)` to `(B, C, H, W)`."""
        check_conditioning(cond, self.conditioning)
        gates = self.gates((label / 1000)[:, None])[..., None, None].chunk(len(self.blocks), dim=1)
        h = self.stem(x)
        for block, gate in zip(self.blocks, gates, strict=True):
            h = h + gate * block(torch.nn.functional.silu(h))
        out: Tensor = self.head(torch.nn.functional.silu(h))
        return out
