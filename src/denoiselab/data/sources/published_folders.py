"""ImageNet, FFHQ and AFHQ: published folders, or archives made of them by EDM's dataset_tool."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from denoiselab.data.reading.records import Records
from denoiselab.data.sources.image_folder import FileRecords, folder_records
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.image_zip import ImageZip
from denoiselab.data.sources.requirements import missing_files

_ARCHIVE = "A zip archive made by EDM's or StyleGAN3's dataset_tool.py works too."


@dataclass(kw_only=True)
class _Published(ImageSource):
    """A folder in a published layout, or an archive.

    Args:
        root: The folder, or the .zip.
    """

    root: str

    where: ClassVar[str] = _ARCHIVE

    def records(self) -> Records:
        if self._path.suffix != ".zip":
            return self._training()
        return ImageZip(name=self.name, shape=self.shape, num_classes=self.num_classes, root=self.root).records()

    @abstractmethod
    def _training(self) -> FileRecords:
        """The training images of a folder."""

    @property
    def _path(self) -> Path:
        return Path(self.root).expanduser()

    def _split(self, names: Sequence[str], expected: str) -> FileRecords | None:
        """The first of the folders `names` that exists, with its subfolders as classes."""
        found = [self._path / name for name in names if (self._path / name).is_dir()]
        return self._folder(found[0], expected) if found else None

    def _folder(self, path: Path, expected: str) -> FileRecords:
        try:
            return folder_records(path, classes=True)
        except ValueError as error:
            if path.is_dir():
                raise ValueError(f"{error} Expected is {expected}. {_ARCHIVE}") from None
            raise missing_files(self.name, path, expected, _ARCHIVE) from None


@dataclass(kw_only=True)
class ImageNet(_Published):
    """1,281,167 + 50,000 photographs of 1,000 classes (ILSVRC 2012), at any size.

    Research use by its terms of access. Labels are the places of the sorted synsets; classes have torchvision's names.
    Source: Russakovsky et al., ImageNet large scale visual recognition challenge, arXiv 1409.0575.

    Args:
        root: Folder with `train/<synset>/*.JPEG` and, to be held out, `val/<synset>/*.JPEG`; the folder of synsets
            itself; or a .zip of training images.
    """

    def _training(self) -> FileRecords:
        expected = "train/<synset>/*.JPEG, with 1,000 folders such as n01440764"
        return self._named(self._split(["train"], expected) or self._folder(self._path, expected), expected)

    def held_out(self) -> FileRecords | None:
        expected = "val/<synset>/*.JPEG, with 1,000 folders such as n01440764"
        found = self._split(["val"], expected)
        return None if found is None else self._named(found, expected)

    def _named(self, records: FileRecords, expected: str) -> FileRecords:
        from torchvision.models import ResNet18_Weights  # slow to import

        if len(records.classes) != 1000 or not all(re.fullmatch(r"n\d{8}", name) for name in records.classes):
            raise ValueError(
                f"data.root={self.root}: {records.root} has {len(records.classes)} class folders; expected "
                f"{expected}. {_ARCHIVE}"
            )
        return replace(records, classes=tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]))


@dataclass(kw_only=True)
class AFHQ(_Published):
    """About 15,000 faces of animals, 512x512, of 3 classes: cat, dog, wild.

    Licence: CC BY-NC 4.0. Source: Choi et al., StarGAN v2, arXiv 1912.01865.

    Args:
        root: Folder with train/{cat,dog,wild} and, to be held out, test/ (version 2) or val/ (version 1); or a .zip
            of training images.
    """

    def _training(self) -> FileRecords:
        expected = "train/cat, train/dog and train/wild"
        return self._animals(self._split(["train"], expected), expected)

    def held_out(self) -> FileRecords | None:
        expected = "test/cat, test/dog and test/wild"
        found = self._split(["test", "val"], expected)
        return None if found is None else self._animals(found, expected)

    def _animals(self, records: FileRecords | None, expected: str) -> FileRecords:
        if records is None or list(records.classes) != ["cat", "dog", "wild"]:
            raise missing_files(self.name, self._path, expected, _ARCHIVE)
        return records


@dataclass(kw_only=True)
class FFHQ(_Published):
    """70,000 faces of people, 1024x1024 or the thumbnails of 128x128; no classes.

    Licence: CC BY-NC-SA 4.0. Source: Karras, Laine and Aila, A style-based generator architecture, arXiv 1812.04948.

    Args:
        root: Folder that contains images1024x1024 or thumbnails128x128; either of these; or a .zip.
    """

    def _training(self) -> FileRecords:
        sizes = ["thumbnails128x128", "images1024x1024"] if max(self.shape[1:]) <= 128 else ["images1024x1024"]
        path = next((self._path / size for size in sizes if (self._path / size).is_dir()), self._path)
        expected = f"{' or '.join(sizes)}, with folders 00000 to 69000 of 1,000 images each"
        try:
            records = folder_records(path, classes=False)
        except ValueError:
            raise missing_files(self.name, self._path, expected, _ARCHIVE) from None
        if not re.search(r"(^|/)\d{5}\.png$", records.names[0]):
            raise missing_files(self.name, self._path, expected, _ARCHIVE)
        return records
