"""The autoencoder with a Gaussian latent of latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import Pass
from denoiselab.codecs.layers import LatentModel

# LDM keeps log-variances in this range.
_LOG_VARIANCES = (-30.0, 20.0)


class AutoencoderKL(LatentModel):
    """Images to Gaussians over a small latent and back.

    The defaults are those of KL-f8, Stable Diffusion's.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.1
    and appendix G.

    Args:
        latent_channels: Channels Z of the latent.
        quantization_convs: Have 1x1 convolutions after the encoder and before the decoder.

    Further options and errors are those of `LatentModel`.
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
        scale: float | Sequence[float] = 0.18215,
        shift: float | Sequence[float] = 0.0,
    ) -> None:
        z = latent_channels
        parts = (channels, multipliers, blocks, attention_levels, middle_attention, groups, scale, shift)
        super().__init__(shape, *parts, encoded=2 * z, decoded=z, features=z, sizes={"latent_channels": z})
        self.after_encoder = nn.Conv2d(2 * z, 2 * z, 1) if quantization_convs else nn.Identity()
        self.before_decoder = nn.Conv2d(z, z, 1) if quantization_convs else nn.Identity()

    def encode_pixels(self, x: Tensor) -> Tensor:
        """Mean and log-variance of the latents of images `(B, C, H, W)`, as `(B, 2Z, h, w)`."""
        out: Tensor = self.after_encoder(self.encoder(x))
        return out

    def gaussian(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, log_variance = kept.chunk(2, dim=1)
        return mean, torch.exp(log_variance.clamp(*_LOG_VARIANCES) / 2)

    def encode_latents(self, moments: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scaled latents `(B, Z, h, w)`: the mean of `moments` `(B, 2Z, h, w)`, or a draw with the noise `eps`."""
        mean, std = self.gaussian(moments)
        assert std is not None
        return self.scaled(mean if eps is None else mean + std * eps)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents `(B, Z, h, w)`."""
        out: Tensor = self.decoder(self.before_decoder(self.unscaled(latents)))
        return out

    def train_pass(self, x: Tensor, normal: Normal) -> Pass:
        moments = self.encode_pixels(x)
        eps = normal(self.latent_shape).to(moments)
        return Pass(self.decode(self.encode_latents(moments, eps)), moments)
