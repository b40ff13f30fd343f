"""Several conditioners together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec
from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class Combined(Conditioner):
    """Several conditioners, each with its own fields: LDM's `hybrid` of a text and an image, for example.

    The null condition is that of the parts that have one; the fields of the others stay as they are, so guidance away
    from no text keeps the image (Rombach et al., arXiv 2112.10752; Stable Diffusion's inpainting). Given values, such
    as texts, are for the first part that takes such; the other parts give the conditions of samples 0, 1, ...

    Args:
        parts: Name to conditioner.

    Raises:
        ValueError: If there are none, or two of them give the same field.
    """

    def __init__(self, parts: Mapping[str, Conditioner]) -> None:
        if not parts:
            raise ValueError("parts={}: at least one is needed.")
        self.parts = dict(parts)
        counts = [name for part in self.parts.values() for name in part.names]
        if twice := sorted({name for name in counts if counts.count(name) > 1}):
            raise ValueError(f"parts={list(self.parts)}: two of them give {twice[0]}; one must be left out.")
        self.names = frozenset(counts)
        self.strata = math.lcm(*(part.strata for part in self.parts.values()))
        guided = [part.guided_channels for part in self.parts.values() if part.guided_channels is not None]
        self.guided_channels = min(guided, default=None)
        self.uses_images = any(part.uses_images for part in self.parts.values())
        self.pictures = next((part.pictures for part in self.parts.values() if part.pictures is not None), None)
        self.network_options = {k: v for part in self.parts.values() for k, v in part.network_options.items()}

    @property
    def module(self) -> nn.Module | None:
        """The parts that have one, by name; None if none has."""
        own = {name: part.module for name, part in self.parts.items() if part.module is not None}
        return nn.ModuleDict(own) if own else None

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        return self._joined(lambda part: part.train(clean, noise))

    def given(self, clean: Clean) -> Conditioning:
        return self._joined(lambda part: part.given(clean))

    def sample(self, index: Tensor) -> Conditioning:
        return self._joined(lambda part: part.sample(index))

    def of(self, values: Any, device: torch.device) -> Conditioning:
        refused: list[ValueError] = []
        for taker in self.parts.values():
            try:
                found = taker.of(values, device)
            except ValueError as error:
                refused.append(error)
                continue
            index = torch.arange(len(values), device=device)
            others = self._joined(lambda part: Conditioning() if part is taker else part.sample(index))  # noqa: B023
            return _joined(found, others)
        raise refused[0]

    def check(self, cond: Conditioning) -> None:
        for part in self.parts.values():
            part.check(cond)

    def classes_of(self, index: Tensor) -> Tensor | None:
        found = (part.classes_of(index) for part in self.parts.values())
        return next((classes for classes in found if classes is not None), None)

    def described(self, index: Tensor) -> list[str] | None:
        texts = [found for part in self.parts.values() if (found := part.described(index)) is not None]
        return [", ".join(row) for row in zip(*texts, strict=True)] if texts else None

    def null(self, index: Tensor) -> Conditioning:
        return self._joined(lambda part: part.null(index))

    def set_held_out(self, held_out: HeldOut) -> None:
        for part in self.parts.values():
            part.set_held_out(held_out)

    def load(self) -> None:
        for part in self.parts.values():
            part.load()

    def set_codec(self, codec: Codec) -> None:
        for part in self.parts.values():
            part.set_codec(codec)

    def _joined(self, of: Callable[[Conditioner], Conditioning]) -> Conditioning:
        found = Conditioning()
        for part in self.parts.values():
            found = _joined(found, of(part))
        return found


def _joined(first: Conditioning, second: Conditioning) -> Conditioning:
    """The fields of both."""
    return Conditioning(*(b if a is None else a for a, b in zip(first, second, strict=True)))
