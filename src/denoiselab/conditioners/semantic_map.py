"""Semantic maps as conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise

_REFUSAL = (
    "conditioner=semantic_map: the data have no maps; give data=image_folder data.maps=<folder>, or in Python "
    "Model.sample(cond=maps)."
)


class SemanticMap(Conditioner):
    """The class of each pixel, one-hot and averaged over blocks, as `image` `(B, classes, H / factor, W / factor)`.

    LDM's `SpatialRescaler`, which maps the classes to 3 channels, is a part of the network here. Samples have the maps
    of held-out images, in turn. There is no null condition.

    Source: Rombach et al., arXiv 2112.10752, section 4.3.2.

    Args:
        shape: Shape (C, H, W) of an image.
        classes: Number of classes.
        factor: Side of a block; it divides H and W.
        ignored: A further number in maps, of pixels of no class; None for none.

    Raises:
        ValueError: If `shape` is not an image's, `factor` does not divide it, or a number is not positive.
    """

    names = frozenset({"image"})
    network_options: Mapping[str, str] = {"image_channels": "images"}

    def __init__(self, shape: Sequence[int], classes: int, factor: int = 4, ignored: int | None = None) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: it must be an image's, (C, H, W).")
        if classes < 1:
            raise ValueError(f"classes={classes}: it must be at least 1.")
        if factor < 1 or shape[1] % factor or shape[2] % factor:
            raise ValueError(f"factor={factor}: it must be at least 1 and divide {shape[1]} and {shape[2]}.")
        self.size, self.classes, self.factor = tuple(shape[1:]), classes, factor
        self.ignored = ignored
        self._held_out: HeldOut | None = None

    def of(self, values: Any, device: torch.device) -> Conditioning:
        """The conditions `(B, ...)` of maps `(B, H, W)` of classes, whole numbers."""
        maps = values if isinstance(values, Tensor) else torch.empty(0)
        whole = not maps.is_floating_point() and not maps.is_complex() and maps.dtype != torch.bool
        if maps.shape[1:] != self.size or not whole:
            raise ValueError(
                f"cond: semantic maps are a tensor (B, {self.size[0]}, {self.size[1]}) of whole numbers from 0 to "
                f"{self.classes - 1}; found {tuple(maps.shape)} of {str(maps.dtype)[6:]}."
            )
        maps = maps.to(device).long()
        known = torch.ones_like(maps, dtype=torch.bool) if self.ignored is None else maps != self.ignored
        wrong = known & ((maps < 0) | (maps >= self.classes))
        if not maps.is_meta and bool(wrong.any()):
            raise ValueError(
                f"conditioner.classes={self.classes}: a semantic map has the number {int(maps[wrong][0])}; allowed are "
                f"0 to {self.classes - 1}, and conditioner.ignored for pixels of no class."
            )
        hot = F.one_hot(maps.where(known, 0), self.classes).permute(0, 3, 1, 2).float() * known[:, None]
        return Conditioning(image=F.avg_pool2d(hot, self.factor))

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        return self.given(clean)

    def given(self, clean: Clean) -> Conditioning:
        if clean.maps is None:
            raise ValueError(_REFUSAL)
        return self.of(clean.maps, clean.images.device)

    def sample(self, index: Tensor) -> Conditioning:
        if self._held_out is None:
            raise ValueError(_REFUSAL)
        return self.given(self._held_out(index))

    def set_held_out(self, held_out: HeldOut) -> None:
        self._held_out = held_out
