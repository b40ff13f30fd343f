"""A data set."""

import math
from collections.abc import Sequence

import torch

from denoiselab.data import ImageSet, to_uint8
from denoiselab.noise import Noise


class Gratings:
    """Grey images of sine waves in four directions, the classes, at random phases.

    Args:
        name: Of the data set in scores and folders.
        shape: (1, H, W).
        num_classes: 4.
        n: Number of images; a tenth of them is held out.

    Raises:
        ValueError: If shape or num_classes are others.
    """

    def __init__(self, name: str, shape: Sequence[int], num_classes: int = 4, n: int = 2000) -> None:
        if len(shape) != 3 or shape[0] != 1 or num_classes != 4:
            raise ValueError(f"data.shape={list(shape)}, data.num_classes={num_classes}: must be [1, H, W] and 4.")
        self.name, self.shape, self.n = name, tuple(shape), n

    def load(self) -> tuple[ImageSet, ImageSet]:
        """(train, held-out)."""
        _, height, width = self.shape
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        labels = torch.arange(self.n) % 4
        angle = labels[:, None, None] * math.pi / 4
        phase = 2 * math.pi * Noise(0, torch.arange(self.n)).uniform()[:, None, None]
        waves = torch.sin(x * torch.cos(angle) + y * torch.sin(angle) + phase)
        return ImageSet(to_uint8(waves[:, None]), labels).split(0.1)
