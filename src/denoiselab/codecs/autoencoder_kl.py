"""The autoencoder with a Gaussian latent of latent diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.codecs.layers import Decoder, Encoder, check_autoencoder, latent_shape

# LDM keeps log-variances in this range.
_LOG_VARIANCES = (-30.0, 20.0)


class AutoencoderKL(nn.Module):
    """Images to Gaussians over a small latent and back.

    The defaults are those of KL-f8, Stable Diffusion's.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.1
    and appendix G.

    Args:
        shape: Shape (C, H, W) of an image, whose values are in [-1, 1].
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more in the decoder).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        middle_attention: Have self-attention at the lowest resolution.
        latent_channels: Channels Z of the latent.
        quantization_convs: Have 1x1 convolutions after the encoder and before the decoder.
        groups: Groups of the group norms.
        scale: Factor on a latent less `shift`, before it meets a network: one over its standard deviation.
        shift: See `scale`.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, or one does not divide another.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (),
        middle_attention: bool = True,
        latent_channels: int = 4,
        quantization_convs: bool = True,
        groups: int = 32,
        scale: float = 0.18215,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        check_autoencoder(
            channels, multipliers, groups, attention_levels, scale, blocks=blocks, latent_channels=latent_channels
        )
        self.latent_shape = latent_shape("AutoencoderKL", shape, multipliers, latent_channels)
        if not math.isfinite(shift):
            raise ValueError(f"shift={shift}: it must be finite.")
        self.scale, self.shift = scale, shift
        parts = (channels, multipliers, blocks, attention_levels, middle_attention, groups)
        z = latent_channels
        self.encoder = Encoder(shape[0], 2 * z, *parts)
        self.decoder = Decoder(z, shape[0], *parts)
        self.after_encoder = nn.Conv2d(2 * z, 2 * z, 1) if quantization_convs else nn.Identity()
        self.before_decoder = nn.Conv2d(z, z, 1) if quantization_convs else nn.Identity()

    def encode_pixels(self, x: Tensor) -> Tensor:
        """Mean and log-variance of the latents of images `(B, C, H, W)`, as `(B, 2Z, h, w)`."""
        out: Tensor = self.after_encoder(self.encoder(x))
        return out

    def encode_latents(self, moments: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scaled latents `(B, Z, h, w)`: the mean of `moments` `(B, 2Z, h, w)`, or a draw with the noise `eps`."""
        mean, log_variance = moments.chunk(2, dim=1)
        z = mean if eps is None else mean + torch.exp(log_variance.clamp(*_LOG_VARIANCES) / 2) * eps
        return (z - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents `(B, Z, h, w)`."""
        out: Tensor = self.decoder(self.before_decoder(latents / self.scale + self.shift))
        return out
