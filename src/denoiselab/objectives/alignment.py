"""Representation alignment: features inside the network follow those of a frozen one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import Objective


class Features(Protocol):
    """A frozen network's features of places; no `nn.Module`, so that no checkpoint has it."""

    channels: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """Features `(B, channels, h, w)` float32 of images `(B, C, H, W)` in [-1, 1], on their device."""
        ...


class RepresentationAlignment(Objective):
    """Another objective, minus `weight` times the cosine of features of the network and of a frozen one (REPA).

    Those of the network are the output of one of its layers on the noisy sample, mapped by three linear layers, which
    are trained with it and are no part of its averages; those of the frozen network are of the clean image, before any
    codec, and resized to the layer's places. The mean is over places and samples. Losses on held-out data and of noise
    levels are those of the other objective.

    Source: Yu et al., Representation Alignment for Generation, arXiv 2410.06940, section 3.3 and equation 8.

    Args:
        inner: The other objective.
        features: The frozen network.
        width: Features of a place of the layer's output.
        layer: Its name in the network, such as blocks.3 of a transformer.
        weight: Of the cosine, in the paper lambda.
        hidden: Features between the linear layers.

    Raises:
        ValueError: If a number is out of range.
    """

    uses_images = True

    def __init__(
        self,
        inner: Objective,
        features: Features,
        width: int,
        layer: str = "blocks.3",
        weight: float = 0.5,
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        if width < 1 or hidden < 1 or not weight >= 0:
            raise ValueError(f"width={width}, hidden={hidden}, weight={weight}: they must be positive.")
        self.inner, self.features, self.layer, self.width, self.weight = inner, features, layer, width, weight
        self.second_derivatives, self.forward_derivatives = inner.second_derivatives, inner.forward_derivatives
        self.second_time, self.needs_null = inner.second_time, inner.needs_null
        self.metric_features = (*inner.metric_features, *filter(None, [getattr(features, "name", None)]))
        self.uses_teacher, self.teacher_calls = inner.uses_teacher, inner.teacher_calls
        sizes = (nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.head = nn.Sequential(*sizes, nn.Linear(hidden, features.channels))

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        out: Tensor = self.inner(denoiser, x0, noise, cond)
        return out

    def check(self, denoiser: Denoiser) -> None:
        self.inner.check(denoiser)
        names = [name for name, _ in denoiser.network.named_modules() if name]
        if self.layer not in names:
            outer = [name for name in names if name.count(".") < 2]
            raise ValueError(f"objective.layer={self.layer}: the network has no such layer; it has {', '.join(outer)}.")

    @contextmanager
    def watched(self, denoiser: Denoiser) -> Iterator[list[Tensor]]:
        """Within it the outputs of the layer are appended to the list."""
        seen: list[Tensor] = []
        layer = denoiser.network.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda module, given, out: seen.append(out))
        try:
            yield seen
        finally:
            hook.remove()

    def cosine(self, out: Tensor, images: Tensor) -> Tensor:
        """The mean cosine, a float32 scalar, of the layer's output on images `(B, C, H, W)`, noisy, and of these.

        Args:
            out: `(B, T, width)` for the places of a grid in which T is h w as of the images, or `(B, width, h, w)`.
            images: Clean, in [-1, 1].

        Raises:
            ValueError: If the output has another shape.
        """
        tokens = out.flatten(2).transpose(1, 2) if out.ndim == 4 else out
        if tokens.ndim != 3 or tokens.shape[2] != self.width:
            raise ValueError(f"objective.width={self.width}: the output of layer {self.layer} is {tuple(out.shape)}.")
        rows = round((tokens.shape[1] * images.shape[2] / images.shape[3]) ** 0.5)
        grid = out.shape[2:] if out.ndim == 4 else (rows, tokens.shape[1] // max(1, rows))
        with torch.no_grad():
            wanted = F.interpolate(self.features(images), tuple(grid), mode="bilinear", antialias=True)
        found = self.head(tokens)
        with torch.autocast(out.device.type, enabled=False):
            return F.cosine_similarity(found.float(), wanted.flatten(2).transpose(1, 2).float(), dim=2).mean()
