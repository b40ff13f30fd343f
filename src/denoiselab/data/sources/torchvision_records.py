"""What torchvision's data sets hold, as records."""

from __future__ import annotations

import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.records import Reopened, Strings, identity
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import absent


class VisionRecords(Reopened):
    """Images of torchvision's data sets, one after the other.

    Args:
        name: Of the data set and split.
        openers: Make the data sets; called again in other processes.
        labels: Of the images of an opened data set, `(N,)`.
        classes: Their names, in an opened data set.
        paths: Of the image files of an opened data set; None where it holds arrays.
        crop: Left, top, right and bottom of what is kept of each image; None keeps all.
    """

    captions = None

    def __init__(
        self,
        name: str,
        openers: Sequence[Callable[[], Any]],
        labels: Callable[[Any], Any],
        classes: Callable[[Any], Sequence[str]],
        paths: Callable[[Any], Sequence[Path]] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.name, self._openers, self._crop = name, tuple(openers), crop
        self.classes = tuple(classes(self._parts[0]))
        self.labels: Tensor = torch.cat([torch.as_tensor(labels(part), dtype=torch.int64) for part in self._parts])
        found = None if paths is None else [str(path) for part in self._parts for path in paths(part)]
        self.files = Strings(found or ())
        self.identity = self._identity()

    @cached_property
    def _parts(self) -> list[Any]:
        return [opener() for opener in self._openers]

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(part) for part in self._parts))

    def _identity(self) -> str:
        if self.files:
            return identity((*(Path(file).name for file in self.files), str(self._crop)), self.labels)
        digests = (hashlib.sha256(np.ascontiguousarray(part.data).data).digest() for part in self._parts)
        return identity((), self.labels, None, b"".join(digests))

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, i: int) -> str:
        """The image's file, or its place."""
        return self.files[i] if self.files else f"image {i} of {self.name}"

    def image(self, i: int) -> Image.Image:
        """Image `i` as torchvision opens it, cropped.

        Raises:
            OSError: It cannot be read.
        """
        part = bisect_right(self._ends, i)
        image: Image.Image = self._parts[part][i - (self._ends[part - 1] if part else 0)][0]
        return image if self._crop is None else image.crop(self._crop)


@dataclass(kw_only=True)
class VisionSource(ImageSource):
    """A data set of torchvision.

    Args:
        root: Folder that torchvision lays the data set in.
        download: Let torchvision fetch what is not there.
    """

    root: str
    download: bool = False

    kind: ClassVar[str]  # torchvision's class
    lies: ClassVar[str]  # what torchvision looks for
    where: ClassVar[str]  # the files are to be had

    def _read(self, splits: Sequence[Mapping[str, Any]], **how: Any) -> VisionRecords:
        from torchvision import datasets  # slow to import, and only needed here

        kind = getattr(datasets, self.kind)
        openers = [functools.partial(kind, self.root, **split) for split in splits]
        if self.download:
            fetch(openers)
        try:
            return VisionRecords(f"{self.name}, {' and '.join(map(_said, splits))}", openers, **how)
        except (RuntimeError, FileNotFoundError):
            more = f"{self.where} data.download=true fetches them."
            raise absent(self.kind, Path(self.root), self.lies, more) from None


def fetch(openers: Sequence[functools.partial[Any]]) -> None:
    """Let torchvision fetch what is not there; processes wait for the one that does.

    Raises:
        ValueError: It cannot.
    """
    for opener in openers:
        root = Path(opener.args[0])
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".download.lock"):
                opener(download=True)
        except (OSError, RuntimeError, ImportError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"data.download=true: {opener.func.__name__} cannot be fetched: {text}") from None


def _said(split: Mapping[str, Any]) -> str:
    return str(split.get("split", "train" if split.get("train") else "test"))
