"""Images of a lower resolution as conditioning: super-resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise

# Noise on the images of generated samples has indices beyond those of samples.
_FIRST_INDEX = 2**42


class LowResolution(Conditioner):
    """The image, each pixel the mean of `factor` x `factor` of its own, as `image` `(B, C, H / factor, W / factor)`.

    With noise augmentation it is z -> sqrt(1 - s^2) z + s eps; in training s is uniform between 0 and `noise`. The
    network does not get it, or with `levels` it does, as `class_label` `(B,)`: s = k / (levels - 1) * noise for the
    level k. Samples are upsampled from held-out images, in turn. There is no null condition.

    Sources: Saharia et al., Image Super-Resolution via Iterative Refinement, arXiv 2104.07636, section 2; Ho et al.,
    Cascaded Diffusion Models, arXiv 2106.15282, section 4.

    Args:
        shape: Shape (C, H, W) of an image.
        factor: Of the downsampling; it divides H and W.
        noise: Largest standard deviation s of training, from 0 to 1; 0 for none.
        sample_noise: The s of generated samples; with `levels` the level nearest to it.
        levels: Number of noise levels that the network tells apart; None for a network that does not get s.

    Raises:
        ValueError: If `shape` is not an image's, `factor` does not divide it, or a value is out of range.
    """

    names = frozenset({"image"})
    network_options: Mapping[str, str] = {"image_channels": "images"}

    def __init__(
        self,
        shape: Sequence[int],
        factor: int = 4,
        noise: float = 0.0,
        sample_noise: float = 0.0,
        levels: int | None = None,
    ) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: it must be an image's, (C, H, W).")
        if factor < 2 or shape[1] % factor or shape[2] % factor:
            raise ValueError(f"factor={factor}: it must be at least 2 and divide {shape[1]} and {shape[2]}.")
        for name, value in (("noise", noise), ("sample_noise", sample_noise)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: it must be from 0 to 1.")
        if levels is not None and (levels < 2 or not noise or sample_noise > noise):
            raise ValueError(
                f"levels={levels}: there must be at least 2, noise={noise} above 0, and sample_noise={sample_noise} at "
                "most that."
            )
        self.factor, self.noise, self.sample_noise, self.levels = factor, noise, sample_noise, levels
        if levels is not None:
            self.names = frozenset({"image", "class_label"})
            self.network_options = {**self.network_options, "num_classes": "noise levels"}
        self._held_out: HeldOut | None = None

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        small = F.avg_pool2d(clean.images, self.factor)
        if not self.noise:
            return Conditioning(image=small)
        u = noise.uniform()
        level = None if self.levels is None else (u * self.levels).long()
        s = (self.noise * (u if level is None or self.levels is None else level / (self.levels - 1))).to(small)
        s = s[:, None, None, None]
        return Conditioning(image=(1 - s.square()).sqrt() * small + s * noise.like(small), class_label=level)

    def given(self, clean: Clean) -> Conditioning:
        return Conditioning(image=F.avg_pool2d(clean.images, self.factor), class_label=self._level(clean.labels, 0.0))

    def sample(self, index: Tensor) -> Conditioning:
        if self._held_out is None:
            raise ValueError("conditioner=low_resolution: samples are upsampled from held-out images; there are none.")
        small = F.avg_pool2d(self._held_out(index).images, self.factor)
        if self.sample_noise:
            eps = Noise(0, _FIRST_INDEX + index, SAMPLING).like(small)
            small = math.sqrt(1 - self.sample_noise**2) * small + self.sample_noise * eps
        return Conditioning(image=small, class_label=self._level(index, self.sample_noise))

    def _level(self, like: Tensor, s: float) -> Tensor | None:
        """The level nearest to s, one for each row of `like` `(B,)`; None without levels."""
        if self.levels is None:
            return None
        return torch.full_like(like, round(s / self.noise * (self.levels - 1)))

    def set_held_out(self, held_out: HeldOut) -> None:
        self._held_out = held_out
