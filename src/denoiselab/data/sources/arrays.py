"""Images in an array in a NumPy file."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoiselab.data.reading.records import MOST_CLASSES, ArrayRecords, Records, SingleFile, identity
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.files import check_member

# Names of arrays in .npz files, in order of preference; arr_0 and arr_1 are ADM's.
_IMAGES, _LABELS = ("images", "x", "data", "arr_0"), ("labels", "y", "arr_1")

_KINDS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.bool_))

_BLOCKS, _BLOCK = 64, 2**16  # number and bytes of the blocks that are hashed to identify an array


@dataclass(frozen=True)
class NpyRecords(SingleFile):
    """Records of an array in a .npy file, which each process memory-maps."""

    labels: Tensor
    classes: tuple[str, ...] = ()
    captions: None = None

    @cached_property
    def _images(self) -> NDArray[Any]:
        return channels_last(np.load(self.path, mmap_mode="r"))

    @property
    def identity(self) -> str:
        """sha256 of the file's size, of evenly spread blocks, and of the labels."""
        size, digest = self.path.stat().st_size, hashlib.sha256()
        with self.path.open("rb") as file:
            for k in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * k // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
        return identity((f"array {size}",), self.labels, None, digest.digest())

    def __len__(self) -> int:
        return len(self._images)

    def describe(self, i: int) -> str:
        return f"image {i} of {self.path}"

    def image(self, i: int) -> NDArray[Any]:
        return np.asarray(self._images[i])


@dataclass(kw_only=True)
class Arrays(ImageSource):
    """Images in a .npy file, or in a .npz file with their labels.

    They are uint8, uint16 or bool, `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`. In a .npz file they are named
    images, x, data or arr_0, and their classes labels, y or arr_1. A .npy file is memory-mapped.

    Args:
        root: A .npy or .npz file.
        labels: A .npy file of classes `(N,)`, for a .npy file of images; None for no classes.
    """

    root: str
    labels: str | None = None

    def records(self) -> Records:
        path = Path(self.root).expanduser()
        option = f"data.root={path}"
        if path.is_dir():
            raise ValueError(f"{option}: it is a folder; use data=image_folder.")
        if not path.is_file():
            raise ValueError(f"{option}: there is no such file.")
        if path.suffix not in (".npy", ".npz"):
            raise ValueError(f"{option}: it must be a .npy or a .npz file.")
        try:
            loaded = np.load(path, mmap_mode="r")  # no pickles
            if path.suffix == ".npy":
                images = loaded
                labels = None if self.labels is None else _read_labels(self.labels)
            elif self.labels is not None:
                raise ValueError(f"data.labels={self.labels}: a .npz file of images contains its own labels.")
            else:
                names = ", ".join(loaded.files)
                key = next((name for name in _IMAGES if name in loaded.files), None)
                if key is None:
                    raise ValueError(f"{option}: it contains {names or 'nothing'}, and none of {', '.join(_IMAGES)}.")
                # Of 16-bit values, twice the limit of decoded images.
                check_member(loaded.zip, f"{key}.npy", 2**10 + int(self.memory_limit * 2**31))
                images = loaded[key]
                key = next((name for name in _LABELS if name in loaded.files), None)
                if key is not None:
                    check_member(loaded.zip, f"{key}.npy", 2**10 + 8 * len(images))
                labels = None if key is None else loaded[key]
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
            raise ValueError(f"{option}: it cannot be read ({' '.join(str(error).split())}).") from None
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith("data.") else f"{option}: it cannot be read ({text}).") from None
        return self._checked(path, images, labels, option)

    def _checked(self, path: Path, images: NDArray[Any], labels: NDArray[Any] | None, option: str) -> Records:
        if images.ndim not in (3, 4) or images.dtype.newbyteorder("=") not in _KINDS:
            raise ValueError(
                f"{option}: its images are {images.dtype} of shape {list(images.shape)}; expected are uint8, uint16 or "
                "bool, (N, H, W), (N, H, W, C) or (N, C, H, W)."
            )
        if labels is None:
            classes = torch.zeros(len(images), dtype=torch.int64)
        elif (
            labels.shape != (len(images),)
            or labels.dtype.kind not in "iu"
            or not ((labels >= 0) & (labels < MOST_CLASSES)).all()
        ):
            of = f"{option}: its labels" if self.labels is None else f"data.labels={self.labels}: they"
            raise ValueError(
                f"{of} are {labels.dtype} of shape {list(labels.shape)}; expected are {len(images)} whole numbers "
                "from 0."
            )
        else:
            classes = torch.from_numpy(labels.astype(np.int64))
        if path.suffix == ".npy":
            return NpyRecords(path, classes)
        if self.resize == "random_crop":
            raise ValueError(
                f"{option}: a .npz file is read as a whole; unpack it to .npy for data.resize=random_crop."
            )
        channels, height, width = self.shape
        if len(images) * channels * height * width > self.memory_limit * 2**30:
            raise ValueError(f"{option}: a .npz file is read as a whole, and this one is too large; unpack it to .npy.")
        return ArrayRecords(str(path), channels_last(images), classes)


def channels_last(images: NDArray[Any]) -> NDArray[Any]:
    """`(N, H, W)` unchanged, others as `(N, H, W, C)`: the axis of size 1, 3 or 4 is C, the last one if both are."""
    first = images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4)
    return images.transpose(0, 2, 3, 1) if first else images


def _read_labels(name: str) -> NDArray[Any]:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"data.labels={name}: there is no such file.")
    try:
        labels = np.load(path)
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, MemoryError) as error:
        raise ValueError(f"data.labels={name}: it cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(labels, np.ndarray):
        raise ValueError(f"data.labels={name}: it contains several arrays; expected is a .npy file, which has one.")
    return labels
