"""What a codec is to the rest of the program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Standard normal numbers `(B, *shape)` of a shape, keyed on the sample: `Noise.normal`.
Normal = Callable[[Sequence[int]], Tensor]


class Codec(Protocol):
    """Between what the data are, of `shape`, and what a network sees, of `latent_shape`. It is never trained here."""

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    def load(self) -> None:
        """Read what it needs, if that has not been done.

        Raises:
            ValueError: It cannot.
        """
        ...

    def encode_pixels(self, x: Tensor) -> Tensor:
        """What of samples `(B, *shape)` is worth keeping: all that is not random."""
        ...

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        """Latents `(B, *latent_shape)` of what was kept, drawn where the codec draws."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Samples `(B, *shape)` of latents `(B, *latent_shape)`."""
        ...


@runtime_checkable
class Bijection(Codec, Protocol):
    """A codec that draws and loses nothing, so that a density of latents is one of samples."""

    def log_abs_det(self, x: Tensor) -> Tensor:
        """Logarithm of how much it enlarges volumes at samples `(B, *shape)`, in nats, `(B,)`."""
        ...


class Identity:
    """No codec: a network sees the data.

    Args:
        shape: Of a sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = self.latent_shape = tuple(shape)

    def load(self) -> None:
        """Nothing is needed."""

    def encode_pixels(self, x: Tensor) -> Tensor:
        """The samples."""
        return x

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        """The samples; nothing is drawn."""
        return kept

    def decode(self, latents: Tensor) -> Tensor:
        """The samples."""
        return latents

    def log_abs_det(self, x: Tensor) -> Tensor:
        """Zeros."""
        return x.new_zeros(len(x))


class Autoencoder(ABC):
    """An autoencoder as a codec: frozen, in float32, on the device of what it is given, a part of the batch at a time.

    Args:
        shape: Of an image.
        latent_shape: Of its latent.
        draws: Latents are drawn, so they need noise.
        batch_size: Images at a time.

    Raises:
        ValueError: `batch_size` is less than 1.
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
            ValueError: They cannot be read.
        """

    def load(self) -> None:
        """Read the weights."""
        if self._module is None:
            self._module = self.read().eval().requires_grad_(False)

    def encode_pixels(self, x: Tensor) -> Tensor:
        """What the autoencoder knows of the latents of images `(B, *shape)`."""
        return self._in_parts(self._on(x.device).encode_pixels, x.float())

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        """Scaled latents `(B, *latent_shape)`, channels last in memory."""
        eps = normal(self.latent_shape).to(kept) if self._draws else None
        latents: Tensor = self._on(kept.device).encode_latents(kept, eps)
        return latents.contiguous(memory_format=torch.channels_last)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, *shape)` of scaled latents `(B, *latent_shape)`."""
        return self._in_parts(self._on(latents.device).decode, latents.float())

    @torch.no_grad()
    def _in_parts(self, apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # published decoders overflow in half precision
            return torch.cat([apply(part) for part in x.split(self._size)])

    def _on(self, device: torch.device) -> Any:
        self.load()
        assert self._module is not None
        return self._module.to(device)
