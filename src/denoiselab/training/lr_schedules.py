"""Learning-rate factors as functions of images seen."""

from __future__ import annotations

import math
from typing import Protocol


class LRSchedule(Protocol):
    """A factor on the optimizer's learning rate as a function of images seen."""

    def __call__(self, images_seen: int, /) -> float:
        """The factor, at least 0, for the optimizer step that starts at `images_seen`."""
        ...


class Warmup:
    """Linear from 0 to 1 over the first images, then constant.

    Args:
        images: Length of the warm-up; 0 for none.

    Raises:
        ValueError: If it is negative.
    """

    def __init__(self, images: int = 0) -> None:
        if images < 0:
            raise ValueError(f"images={images}: a warm-up cannot be negative.")
        self.images = images

    def __call__(self, images_seen: int) -> float:
        return min(1.0, images_seen / self.images) if self.images else 1.0


class WarmupLinear(Warmup):
    """Linear from 0 to 1, then linear to 0 at the end of training.

    Args:
        total: Images of the whole training.

    Raises:
        ValueError: If the warm-up is not shorter than the training.
    """

    def __init__(self, images: int, total: int) -> None:
        super().__init__(images)
        if total <= images:
            raise ValueError(f"images={images}: the warm-up must be shorter than the training, total={total}.")
        self.total = total

    def __call__(self, images_seen: int) -> float:
        return super().__call__(images_seen) * (1 - self.progress(images_seen))

    def progress(self, images_seen: int) -> float:
        """The fraction of the training after the warm-up that is over."""
        return min(1.0, max(0.0, (images_seen - self.images) / (self.total - self.images)))


class WarmupCosine(WarmupLinear):
    """Linear from 0 to 1, then half a cosine to 0 at the end of training."""

    def __call__(self, images_seen: int) -> float:
        warm = Warmup.__call__(self, images_seen)
        return warm * (0.5 + 0.5 * math.cos(math.pi * self.progress(images_seen)))


class WarmupInverseRoot(Warmup):
    """Linear from 0 to 1 over the first images, times min(1, sqrt(constant / images seen)).

    Source: Karras et al., EDM2, arXiv 2312.02696, released code (`learning_rate_schedule`).

    Args:
        constant: Images after which it falls: theirs are 70,000 steps of 2,048 at 512x512, 35,000 at 64x64.

    Raises:
        ValueError: If it is not positive.
    """

    def __init__(self, constant: int, images: int = 0) -> None:
        super().__init__(images)
        if constant <= 0:
            raise ValueError(f"constant={constant}: it must be positive.")
        self.constant = constant

    def __call__(self, images_seen: int) -> float:
        return super().__call__(images_seen) * min(1.0, math.sqrt(self.constant / max(images_seen, 1)))


class WarmupExponential(Warmup):
    """Linear from 0 to 1 over the first images, times 0.1^(images seen / decade), at least `least`.

    Source: Sohl-Dickstein et al., arXiv 1503.03585, released code (`decay_learning_rate`).

    Args:
        decade: Images over which it falls to a tenth.
        least: The factor that it does not fall below.

    Raises:
        ValueError: Unless decade > 0 and 0 <= least <= 1.
    """

    def __init__(self, decade: int, least: float = 0.1, images: int = 0) -> None:
        super().__init__(images)
        if decade <= 0 or not 0 <= least <= 1:
            raise ValueError(f"decade={decade} and least={least}: they must satisfy decade > 0 and 0 <= least <= 1.")
        self.decade, self.least = decade, least

    def __call__(self, images_seen: int) -> float:
        return super().__call__(images_seen) * max(self.least, math.pow(0.1, images_seen / self.decade))
