"""The contract of codecs, the identity, and autoencoders as codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Standard normal numbers `(B, *shape)` for a shape: `Noise.normal`.
Normal = Callable[[Sequence[int]], Tensor]


class Codec(Protocol):
    """Maps samples of `shape` to latents of `latent_shape`, the data of a network, and back; it is not trained here."""

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    def load(self) -> None:
        """Read the weights, unless they have been read.

        Raises:
            ValueError: If they cannot be read.
        """
        ...

    def encode_pixels(self, x: Tensor, /) -> Tensor:
        """The deterministic part of the encoding of samples `(B, *shape)`, `(B, *)`, which can be stored."""
        ...

    def encode_latents(self, kept: Tensor, normal: Normal, /) -> Tensor:
        """Latents `(B, *latent_shape)` for outputs of `encode_pixels`; random numbers come from `normal`."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Samples `(B, *shape)` of latents `(B, *latent_shape)`."""
        ...


@runtime_checkable
class Bijection(Codec, Protocol):
    """A deterministic, invertible codec, so that a density of latents gives one of samples."""

    def log_abs_det(self, x: Tensor, /) -> Tensor:
        """Log |det| of the encoding's Jacobian at samples `(B, *shape)`, in nats, `(B,)`."""
        ...


class Identity:
    """No codec: latents are the samples.

    Args:
        shape: Shape of a sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = self.latent_shape = tuple(shape)

    def load(self) -> None:
        """Do nothing."""

    def encode_pixels(self, x: Tensor) -> Tensor:
        return x

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        return kept

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def log_abs_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class Autoencoder(ABC):
    """A frozen autoencoder as a codec, in float32, on the device of its input.

    Args:
        shape: Shape (C, H, W) of an image.
        latent_shape: Shape of its latent.
        draws: Whether latents are random.
        batch_size: Images encoded or decoded at a time.

    Raises:
        ValueError: If `batch_size` < 1.
    """

    def __init__(self, shape: Sequence[int], latent_shape: Sequence[int], draws: bool, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
        self.shape, self.latent_shape = tuple(shape), tuple(latent_shape)
        self._draws, self._size = draws, batch_size
        self._module: nn.Module | None = None

    @abstractmethod
    def read(self) -> nn.Module:
        """The autoencoder with its weights, on the CPU.

        Raises:
            ValueError: If they cannot be read.
        """

    def load(self) -> None:
        if self._module is None:
            self._module = self.read().eval().requires_grad_(False)

    def encode_pixels(self, x: Tensor) -> Tensor:
        return self._in_parts(self._on(x.device).encode_pixels, x.float())

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        eps = normal(self.latent_shape).to(kept) if self._draws else None
        latents: Tensor = self._on(kept.device).encode_latents(kept, eps)
        return latents.contiguous(memory_format=torch.channels_last)

    def decode(self, latents: Tensor) -> Tensor:
        return self._in_parts(self._on(latents.device).decode, latents.float())

    @torch.no_grad()
    def _in_parts(self, apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # published decoders overflow in half precision
            return torch.cat([apply(part) for part in x.split(self._size)])

    def _on(self, device: torch.device) -> Any:
        self.load()
        assert self._module is not None
        return self._module.to(device)
