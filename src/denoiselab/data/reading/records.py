"""Images as they lie in their files: what a source of data has to give."""

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


# Beyond it a class is a mistake, and no table of embeddings.
MOST_CLASSES = 2**31


class Records(Protocol):
    """Labelled images in their files: random access, and nothing decoded before it is asked for.

    Reading is all that they do; `denoiselab.data.sources.image_source.ImageSource` makes images of one shape of them.
    They are pickled to other processes, so they hold paths and names (many of them as `Strings`), no open files and
    no large arrays but memory-mapped ones that they open again.

    Args:
        name: Of the source, for messages: a folder, an archive.
        labels: Classes `(N,)` int64, zeros where there are none.
        classes: Their names; empty where there are none.
        captions: One a record; None where there are none.
        identity: sha256 of what is cheap to read and tells one set of images from another: names, sizes, labels,
            captions, an archive's directory; not times, not where the files lie.
        files: Paths of the files that they are read from, for `version`; none where `identity` covers all their bytes.
    """

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[str] | None: ...
    @property
    def identity(self) -> str: ...
    @property
    def files(self) -> Iterable[str | Path]: ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def describe(self, i: int) -> str:
        """What image `i` is called: its file's path, or its place in an archive."""
        ...

    def image(self, i: int) -> Image | NDArray[np.uint8]:
        """Image `i` in its original size: as Pillow opened it, or an array `(H, W)` or `(H, W, C)`, C of 1 to 4.

        Raises:
            OSError: It cannot be read.
            ValueError: What was read is no image.
        """
        ...


class Reopened:
    """Pickled without what its cached properties hold: another process opens that anew."""

    def __getstate__(self) -> dict[str, Any]:
        kind = type(self)
        return {k: v for k, v in self.__dict__.items() if not isinstance(getattr(kind, k, None), cached_property)}


@dataclass(frozen=True)
class ArrayRecords:
    """Records of images that are an array in memory.

    Args:
        name: Of the source, for messages.
        images: `(N, H, W)` or `(N, H, W, C)` uint8.
        labels: Classes `(N,)` int64.
        classes: Their names.
        captions: One an image, or None.
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
        """sha256 of all there is."""
        return identity((str(self.images.shape),), self.labels, self.captions, np.ascontiguousarray(self.images).data)

    def describe(self, i: int) -> str:
        """Its place."""
        return f"image {i} of {self.name}"

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`."""
        image: NDArray[np.uint8] = self.images[i]
        return image


class Strings(Sequence[str]):
    """Many strings in one piece of memory, so that they travel to other processes at little cost.

    Args:
        strings: Any; file names keep bytes that are not UTF-8.
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
    """sha256 of what changes when one of the files on this machine does: their paths, sizes and times.

    A file that is not there counts as such.
    """
    out = hashlib.sha256()
    for path in files:
        try:
            stat = os.stat(path)  # noqa: PTH116  # of a million files, so no Path
            facts = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError as error:
            facts = f"error {error.errno}"
        out.update(f"{os.path.abspath(path)}\n{facts}\n".encode("utf-8", "surrogateescape"))  # noqa: PTH100
    return out.hexdigest()


def identity(
    names: Iterable[str], labels: Tensor, captions: Sequence[str] | None = None, content: bytes | memoryview = b""
) -> str:
    """sha256 of what tells a set of images from another.

    Args:
        names: Of the images, relative to their root, with their sizes; in order.
        labels: `(N,)` int64.
        captions: One an image, or None.
        content: Bytes of the images or of an archive's directory, where they are cheap to read.
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


def numbered(values: Sequence[Any], column: str, names: Sequence[str] | None = None) -> tuple[Tensor, Sequence[str]]:
    """Classes `(N,)` int64 and their names, of what a column of a table holds.

    Args:
        values: Names, which are numbered in alphabetical order, or whole numbers from 0.
        column: What the column is called, for messages.
        names: Of the classes, where they are known.

    Raises:
        ValueError: They are neither, or a name is not among those that are known.
    """
    if all(isinstance(value, str) for value in values):
        found = sorted(set(values))
        names = found if names is None else names
        places = {name: i for i, name in enumerate(names)}
        if unknown := [name for name in found if name not in places]:
            raise ValueError(f"data.label={column}: no image to train on is of the class {unknown[0]}.")
        values = [places[value] for value in values]
    if not all(type(value) is int and 0 <= value < MOST_CLASSES for value in values):
        raise ValueError(f"data.label={column}: the column must hold names, or whole numbers from 0.")
    return torch.tensor(values, dtype=torch.int64), names or ()


def caption(cell: Any, column: str) -> str:
    """The caption in a cell of a table: a text, or the first of several; empty where there is none.

    Raises:
        ValueError: The cell holds something else, or half of a character.
    """
    first = next(iter(cell), None) if isinstance(cell, list) else cell
    if not isinstance(first, str | None):
        raise ValueError(f"data.caption={column}: the column must hold texts, and has {first!r}.")
    return checked_caption(first or "", f"data.caption={column}")


def checked_caption(text: str, where: str) -> str:
    """A caption, if it can be encoded.

    Args:
        text: The caption.
        where: It stands, for messages.

    Raises:
        ValueError: It holds half of a pair of UTF-16, as JSON's escapes may, which is no character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{where}: the caption holds {half}, half of a character; mend or remove it.") from None
    return text
