"""Undecoded images with labels and captions: what a source of images returns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


MOST_CLASSES = 2**31  # larger class numbers are refused as mistakes


class Records(Protocol):
    """Labelled images with random access; each is read when it is requested.

    `denoiselab.data.sources.image_source.ImageSource` decodes them to one shape. They are pickled to other processes,
    so they hold paths and names (many of them as `Strings`), no open files, and no large arrays except memory-mapped
    ones that they open again.
    """

    @property
    def name(self) -> str:
        """Of the source, for messages: a folder, an archive."""

    @property
    def labels(self) -> Tensor:
        """Classes `(N,)` int64, zeros without classes."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty without classes."""

    @property
    def captions(self) -> Sequence[str] | None:
        """One per image, or None."""

    @property
    def identity(self) -> str:
        """sha256 that distinguishes sets and is cheap: of names, sizes, labels, captions; not of times or places."""

    @property
    def files(self) -> Iterable[str | Path]:
        """Files that they are read from, for `version`; none if `identity` covers all their bytes."""

    def __len__(self) -> int:
        """Number of images."""

    def describe(self, i: int) -> str:
        """The name of image `i` in messages: its path, or its place in an archive."""

    def image(self, i: int) -> Image | NDArray[np.uint8]:
        """Image `i` in its original size: as Pillow opened it, or an array `(H, W)` or `(H, W, C)`, C of 1 to 4.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is not an image.
        """


class Reopened:
    """Pickled without its cached properties, which another process computes again: open files and memory maps."""

    def __getstate__(self) -> dict[str, Any]:
        kind = type(self)
        return {k: v for k, v in self.__dict__.items() if not isinstance(getattr(kind, k, None), cached_property)}


@dataclass(frozen=True)
class SingleFile(Reopened):
    """Records in one file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path]:
        return (self.path,)


@dataclass(frozen=True)
class ArrayRecords:
    """Records of images in an array in memory; fields as in `Records`.

    Args:
        images: `(N, H, W)` or `(N, H, W, C)` uint8.
    """

    name: str
    images: NDArray[np.uint8]
    labels: Tensor
    classes: Sequence[str] = ()
    captions: Sequence[str] | None = None
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def identity(self) -> str:
        """sha256 of all images, labels and captions."""
        return identity((str(self.images.shape),), self.labels, self.captions, np.ascontiguousarray(self.images).data)

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"

    def image(self, i: int) -> NDArray[np.uint8]:
        out: NDArray[np.uint8] = self.images[i]
        return out


class Strings(Sequence[str]):
    """Many strings in one piece of memory, which is cheap to pickle.

    Args:
        strings: Any; bytes of file names that are not UTF-8 are kept.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        words = [text.encode("utf-8", "surrogateescape") for text in strings]
        self._bytes = b"".join(words)
        self._ends = np.cumsum([0, *map(len, words)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = range(len(self))[i]
        return self._bytes[self._ends[k] : self._ends[k + 1]].decode("utf-8", "surrogateescape")


def version(files: Iterable[str | Path]) -> str:
    """sha256 of the files' paths, sizes and times, or of the error for a file that cannot be found."""
    out = hashlib.sha256()
    for path in files:
        try:
            stat = os.stat(path)  # noqa: PTH116  # faster than Path, for a million files
            facts = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError as error:
            facts = f"error {error.errno}"
        out.update(f"{os.path.abspath(path)}\n{facts}\n".encode("utf-8", "surrogateescape"))  # noqa: PTH100
    return out.hexdigest()


def identity(
    names: Iterable[str], labels: Tensor, captions: Sequence[str] | None = None, content: bytes | memoryview = b""
) -> str:
    """sha256 of what distinguishes a set of images from another.

    Args:
        names: Of the images, relative to their root, with their sizes; in order.
        labels: `(N,)` int64.
        captions: One per image, or None.
        content: Bytes of the images or of an archive's directory, if they are cheap to read.
    """
    out = hashlib.sha256()
    for part in (names, captions or ()):
        for text in part:
            word = text.encode("utf-8", "surrogateescape")
            out.update(f"{len(word)} ".encode() + word)
        out.update(b"|")
    out.update(labels.to(torch.int64).contiguous().numpy().tobytes())
    out.update(content)
    return out.hexdigest()
