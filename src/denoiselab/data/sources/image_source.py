"""From records in files to images of one shape: the options that all sources of images share."""

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

# Images that are looked through for values of fewer bits.
_SAMPLED = 32


@dataclass(kw_only=True)
class ImageSource(ABC):
    """A source of images; a subclass says where its records are, by `records` and, where published, `held_out`.

    A subclass is a dataclass (`@dataclass(kw_only=True)`), so that it takes these options beside its own; it checks its
    own in `__post_init__` after calling this class's. Its YAML begins with `defaults: [base/images@_here_, _self_]`.

    Every image is read once, before the first training: its hash says whether it is held out, and damage shows. A set
    of up to `memory_limit` is decoded in doing so, into a file that all processes of a machine map into their memory;
    a larger one is decoded again whenever a batch is made. What was found is kept in `cache_dir`.

    Without this first pass, for sets that are too large or too far away for it, nothing is decoded beforehand: an image
    is held out by a number drawn for its place in this very set, so copies part, and damage stops the training.

    How images of any kind become bytes says `denoiselab.data.reading.decoding.Decoder`.

    Args:
        name: Of the data set in scores and folders.
        shape: [C, H, W] of an image as the network sees it. C = 1 makes grey of colours, C = 3 colours of grey.
        num_classes: Number of classes; None where they do not matter, or are to be counted.
        validation: Fraction held out from training, by hash of the image, so that copies never part; of sources
            without a held-out part of their own.
        size: Keep only so many training images, evenly spread over the set, which may be in the order of classes; None
            keeps all.
        resize: To height and width: none refuses other sizes; center_crop is ADM's; random_crop is ADM's in
            training, else center_crop; stretch ignores the aspect; pad adds black on all sides.
        bad_images: One that cannot be read: fail names it; skip leaves it out and reports all.
        memory_limit: GiB of decoded images up to which a set is decoded once, before training; random crops never are.
        max_pixels: An image with more is a bad one, and not decoded.
        bit_depth: Bits of a value, 1 to 16, where files or arrays could hold more: 12 of 16; None: all that they hold.
        first_pass: Read every image once before the first training.
        workers: Processes that read images, before the first training and, where images are not decoded by then, in
            training; None: the cores of each rank.
        cache_dir: Where decoded sets are kept.

    Raises:
        ValueError: An option is out of range.
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
        """Refuse options that are out of range."""
        shape = list(self.shape)
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
            raise ValueError(f"data.shape={shape}: it must be [1, H, W] for grey or [3, H, W] for colour.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation={self.validation}: it must be at least 0 and less than 1.")
        for option, least in (("num_classes", 1), ("size", 1), ("max_pixels", 1), ("workers", 0), ("memory_limit", 0)):
            value = getattr(self, option)
            if value is not None and not value >= least:  # nor what is no number
                raise ValueError(f"data.{option}={value}: it must be at least {least}.")
        if self.bit_depth is not None and not 1 <= self.bit_depth <= 16:
            raise ValueError(f"data.bit_depth={self.bit_depth}: it must be from 1 to 16, or null.")
        if self.bad_images == "skip" and not self.first_pass:
            raise ValueError("data.bad_images=skip: it takes data.first_pass=true, which finds them before training.")

    @abstractmethod
    def records(self) -> Records:
        """The images for training, and those to hold out of them if `held_out` gives none.

        Raises:
            ValueError: There is nothing where the options say, or not what they say; one sentence that names them.
        """

    def held_out(self) -> Records | None:
        """The held-out images of a source that is published with some; None splits by hash."""
        return None

    def load(self) -> tuple[RecordSet, RecordSet]:
        """(train, held-out).

        Raises:
            ValueError: The images are not as the options say.
        """
        try:
            train, apart = self.records(), self.held_out()
        except OSError as error:
            raise ValueError(f"data: {error.filename} cannot be read ({error.strerror or error}).") from None
        whole = self._prepared(train)
        self._note_darkness(whole, train.name)
        if apart is None:
            held = whole.hashed_below(self.validation)
            train_set, held_set = whole.subset(~held), whole.subset(held)
        else:
            train_set, held_set = whole, self._prepared(apart)
        if not len(train_set):
            raise ValueError(f"data.validation={self.validation}: it leaves no image for training.")
        kept = min(len(train_set), self.size or len(train_set))
        return train_set.subset(torch.arange(kept) * len(train_set) // kept), held_set

    def counted_classes(self) -> int:
        """How many classes the images to train on have.

        Raises:
            ValueError: They have none, or there are no such images.
        """
        records = self.records()
        if not len(records):
            raise ValueError(f"data: {records.name} holds no image.")
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

    def _note_darkness(self, data: RecordSet, name: str) -> None:
        """Say so where a sample of the images uses the lower half of the bytes alone."""
        if self.bit_depth is not None or not self.first_pass or not len(data):
            return
        some = min(len(data), _SAMPLED)
        top = int(data.stored(torch.arange(some) * len(data) // some).max())
        if 0 < top < 128:
            told = (some, name, top, top.bit_length(), top.bit_length())
            _log.warning(
                "no value of %d images of %s is above %d, and they are taken as 0 to 255; if they have %d bits, set "
                "data.bit_depth=%d",
                *told,
            )

    def _check(self, records: Records) -> None:
        if not len(records):
            raise ValueError(f"data: {records.name} holds no image.")
        found = _classes_of(records)
        if self.num_classes is not None and (found > self.num_classes or 0 < len(records.classes) < self.num_classes):
            raise ValueError(f"data.num_classes={self.num_classes}: {records.name} has {found} classes.")


def _classes_of(records: Records) -> int:
    return len(records.classes) or int(records.labels.max()) + 1
