"""Logits of images, which keep samples within the range of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.codecs.base import Normal
from denoiselab.networks.checks import check_positive

# From -1 to 1 lie the centres of 256 bins: half a bin is beyond either end.
_WITHIN = 255 / 256


class Logit:
    """Logits of images: y = scale logit(margin + (1 - 2 margin) p) with p = (127.5 (x + 1) + 1/2) / 256.

    p maps dequantised bytes, |x| <= 1 + 1/255, to [0, 1], and is clipped to it. Bytes are decoded exactly, and all
    latents to |x| <= (1 + 1/255) / (1 - 2 margin). `log_abs_det` relates the densities of logits and images. Train with
    `augmentation=dequantise`, as bytes without noise have no density.

    Source: Dinh et al., Density Estimation Using Real NVP, arXiv 1605.08803, section 4.1; in this symmetric form
    Papamakarios et al., Masked Autoregressive Flow, arXiv 1705.07057, with a margin of 1e-6 for MNIST and 0.05 for
    CIFAR-10.

    Args:
        shape: Shape (C, H, W) of an image, whose values are in [-1, 1].
        margin: Bounds |y| by scale times |logit(margin)|.
        scale: Factor on a logit, about one over the standard deviation of logits.

    Raises:
        ValueError: If `shape` is not an image's or a value is out of range.
    """

    def __init__(self, shape: Sequence[int], margin: float = 1e-6, scale: float = 1.0) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: logits are for images, (C, H, W).")
        if not 0 < margin < 0.5:
            raise ValueError(f"margin={margin}: it must lie between 0 and 1/2.")
        check_positive({"scale": scale})
        self.shape = self.latent_shape = tuple(shape)
        self.margin, self.scale = margin, scale

    def load(self) -> None:
        """Do nothing."""

    def encode_pixels(self, x: Tensor) -> Tensor:
        p, rest = self._sides(x)
        return (p.log() - rest.log()) * self.scale

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        return kept

    def decode(self, latents: Tensor) -> Tensor:
        # 2 sigmoid(y) - 1, without cancellation at grey.
        return torch.tanh(latents / (2 * self.scale)) / self._slope

    def log_abs_det(self, x: Tensor) -> Tensor:
        p, rest = self._sides(x)
        return (math.log(self.scale * self._slope / 2) - p.log() - rest.log()).flatten(1).sum(1)

    @property
    def _slope(self) -> float:
        return (1 - 2 * self.margin) * _WITHIN

    def _sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Margin + (1 - 2 margin) p, and one minus it, each without cancellation."""
        ends = (((1 + side * _WITHIN * x) / 2).clamp(0, 1) for side in (1, -1))
        p, rest = (self.margin + (1 - 2 * self.margin) * end for end in ends)
        return p, rest
