"""Samples as they are kept and scored: bytes of images, float32 of points and waveforms."""

from __future__ import annotations

import torch
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [-1, 1], any shape."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """The nearest bytes to a batch in [-1, 1] (clipped), any shape: the exact inverse of `from_uint8`."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_stored(x: Tensor) -> Tensor:
    """A sampler's output as it is kept: images `(B, C, H, W)` as uint8, waveforms and points as float32."""
    return to_uint8(x) if x.ndim == 4 else x.float()


def as_inputs(stored: Tensor) -> Tensor:
    """Stored samples as input of the network: bytes `(B, C, H, W)` in [-1, 1], channels last; others as they are."""
    if stored.dtype != torch.uint8:
        return stored
    # Bytes are moved sooner than floats.
    return from_uint8(stored.contiguous(memory_format=torch.channels_last) if stored.ndim == 4 else stored)
