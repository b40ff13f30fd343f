"""The autoencoder with a codebook of latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.codecs.layers import Decoder, Encoder, check_autoencoder, latent_shape


class Quantizer(nn.Module):
    """A codebook: each vector is replaced by the nearest of its entries.

    Source: van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937, equations 1 and 2.

    Args:
        codes: Number of entries.
        features: Of an entry.
    """

    def __init__(self, codes: int, features: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, features)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def indices(self, z: Tensor) -> Tensor:
        """The indices `(B, h, w)` int64 of the entries nearest to `(B, Z, h, w)`."""
        vectors = z.permute(0, 2, 3, 1)  # (B, h, w, Z)
        nearest = torch.cdist(vectors.flatten(0, 2), self.codebook.weight).argmin(1)
        return nearest.reshape(vectors.shape[:3])

    def entries(self, indices: Tensor) -> Tensor:
        """The entries `(B, Z, h, w)` of indices `(B, h, w)`."""
        out: Tensor = self.codebook(indices).permute(0, 3, 1, 2)
        return out

    def forward(self, z: Tensor) -> Tensor:
        """The entries nearest to `(B, Z, h, w)`, in the same shape; its derivative is the identity's."""
        return z + (self.entries(self.indices(z)) - z).detach()


class VQModel(nn.Module):
    """Images to a grid of codebook entries and back; networks are trained on what is not yet quantised.

    The defaults are those of VQ-f4, which LDM's faces, bedrooms and ImageNet use.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.1
    and appendix G.

    Args:
        shape: Shape (C, H, W) of an image, whose values are in [-1, 1].
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more in the decoder).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        middle_attention: Have self-attention at the lowest resolution.
        latent_channels: Channels between encoder and codebook, and codebook and decoder.
        code_features: Channels Z of the latent, the features of an entry; None for `latent_channels`.
        codes: Entries of the codebook.
        groups: Groups of the group norms.
        scale: Factor on a latent, before it meets a network.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, or one does not divide another.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (),
        middle_attention: bool = True,
        latent_channels: int = 3,
        code_features: int | None = None,
        codes: int = 8192,
        groups: int = 32,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        features = latent_channels if code_features is None else code_features
        check_autoencoder(
            channels,
            multipliers,
            groups,
            attention_levels,
            scale,
            blocks=blocks,
            latent_channels=latent_channels,
            code_features=features,
            codes=codes,
        )
        self.latent_shape = latent_shape("VQModel", shape, multipliers, features)
        self.scale = scale
        parts = (channels, multipliers, blocks, attention_levels, middle_attention, groups)
        self.encoder = Encoder(shape[0], latent_channels, *parts)
        self.decoder = Decoder(latent_channels, shape[0], *parts)
        self.after_encoder = nn.Conv2d(latent_channels, features, 1)
        self.before_decoder = nn.Conv2d(features, latent_channels, 1)
        self.quantizer = Quantizer(codes, features)

    def encode_pixels(self, x: Tensor) -> Tensor:
        """Latents `(B, Z, h, w)` of images `(B, C, H, W)`, not quantised."""
        out: Tensor = self.after_encoder(self.encoder(x))
        return out

    def encode_latents(self, z: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scaled latents `(B, Z, h, w)`; nothing is drawn, so `eps` has no effect."""
        return z * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents `(B, Z, h, w)`, which are quantised first."""
        out: Tensor = self.decoder(self.before_decoder(self.quantizer(latents / self.scale)))
        return out
