"""What a first stage in training gives its loss."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from denoiselab.codecs.base import Normal


class Pass(NamedTuple):
    """What an autoencoder makes of a batch in training.

    Attributes:
        images: Reconstructions `(B, C, H, W)`.
        kept: What `encode_pixels` gives, `(B, *)`: of a codebook the vectors `(B, Z, h, w)` before quantisation.
        entries: The entries nearest to these vectors, `(B, Z, h, w)`, with the codebook's gradient; None without one.
        indices: Their indices `(B, h, w)` int64; None without a codebook.
    """

    images: Tensor
    kept: Tensor
    entries: Tensor | None = None
    indices: Tensor | None = None


class FirstStageNetwork(Protocol):
    """An autoencoder that can be trained here: an `nn.Module` of any class.

    Attributes:
        shape: Shape (C, H, W) of an image.
        latent_shape: Shape of its latent.
    """

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, on which the adaptive weight of a discriminator is measured."""
        ...

    def train_pass(self, x: Tensor, normal: Normal, /) -> Pass:
        """Encode and decode images `(B, C, H, W)`; a random latent is drawn with numbers of `normal`."""
        ...

    def encode_pixels(self, x: Tensor, /) -> Tensor:
        """The deterministic part of the encoding of images, `(B, *)`."""
        ...

    def encode_latents(self, kept: Tensor, eps: Tensor | None = None, /) -> Tensor:
        """Latents `(B, *latent_shape)` of outputs of `encode_pixels`: the mode, or a draw with the noise `eps`."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Images `(B, C, H, W)` of latents."""
        ...
