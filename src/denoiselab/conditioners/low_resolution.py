"""Images of a lower resolution as conditioning: super-resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise

# The draws of samples' images have indices that no sample has.
_FIRST_INDEX = 2**42


class LowResolution(Conditioner):
    """The image, each pixel the mean of `factor` x `factor` of its own, as `image` `(B, C, H / factor, W / factor)`.

    With noise augmentation it is z -> sqrt(1 - s^2) z + s eps. In training s is uniform between 0 and `noise`; the
    network is not told. Samples are upsampled from held-out images, in turn. There is no null: an upsampler is not
    guided.

    Sources: Saharia et al., Image Super-Resolution via Iterative Refinement, arXiv 2104.07636, section 2; Ho et al.,
    Cascaded Diffusion Models, arXiv 2106.15282, section 4.

    Args:
        shape: Shape (C, H, W) of an image.
        factor: Of the downsampling; it divides H and W.
        noise: Largest standard deviation s of training, from 0 to 1; 0 for none.
        sample_noise: The s of samples.

    Raises:
        ValueError: The shape is not an image's, `factor` is less than 2 or does not divide it, or a noise is out of
            range.
    """

    names: frozenset[str] = frozenset({"image"})

    def __init__(self, shape: Sequence[int], factor: int = 4, noise: float = 0.0, sample_noise: float = 0.0) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: it must be an image's, (C, H, W).")
        if factor < 2 or shape[1] % factor or shape[2] % factor:
            raise ValueError(f"factor={factor}: it must be at least 2 and divide {shape[1]} and {shape[2]}.")
        for name, value in (("noise", noise), ("sample_noise", sample_noise)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: it must be from 0 to 1.")
        self.factor, self.noise, self.sample_noise = factor, noise, sample_noise
        self._held_out: HeldOut | None = None

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        """The images downsampled, with noise of a random level."""
        small = F.avg_pool2d(clean.images, self.factor)
        if self.noise:
            s = (self.noise * noise.uniform()).to(small)[:, None, None, None]
            small = (1 - s.square()).sqrt() * small + s * noise.like(small)
        return Conditioning(image=small)

    def given(self, clean: Clean) -> Conditioning:
        """The images downsampled."""
        return Conditioning(image=F.avg_pool2d(clean.images, self.factor))

    def sample(self, index: Tensor) -> Conditioning:
        """Sample i is made of the held-out image i, in turn."""
        if self._held_out is None:
            raise ValueError("conditioner=low_resolution: there are no data whose images could be upsampled.")
        small = F.avg_pool2d(self._held_out(index).images, self.factor)
        if self.sample_noise:
            eps = Noise(0, _FIRST_INDEX + index, SAMPLING).like(small)
            small = math.sqrt(1 - self.sample_noise**2) * small + self.sample_noise * eps
        return Conditioning(image=small)

    def meet(self, held_out: HeldOut) -> None:
        """Upsample these."""
        self._held_out = held_out
