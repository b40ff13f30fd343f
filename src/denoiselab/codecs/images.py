"""What all autoencoders of images share: an encoder, a decoder, and the scale and shift of latents between them."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.networks.checks import check_image


class ImageAutoencoder(nn.Module, ABC):
    """An encoder of images and a decoder, which a subclass makes; it draws nothing unless a subclass does.

    Args:
        shape: Shape (C, H, W) of an image, whose values are in [-1, 1].
        features: Channels Z of the latent.
        stride: H / h and W / w.
        why: The options that make the stride, for messages.
        scale: Factor on latents, one over their standard deviation: one number, or one a channel of the latent.
        shift: Subtracted from latents before they are scaled: one number, or one a channel.

    Raises:
        ValueError: If `shape` is not an image's, or a value is out of range.
    """

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    encoder: nn.Module
    decoder: nn.Module
    scale: float | Tensor
    shift: float | Tensor

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        stride: int,
        why: str,
        scale: float | Sequence[float],
        shift: float | Sequence[float],
    ) -> None:
        super().__init__()
        check_image(type(self).__name__, shape, stride, why)
        self.shape = tuple(shape)
        self.latent_shape = (features, shape[1] // stride, shape[2] // stride)
        self._number("scale", scale, features)
        self._number("shift", shift, features)

    def encode_pixels(self, x: Tensor) -> Tensor:
        """What latents of images `(B, C, H, W)` are computed from, `(B, *, h, w)`."""
        out: Tensor = self.encoder(x)
        return out

    def encode_latents(self, kept: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scaled latents `(B, *latent_shape)` of what `encode_pixels` gives: the mode, or a draw with noise `eps`."""
        return self.scaled(kept)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents."""
        out: Tensor = self.decoder(self.unscaled(latents))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of images `(B, C, H, W)`, by the mode of their latents."""
        return self.decode(self.encode_latents(self.encode_pixels(x), None))

    def scaled(self, z: Tensor) -> Tensor:
        """Latents `(B, Z, h, w)` as a network takes them, of those that the encoder gives."""
        return (z - self.shift) * self.scale

    def unscaled(self, latents: Tensor) -> Tensor:
        """What `scaled` makes `latents` `(B, Z, h, w)` of."""
        return latents / self.scale + self.shift

    def gaussian(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of unscaled latents, `(B, Z, h, w)`; None if they are not random.

        Args:
            kept: What `encode_pixels` gives.
        """
        return kept, None

    def _number(self, name: str, value: float | Sequence[float], features: int) -> None:
        """Keep a number, or one a channel as a buffer `(Z, 1, 1)` that is no part of the weights."""
        numbers = list(value) if isinstance(value, Sequence) else [value]
        if isinstance(value, Sequence) and len(numbers) != features:
            raise ValueError(f"{name}: has {len(numbers)} numbers; give one, or one for each of {features} channels.")
        low, what = (0.0, "positive") if name == "scale" else (-math.inf, "numbers")
        if not all(isinstance(number, int | float) and low < number < math.inf for number in numbers):
            raise ValueError(f"{name}={value}: it must be {what} and finite.")
        if isinstance(value, Sequence):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        else:
            setattr(self, name, value)
