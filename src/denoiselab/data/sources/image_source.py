"""The base class of all sources of images in files, and the options that they share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from denoiselab.data.reading.decoding import Decoder, Resize
from denoiselab.data.reading.first_pass import prepare, unread
from denoiselab.data.reading.record_set import RecordSet
from denoiselab.data.reading.records import Records

_log = logging.getLogger(__name__)

_SAMPLED = 32  # images that are checked for unused bits


@dataclass(kw_only=True)
class ImageSource(ABC):
    """A source of images. A subclass implements `records` and, if a held-out part is published, `held_out`.

    It is a dataclass (`@dataclass(kw_only=True)`) that adds its own options to these and checks them in
    `__post_init__`, after calling this one. Its YAML begins with `defaults: [base/images@_here_, _self_]`.

    Every image is read once before the first training: its hash decides whether it is held out, and damage is found. A
    set of up to `memory_limit` is decoded at the same time to a file that all processes of a machine memory-map; a
    larger set is decoded for each batch. Results are kept in `cache_dir`.

    With `first_pass=False`, for sets that are too large or remote, nothing is read beforehand: whether an image is held
    out depends on its position, so copies may be separated, and a damaged image stops the training.

    `denoiselab.data.reading.decoding.Decoder` describes how images become bytes.

    Args:
        name: Of the data set in scores and folders.
        shape: [C, H, W] of the network's images. C = 1 converts colours to grey, C = 3 grey to colours.
        num_classes: Number of classes; None if they are not used or are to be counted.
        validation: Fraction held out from training, by hash of the image, so that copies stay together; for sources
            without a held-out part of their own.
        size: Number of training images to keep, evenly spread over the set; None keeps all.
        resize: To height and width: none refuses other sizes; center_crop is ADM's; random_crop is ADM's in
            training, else center_crop; stretch ignores the aspect ratio; pad adds black on all sides.
        bad_images: For images that cannot be read: fail names the first; skip leaves them out and reports all.
        memory_limit: GiB of decoded images up to which a set is decoded once, before training; random crops never are.
        max_pixels: Images with more are bad images, and not decoded.
        bit_depth: Bits per value, 1 to 16, if files or arrays could hold more: 12 of 16; None: all that they hold.
        first_pass: Read every image once before the first training.
        workers: Processes that read images, before the first training and, unless images are decoded by then, during
            training; None: the cores of each rank.
        cache_dir: Folder of decoded sets.

    Raises:
        ValueError: If an option is out of range.
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
    bit_depth: int | None = None
    first_pass: bool = True
    workers: int | None = None
    cache_dir: str = "logs/cache"

    def __post_init__(self) -> None:
        """Check the options."""
        shape = list(self.shape)
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
            raise ValueError(f"data.shape={shape}: it must be [1, H, W] for grey or [3, H, W] for colour.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation={self.validation}: it must be at least 0 and less than 1.")
        for option, least in (("num_classes", 1), ("size", 1), ("max_pixels", 1), ("workers", 0), ("memory_limit", 0)):
            value = getattr(self, option)
            if value is not None and not value >= least:  # NaN too
                raise ValueError(f"data.{option}={value}: it must be at least {least}.")
        if self.bit_depth is not None and not 1 <= self.bit_depth <= 16:
            raise ValueError(f"data.bit_depth={self.bit_depth}: it must be from 1 to 16, or null.")
        if self.bad_images == "skip" and not self.first_pass:
            raise ValueError("data.bad_images=skip: it needs data.first_pass=true, which finds bad images.")

    @abstractmethod
    def records(self) -> Records:
        """The training images, and if `held_out` returns None also those to be held out.

        Raises:
            ValueError: If the files are missing, or not as the options state; the message names the option.
        """

    def held_out(self) -> Records | None:
        """The held-out images of a source that has them; None splits `records` by hash."""
        return None

    def load(self) -> tuple[RecordSet, RecordSet]:
        """(train, held-out)."""
        try:
            train, published = self.records(), self.held_out()
        except OSError as error:
            raise ValueError(f"data: {error.filename} cannot be read ({error.strerror or error}).") from None
        whole = self._prepared(train)
        self._warn_if_dark(whole, train.name)
        if published is None:
            held = whole.hashed_below(self.validation)
            train_set, held_set = whole.subset(~held), whole.subset(held)
        else:
            train_set, held_set = whole, self._prepared(published)
        if not len(train_set):
            raise ValueError(f"data.validation={self.validation}: it leaves no image for training.")
        kept = min(len(train_set), self.size or len(train_set))
        return train_set.subset(torch.arange(kept) * len(train_set) // kept), held_set

    def counted_classes(self) -> int:
        """The number of classes of the training images.

        Raises:
            ValueError: If they have none, or there are no images.
        """
        records = self.records()
        if not len(records):
            raise ValueError(f"data: {records.name} has no images.")
        count = _classes_of(records)
        if count < 2:
            raise ValueError(
                f"data.num_classes: {records.name} has no classes, which conditioner=label needs; choose another "
                "conditioner, or other data."
            )
        return count

    def _prepared(self, records: Records) -> RecordSet:
        self._check(records)
        channels, height, width = self.shape
        decoder = Decoder((channels, height, width), self.resize, self.max_pixels, self.bit_depth)
        if not self.first_pass:
            return RecordSet.of(records, decoder, unread(records), self.workers)
        size = len(records) * channels * height * width
        decoded = size <= self.memory_limit * 2**30 and self.resize != "random_crop"
        try:
            prepared = prepare(
                records, decoder, Path(self.cache_dir), self.workers, decoded=decoded, skip=self.bad_images == "skip"
            )
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"data.cache_dir={self.cache_dir}: cannot be written to ({reason}).") from None
        return RecordSet.of(records, decoder, prepared, self.workers)

    def _warn_if_dark(self, data: RecordSet, name: str) -> None:
        """Warn if a sample of the images uses only the lower half of the range."""
        if self.bit_depth is not None or not self.first_pass or not len(data):
            return
        some = min(len(data), _SAMPLED)
        top = int(data.stored(torch.arange(some) * len(data) // some).max())
        if 0 < top < 128:
            _log.warning(
                f"no value of {some} images of {name} is above {top}, and they are taken as 0 to 255; if they have "
                f"{top.bit_length()} bits, set data.bit_depth={top.bit_length()}"
            )

    def _check(self, records: Records) -> None:
        if not len(records):
            raise ValueError(f"data: {records.name} has no images.")
        found = _classes_of(records)
        if self.num_classes is not None and (found > self.num_classes or 0 < len(records.classes) < self.num_classes):
            raise ValueError(f"data.num_classes={self.num_classes}: {records.name} has {found} classes.")


def _classes_of(records: Records) -> int:
    return len(records.classes) or int(records.labels.max()) + 1
