"""LSUN from its LMDB databases."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import Strings, identity
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import missing_files, require_package

_CATEGORIES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)


class LMDBRecords:
    """Image files in LMDB databases, concatenated; each process opens them.

    Args:
        folders: Of the databases.
        classes: One per database.
    """

    captions = None

    def __init__(self, folders: Sequence[Path], classes: Sequence[str]) -> None:
        self._folders, self.classes = tuple(folders), tuple(classes) if len(classes) > 1 else ()
        keys, counts = list[str](), list[int]()
        for folder in self._folders:
            with _opened(folder).begin() as transaction, transaction.cursor() as cursor:
                found = [key.decode("latin-1") for key in cursor.iternext(keys=True, values=False)]
            keys, counts = keys + found, [*counts, len(found)]
        self._keys, self._ends = Strings(keys), list(accumulate(counts))
        self.labels: Tensor = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        self.identity = identity(self._keys, self.labels)
        self.files = tuple(folder / "data.mdb" for folder in self._folders)
        self.name = ", ".join(map(str, self._folders))

    def __len__(self) -> int:
        return len(self._keys)

    def describe(self, i: int) -> str:
        return f"{self._folders[bisect_right(self._ends, i)]}: {self._keys[i]}"

    def image(self, i: int) -> Image.Image:
        with _opened(self._folders[bisect_right(self._ends, i)]).begin() as transaction:
            return open_image(transaction.get(self._keys[i].encode("latin-1")))


@functools.cache
def _opened(folder: Path) -> Any:
    """An open database; LMDB allows a process to open it only once."""
    import lmdb

    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)


@dataclass(kw_only=True)
class LSUN(ImageSource):
    """Scenes of up to 10 categories, 256 pixels on the shorter side; 300 images of each are held out.

    Needs the extra `lmdb`. Source: Yu et al., LSUN, arXiv 1506.03365.

    Args:
        root: Folder of the unpacked `<category>_train_lmdb` and `<category>_val_lmdb`.
        categories: To train on; they are the classes if there are several.
    """

    root: str
    categories: Sequence[str]

    where: ClassVar[str] = "They are in the zip archives of github.com/fyu/lsun."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"data.categories={list(self.categories)}: it must name one or more categories, once.")
        for category in self.categories:
            if category not in _CATEGORIES:
                raise ValueError(f"data.categories: {category} is unknown; allowed: {', '.join(_CATEGORIES)}.")

    def records(self) -> LMDBRecords:
        return self._split("train")

    def held_out(self) -> LMDBRecords:
        return self._split("val")

    def _split(self, split: str) -> LMDBRecords:
        lmdb = require_package("lmdb", "lsun", "lmdb")
        root = Path(self.root).expanduser()
        folders = [root / f"{category}_{split}_lmdb" for category in self.categories]
        if not all((folder / "data.mdb").is_file() for folder in folders):
            expected = ", ".join(f"{folder.name}/data.mdb" for folder in folders)
            raise missing_files("LSUN", root, expected, self.where)
        try:
            return LMDBRecords(folders, self.categories)
        except lmdb.Error as error:
            raise ValueError(f"data.root={self.root}: it cannot be read ({error}).") from None
