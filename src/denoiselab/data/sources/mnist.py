"""MNIST and Fashion-MNIST from their published IDX files."""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from denoiselab.data.reading.records import ArrayRecords
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import missing_files
from denoiselab.data.sources.torchvision_records import fetch

_MOST = 2**28  # bytes of a file, unpacked
_UNSIGNED_BYTES = 8  # the third byte of an IDX file: the type of its elements
# Places of the four files under a root: directly, or as torchvision or the Debian package stores them.
_FOLDERS = (".", "raw", "{}/raw", "fashion-mnist")


@dataclass(kw_only=True)
class MNIST(ImageSource):
    """70,000 handwritten digits, 28x28 grey, 10 classes; the 10,000 of the test split are held out.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998.

    Args:
        root: Folder of the four IDX files, gzipped or plain, or the one above it.
        download: Let torchvision download missing files.
    """

    root: str
    download: bool = False

    title: ClassVar[str] = "MNIST"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    where: ClassVar[str] = "data.download=true downloads them."

    def records(self) -> ArrayRecords:
        return self._split("train")

    def held_out(self) -> ArrayRecords:
        return self._split("t10k")

    def _split(self, split: str) -> ArrayRecords:
        if self.download:
            from torchvision import datasets  # slow to import

            fetch([functools.partial(getattr(datasets, type(self).__name__), self.root)])
        names = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
        for folder in (Path(self.root, part.format(type(self).__name__)) for part in _FOLDERS):
            paths = [path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
            if {path.name.removesuffix(".gz") for path in paths} == set(names):
                return self._read(paths[0], paths[-1])
        expected = f"the files {names[0]} and {names[1]}, with .gz or without, and those of the other split"
        raise missing_files(self.title, Path(self.root), expected, self.where)

    def _read(self, image_file: Path, label_file: Path) -> ArrayRecords:
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise ValueError(f"{label_file}: it has {len(labels)} labels, and {image_file} has {len(images)} images.")
        if labels.max(initial=0) >= len(self.classes):
            raise ValueError(f"{label_file}: it has a label {labels.max()}, of {len(self.classes)} classes.")
        return ArrayRecords(str(image_file), images, torch.from_numpy(labels).long(), self.classes)


@dataclass(kw_only=True)
class FashionMNIST(MNIST):
    """Zalando's 70,000 articles of clothing, 28x28 grey, 10 classes; options and splits as of MNIST.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv 1708.07747; MIT licence.
    """

    title = "Fashion-MNIST"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    where = (
        "They are at github.com/zalandoresearch/fashion-mnist, or on Debian installed by apt-get install "
        "dataset-fashion-mnist, for data.root=/usr/share/datasets/fashion-mnist; data.download=true downloads them."
    )


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file, gzipped if its name ends in .gz.

    Two zeros, the type of an element and the number of dimensions, a byte each; the sizes as big-endian uint32; the
    elements. Source: LeCun, Cortes and Burges, The MNIST database, "File formats".
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"{path}: damaged, truncated, or not a gzip file.") from None
    if len(content) > _MOST:
        raise ValueError(f"{path}: it unpacks to more than {_MOST:,} bytes, which no file of these sets has.")
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)) or len(content) < start:
        raise ValueError(f"{path}: it is not an IDX file of bytes in {dimensions} dimensions.")
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != int(np.prod(sizes, dtype=np.uint64)):
        raise ValueError(f"{path}: {len(content) - start:,} bytes of elements, but its header declares {list(sizes)}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy()  # torch warns of read-only arrays
