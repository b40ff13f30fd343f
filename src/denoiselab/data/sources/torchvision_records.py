"""The base class of data sets that torchvision reads, and their images as records."""

from __future__ import annotations

import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
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
from denoiselab.data.sources.requirements import missing_files

Box = tuple[int, int, int, int]


class VisionRecords(Reopened):
    """Images of data sets of torchvision, concatenated.

    Args:
        openers: Create the data sets; called again in other processes.
        labels: Of the images of a data set, `(N,)`.
        classes: Their names, from a data set.
        paths: Of a data set's image files; None if it holds arrays.
        crop: Left, top, right and bottom of the part of each image to keep; None keeps all.
    """

    captions = None

    def __init__(
        self,
        name: str,
        openers: Sequence[Callable[[], Any]],
        labels: Callable[[Any], Any],
        classes: Callable[[Any], Sequence[str]],
        paths: Callable[[Any], Sequence[Path] | None],
        crop: Box | None = None,
    ) -> None:
        self.name, self._openers, self._crop = name, tuple(openers), crop
        self.classes = tuple(classes(self._parts[0]))
        self.labels: Tensor = torch.cat([torch.as_tensor(labels(part), dtype=torch.int64) for part in self._parts])
        self.files = Strings(str(path) for part in self._parts for path in paths(part) or ())
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
        return self.files[i] if self.files else f"image {i} of {self.name}"

    def image(self, i: int) -> Image.Image:
        part = bisect_right(self._ends, i)
        image: Image.Image = self._parts[part][i - (self._ends[part - 1] if part else 0)][0]
        return image if self._crop is None else image.crop(self._crop)


@dataclass(kw_only=True)
class VisionSource(ImageSource):
    """A data set of torchvision, with its official training and test splits.

    Args:
        root: Folder in which torchvision stores the data set.
        download: Let torchvision download missing files.
    """

    root: str
    download: bool = False

    kind: ClassVar[str]  # torchvision's class
    needs: ClassVar[str]  # the files that torchvision expects
    where: ClassVar[str]  # a sentence on where they can be obtained

    def records(self) -> VisionRecords:
        return self._read("train")

    def held_out(self) -> VisionRecords | None:
        return self._read("test")

    def _read(self, *splits: str, crop: Box | None = None) -> VisionRecords:
        from torchvision import datasets  # slow to import

        kind = getattr(datasets, self.kind)
        openers = [functools.partial(kind, self.root, **self._options(split)) for split in splits]
        if self.download:
            fetch(openers)
        try:
            name = f"{self.name}, {' and '.join(splits)}"
            return VisionRecords(name, openers, self._labels, self._classes, self._paths, crop)
        except (RuntimeError, FileNotFoundError):
            more = f"{self.where} data.download=true downloads them."
            raise missing_files(self.kind, Path(self.root), self.needs, more) from None

    def _options(self, split: str) -> dict[str, Any]:
        """Arguments of torchvision's class."""
        return {"split": split}

    def _labels(self, part: Any) -> Any:
        return part.labels

    def _classes(self, part: Any) -> Sequence[str]:
        out: Sequence[str] = part.classes
        return out

    def _paths(self, part: Any) -> Sequence[Path] | None:
        return None


def fetch(openers: Sequence[functools.partial[Any]]) -> None:
    """Let torchvision download missing files; other processes wait."""
    for opener in openers:
        root = Path(opener.args[0])
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".download.lock"):
                opener(download=True)
        except (OSError, RuntimeError, ImportError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"data.download=true: {opener.func.__name__} cannot be downloaded: {text}") from None
