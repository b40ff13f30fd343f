"""The contract of codecs, the identity, and autoencoders as codecs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from denoiselab.codecs.decoding import Bound, bound, tiled

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
        self._spared = False
        self._bound: Bound | None = None

    @abstractmethod
    def read(self) -> nn.Module:
        """The autoencoder with its weights, on the CPU.

        Raises:
            ValueError: If they cannot be read.
        """

    def spare_encoder(self) -> None:
        """Keep no encoder in memory: from now on `encode_pixels` reads it at each call, and forgets it."""
        self._spared = True
        if self._module is not None:
            _drop_encoder(self._module)

    def load(self) -> None:
        if self._module is None:
            self._module = self.read().eval().requires_grad_(False)
            if self._spared:
                _drop_encoder(self._module)

    def encode_pixels(self, x: Tensor) -> Tensor:
        module: Any = self.read().to(x.device) if self._spared else self._on(x.device)
        return self._in_parts(module.encode_pixels, x.float())

    def encode_latents(self, kept: Tensor, normal: Normal) -> Tensor:
        eps = normal(self.latent_shape).to(kept) if self._draws else None
        latents: Tensor = self._on(kept.device).encode_latents(kept, eps)
        return latents.contiguous(memory_format=torch.channels_last)

    def decode_within(self, memory: float) -> int | None:
        """Decode so that no more memory is needed at once, besides weights, and say how.

        Fewer images are decoded at a time, which changes nothing. Where one is too many, it is decoded in tiles that
        overlap by a fourth, which changes it somewhat.

        Args:
            memory: In bytes.

        Returns:
            The side of a tile in latents; None if images are decoded whole.

        Raises:
            ValueError: If not even the smallest tile can be decoded.
        """
        self.load()
        assert self._module is not None
        self._bound = bound(self._module, self.latent_shape, memory)
        return self._bound.side

    @property
    def tile(self) -> int | None:
        """The side of the tiles in which latents are decoded; None if they are decoded whole."""
        return None if self._bound is None else self._bound.side

    def decode(self, latents: Tensor) -> Tensor:
        decode, count = self._on(latents.device).decode, self._size
        if self._bound is not None:
            count = min(count, self._bound.count(4 * len(latents) * math.prod(self.shape)))
            if (side := self._bound.side) is not None:
                whole, decode = decode, lambda part: tiled(whole, part, side)
        return self._in_parts(decode, latents.float(), count)

    def decode_differentiably(self, latents: Tensor) -> Tensor:
        """As `decode`, with gradients in `latents`: whole, whatever memory that takes."""
        with torch.autocast(latents.device.type, enabled=False):
            out: Tensor = self._on(latents.device).decode(latents.float())
        return out

    @torch.no_grad()
    def _in_parts(self, apply: Callable[[Tensor], Tensor], x: Tensor, count: int | None = None) -> Tensor:
        parts = x.split(count or self._size)
        with torch.autocast(x.device.type, enabled=False):  # published decoders overflow in half precision
            first = apply(parts[0])
            if len(parts) == 1:
                return first
            # Filled part by part: joining all at the end would need their memory twice.
            out = first.new_empty(len(x), *first.shape[1:])
            for place, part in zip(out.split(len(parts[0])), parts, strict=True):
                place.copy_(first if part is parts[0] else apply(part))
        return out

    def _on(self, device: torch.device) -> Any:
        self.load()
        assert self._module is not None
        return self._module.to(device)


def _drop_encoder(module: nn.Module) -> None:
    for name in ("encoder", "after_encoder"):
        if hasattr(module, name):
            delattr(module, name)
