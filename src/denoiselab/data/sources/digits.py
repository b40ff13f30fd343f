"""The handwritten digits in scikit-learn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from denoiselab.data.images import ImageSet


@dataclass
class Digits:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey, 10 classes; nothing to download.

    Values 0..16 become round(255 value / 16). Source: the test set of UCI's Optical Recognition of Handwritten
    Digits (Alpaydin and Kaynak, 1998), CC BY 4.0.

    Args:
        name: Of the data set in scores and folders.
        shape: (1, 8, 8); configured so that a network can be built without the data.
        num_classes: 10.
        validation: Fraction held out from training, by hash of the image.
        size: Number of training images to keep, the first ones; None keeps all.

    Raises:
        ValueError: If a value is out of range.
    """

    name: str
    shape: Sequence[int]
    num_classes: int
    validation: float = 1 / 6
    size: int | None = None

    def __post_init__(self) -> None:
        if list(self.shape) != [1, 8, 8]:
            raise ValueError(f"data.shape={list(self.shape)}: images of {self.name} have shape [1, 8, 8].")
        if self.num_classes != 10:
            raise ValueError(f"data.num_classes={self.num_classes}: digits has 10 classes.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation={self.validation}: it must be at least 0 and less than 1.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"data.size={self.size}: it must be at least 1, or null for all images.")

    def load(self) -> tuple[ImageSet, ImageSet]:
        """(train, held-out)."""
        # The file that sklearn.datasets.load_digits reads; importing scikit-learn takes two seconds.
        package = importlib.util.find_spec("sklearn")
        assert package is not None
        assert package.submodule_search_locations is not None
        file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
        rows = torch.from_numpy(np.loadtxt(file, delimiter=","))
        images = (rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
        train, held_out = ImageSet(images, rows[:, -1].long()).split(self.validation)
        if not len(train):
            raise ValueError(f"data.validation={self.validation}: it leaves no image for training.")
        if self.size is not None:
            train = train.subset(torch.arange(min(self.size, len(train))))
        return train, held_out
