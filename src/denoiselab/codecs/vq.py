"""The autoencoder with a codebook of latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import Pass
from denoiselab.codecs.layers import LatentModel


class Quantizer(nn.Module):
    """A codebook: each vector is replaced by its nearest entry.

    Source: van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937, equations 1 and 2.

    Args:
        codes: Number of entries.
        features: Features of an entry.
        normalised: Entries and vectors have length 1 (Yu et al., arXiv 2110.04627, section 3.2).
    """

    def __init__(self, codes: int, features: int, normalised: bool = False) -> None:
        super().__init__()
        self.normalised = normalised
        self.codebook = nn.Embedding(codes, features)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def indices(self, z: Tensor) -> Tensor:
        """The indices `(B, h, w)` int64 of the entries nearest to `(B, Z, h, w)`."""
        vectors = z.permute(0, 2, 3, 1)  # (B, h, w, Z)
        nearest = torch.cdist(vectors.flatten(0, 2), self._unit(self.codebook.weight, 1)).argmin(1)
        return nearest.reshape(vectors.shape[:3])

    def entries(self, indices: Tensor) -> Tensor:
        """The entries `(B, Z, h, w)` of indices `(B, h, w)`."""
        out: Tensor = self._unit(self.codebook(indices).permute(0, 3, 1, 2), 1)
        return out

    def vectors(self, z: Tensor) -> Tensor:
        """What is quantised of `(B, Z, h, w)`: the same, or of length 1."""
        return self._unit(z, 1)

    def _unit(self, vectors: Tensor, dim: int) -> Tensor:
        return F.normalize(vectors, dim=dim) if self.normalised else vectors

    def forward(self, z: Tensor) -> Tensor:
        """The entries nearest to `(B, Z, h, w)`, in the same shape; its derivative is the identity's."""
        return z + (self.entries(self.indices(z)) - z).detach()


class VQModel(LatentModel):
    """Images to a grid of codebook entries and back; latents are the vectors before quantisation.

    The defaults are those of VQ-f4, which LDM's faces, bedrooms and ImageNet use.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.1
    and appendix G.

    Args:
        latent_channels: Channels between encoder and codebook, and codebook and decoder.
        code_features: Channels Z of the latent, the features of an entry; None for `latent_channels`.
        codes: Entries of the codebook.
        normalised: Latents and entries have length 1.

    Further options and errors are those of `LatentModel`.
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
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        normalised: bool = False,
    ) -> None:
        features = latent_channels if code_features is None else code_features
        parts = (channels, multipliers, blocks, attention_levels, middle_attention, groups, scale, shift)
        z = latent_channels
        sizes = {"code_features": features, "codes": codes}
        super().__init__(shape, *parts, encoded=z, decoded=z, features=features, sizes={"latent_channels": z, **sizes})
        self.after_encoder = nn.Conv2d(latent_channels, features, 1)
        self.before_decoder = nn.Conv2d(features, latent_channels, 1)
        self.quantizer = Quantizer(codes, features, normalised)

    def encode_pixels(self, x: Tensor) -> Tensor:
        """Latents `(B, Z, h, w)` of images `(B, C, H, W)`, not quantised."""
        return self.quantizer.vectors(self.after_encoder(self.encoder(x)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents `(B, Z, h, w)`, which are quantised first."""
        out: Tensor = self.decoder(self.before_decoder(self.quantizer(self.unscaled(latents))))
        return out

    def train_pass(self, x: Tensor, normal: Normal) -> Pass:
        z = self.encode_pixels(x)
        with torch.autocast(x.device.type, enabled=False):  # distances to entries are compared
            z = z.float()
            indices = self.quantizer.indices(z.detach())
            entries = self.quantizer.entries(indices)
        images = self.decoder(self.before_decoder(z + (entries - z).detach()))
        return Pass(images, z, entries, indices)
