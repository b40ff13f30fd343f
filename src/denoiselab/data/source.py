"""From records in files to images of one shape: the options that all sources of images share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from denoiselab.data.base import DataSet
from denoiselab.data.records import Records

Resize = Literal["none", "center_crop", "random_crop", "stretch", "pad"]


@dataclass(kw_only=True)
class ImageSource(ABC):
    """A source of images; a subclass says where its records are, by `records` and, where published, `held_out`.

    A subclass is a dataclass (`@dataclass(kw_only=True)`), so that it takes these options beside its own; it checks its
    own in `__post_init__` after calling this class's. Its YAML begins with `defaults: [base/images@_here_, _self_]`.

    Of a file with several frames the first is taken; what is transparent is laid on white; 16 bits are scaled to 8.

    Args:
        name: Of the data set in scores and folders.
        shape: [C, H, W] of an image as the network sees it. C = 1 makes grey of colours, C = 3 colours of grey.
        num_classes: Number of classes; None where they do not matter.
        validation: Fraction held out from training, by hash of the image; for sources without a held-out part.
        size: Keep only the first training images; None keeps all.
        resize: To height and width: none refuses other sizes; center_crop is ADM's; random_crop is ADM's in
            training, else center_crop; stretch ignores the aspect; pad adds black on all sides.
        bad_images: One that cannot be read: fail names it; skip leaves it out and reports all.
        memory_limit: GiB of decoded images up to which a set is decoded once, before training.
        max_pixels: An image with more is a bad one, and not decoded.
        workers: Processes that decode; None: as many as the machine has cores for each rank.
        cache_dir: Where decoded sets are kept.
    """

    name: str
    shape: Sequence[int]
    num_classes: int | None
    validation: float = 0.05
    size: int | None = None
    resize: Resize = "none"
    bad_images: Literal["fail", "skip"] = "fail"
    memory_limit: float = 2.0
    max_pixels: int = 178_956_970
    workers: int | None = None
    cache_dir: str = "logs/cache"

    @abstractmethod
    def records(self) -> Records:
        """The images for training, and those to hold out of them if `held_out` gives none.

        Raises:
            ValueError: There is nothing where the options say, or not what they say; one sentence that names them.
        """

    def held_out(self) -> Records | None:
        """The held-out images of a source that is published with some; None splits by hash."""
        return None

    def load(self) -> tuple[DataSet, DataSet]:
        """(train, held-out).

        Raises:
            ValueError: The images are not as the options say.
        """
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
