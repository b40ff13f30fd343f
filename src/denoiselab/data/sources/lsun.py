"""LSUN from its databases."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.image_files import opened
from denoiselab.data.reading.records import Strings, identity
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import absent, package

_CATEGORIES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)


class LMDBRecords:
    """Image files that are the values of LMDB databases, one after the other; each process opens them for itself.

    Args:
        folders: Of the databases.
        classes: Names of their images, one a database.
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

    @property
    def name(self) -> str:
        """The databases."""
        return ", ".join(map(str, self._folders))

    def __len__(self) -> int:
        return len(self._keys)

    def describe(self, i: int) -> str:
        """The database and the key."""
        return f"{self._folders[bisect_right(self._ends, i)]}: {self._keys[i]}"

    def image(self, i: int) -> Image.Image:
        """Image `i`, opened.

        Raises:
            OSError: It cannot be read.
        """
        with _opened(self._folders[bisect_right(self._ends, i)]).begin() as transaction:
            return opened(transaction.get(self._keys[i].encode("latin-1")))


@functools.cache
def _opened(folder: Path) -> Any:
    """A database; a process may open it only once."""
    import lmdb

    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)


@dataclass(kw_only=True)
class LSUN(ImageSource):
    """Scenes of up to 10 categories, 256 pixels on the shorter side; 300 images of each are held out.

    Needs the extra `lmdb`. Source: Yu et al., LSUN, arXiv 1506.03365.

    Args:
        root: Folder of the unpacked <category>_train_lmdb and <category>_val_lmdb.
        categories: To train on; they are the classes if there are several.

    Raises:
        ValueError: An option is out of range.
    """

    root: str
    categories: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"data.categories={list(self.categories)}: it must name one or more categories, once.")
        for category in self.categories:
            if category not in _CATEGORIES:
                raise ValueError(f"data.categories: {category} is none; allowed: {', '.join(_CATEGORIES)}.")

    def records(self) -> LMDBRecords:
        """The training images.

        Raises:
            ValueError: A database is not there or not whole, or the extra is not installed.
        """
        return self._split("train")

    def held_out(self) -> LMDBRecords:
        """The validation images."""
        return self._split("val")

    def _split(self, split: str) -> LMDBRecords:
        lmdb = package("lmdb", "lsun", "lmdb")
        root = Path(self.root).expanduser()
        folders = [root / f"{category}_{split}_lmdb" for category in self.categories]
        if not all((folder / "data.mdb").is_file() for folder in folders):
            expected = ", ".join(f"{folder.name}/data.mdb" for folder in folders)
            raise absent("LSUN", root, expected, "They are in the zip archives of github.com/fyu/lsun.")
        try:
            return LMDBRecords(folders, self.categories)
        except lmdb.Error as error:
            raise ValueError(f"data.root={self.root}: it cannot be read ({error}).") from None
