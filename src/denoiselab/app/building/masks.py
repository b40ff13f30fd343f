"""Masks of known pixels: in a model's latents, pasted into its samples, and how well both sides of its edge agree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.codecs import Codec
from denoiselab.errors import BadInput
from denoiselab.inverse import LinearOperator
from denoiselab.stored import from_uint8


class Kept(LinearOperator):
    """The entries of each sample that its own mask marks as known, and 0 in place of the others.

    Args:
        known: Of the samples of a batch, `(B or 1, 1, h, w)` bool.
    """

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = known

    def forward(self, x: Tensor) -> Tensor:
        return x * self.known

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.known

    def pinv(self, y: Tensor) -> Tensor:
        return y * self.known


def in_latents(known: Tensor, codec: Codec, option: str) -> Tensor:
    """Which latents are known, `(1, h, w)` bool: those with all pixels of their block in `known` `(1, H, W)` bool.

    Raises:
        BadInput: If latents are no grid of equal blocks, or none is known.
    """
    (height, width), latent = known.shape[1:], codec.latent_shape
    if codec.latent_shape == codec.shape:
        return known
    if len(latent) != 3 or height % latent[1] or width % latent[2]:
        raise BadInput(f"{option}: latents of {type(codec).__name__} are no blocks of pixels; use a model of pixels.")
    blocks = (height // latent[1], width // latent[2])
    whole = F.max_pool2d(1 - known.float(), blocks) == 0
    if not bool(whole.any()):
        raise BadInput(
            f"{option}: no block of {blocks[0]} x {blocks[1]} pixels is known as a whole, so no latent is; mark more."
        )
    return whole


def pasted(samples: Tensor, given: Tensor, known: Tensor) -> Tensor:
    """Stored samples `(N, C, H, W)` with the known pixels of the given ones, `known` `(N or 1, 1, H, W)` bool."""
    return torch.where(known, given, samples)


def seam(samples: Tensor, whole: Tensor, given: Tensor, known: Tensor) -> dict[str, float]:
    """How visible the edge of a mask is, in the network's range, where 2 is from black to white.

    `jump` is the mean difference of neighbours across it in the pasted samples, `jump_given` that in the given images,
    and `known_rmse` what the known pixels of the samples missed by before they were pasted.

    Args:
        samples: Before they were pasted, `(N, C, H, W)` uint8.
        whole: Pasted.
        given: Images.
        known: `(N or 1, 1, H, W)` bool.
    """
    known = known.expand(len(given), -1, -1, -1)
    before, x, y = (from_uint8(part) for part in (samples, whole, given))
    return {
        "jump": _jump(x, known),
        "jump_given": _jump(y, known),
        "known_rmse": float((before - y)[known.expand_as(y)].double().square().mean().sqrt()),
    }


def _jump(x: Tensor, known: Tensor) -> float:
    """The mean absolute difference of neighbours of which one is known, in rows and columns."""
    across = [(x.diff(dim=d).abs(), known.int().diff(dim=d) != 0) for d in (-1, -2)]
    return float(torch.cat([size[where.expand_as(size)] for size, where in across]).double().mean())
