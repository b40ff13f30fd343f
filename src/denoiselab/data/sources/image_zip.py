"""A zip archive of image files, as written by the dataset_tool of EDM and StyleGAN."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.captions import FILES, Table, captions_of, match
from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import MOST_CLASSES, SingleFile, Strings, identity
from denoiselab.data.sources.image_folder import EXTENSIONS, no_image, warn_of_skipped
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.files import read_member

_LABELS = "dataset.json"

_MOST = 2**30  # bytes of an unpacked image file
_TABLE, _A_LINE = 2**20, 2**14  # bytes of a table of classes or captions: in any case, and per image


@dataclass(frozen=True)
class ZipRecords(SingleFile):
    """Records of the image files in an archive; each process opens it.

    Args:
        names: Of the members.
    """

    names: Sequence[str]
    labels: Tensor
    identity: str
    classes: Sequence[str] = ()
    captions: Sequence[str] | None = None

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, i: int) -> str:
        return f"{self.path}/{self.names[i]}"

    def image(self, i: int) -> Image.Image:
        member = self._archive.getinfo(self.names[i])
        if member.file_size > _MOST:
            raise ValueError(f"it unpacks to {member.file_size} bytes, more than the {_MOST} allowed for an image")
        return open_image(self._archive.read(member))


@dataclass(kw_only=True)
class ImageZip(ImageSource):
    """Image files in a zip archive, in the order of their names, read without unpacking.

    `metadata.jsonl` or `metadata.csv` gives captions (see `denoiselab.data.reading.captions`), `dataset.json`
    classes: {"labels": [["00000/img00000000.png", 6], ...]}, or null for none.
    Source: https://github.com/NVlabs/edm, dataset_tool.py.

    Args:
        root: The .zip archive.
    """

    root: str

    def records(self) -> ZipRecords:
        path = Path(self.root).expanduser()
        option = f"data.root={path}"
        if not path.is_file():
            raise ValueError(
                f"{option}: {'it is a folder; use data=image_folder' if path.is_dir() else 'there is no such file'}."
            )
        try:
            with zipfile.ZipFile(path) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.filename)
                inside = archive.namelist()
                most = _TABLE + _A_LINE * sum(map(_is_image, inside))
                text = read_member(archive, _LABELS, most) if _LABELS in inside else b"{}"
                tables = [
                    Table(str(PurePosixPath(name).parent), f"{option}: its {name}", read_member(archive, name, most))
                    for name in inside
                    if PurePosixPath(name).name in FILES
                ]
        except (OSError, zipfile.BadZipFile, RuntimeError, zlib.error) as error:
            raise ValueError(f"{option}: damaged, or not a zip archive ({error}).") from None
        except ValueError as error:
            raise ValueError(f"{option}: {error}.") from None
        if twice := [name for name, count in Counter(inside).items() if count > 1]:
            raise ValueError(f"{option}: it contains {twice[0]} twice.")
        for member in members:
            place = PurePosixPath(member.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
                raise ValueError(f"{option}: its member {member.filename} has an unsafe path; the archive is not read.")
        images = [member for member in members if _is_image(member.filename)]
        known = {_LABELS, *FILES}
        others = [
            member.filename
            for member in members
            if not member.is_dir() and (place := PurePosixPath(member.filename)).suffix.lower() not in EXTENSIONS
            if place.name not in known and not place.name.startswith(".")
        ]
        if not images:
            raise no_image(option, others)
        warn_of_skipped(others, option)
        names = [member.filename for member in images]
        labels = _labels(text, names, option)
        captions = captions_of(tables, names, f"{option}: {' and '.join(FILES)}")
        key = identity((f"{m.filename} {m.file_size} {m.CRC}" for m in images), labels, captions)
        return ZipRecords(path, Strings(names), labels, key, captions=None if captions is None else Strings(captions))


def _is_image(name: str) -> bool:
    place = PurePosixPath(name)
    return place.suffix.lower() in EXTENSIONS and not place.name.startswith(".")


def _labels(text: bytes, names: list[str], option: str) -> Tensor:
    try:
        content = json.loads(text)
        pairs = dict(content.get("labels") or [])
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(f'{option}: its {_LABELS} is not {{"labels": [[file name, class], ...]}}.') from None
    if not pairs:
        return torch.zeros(len(names), dtype=torch.int64)
    values = match(pairs, names, f"{option}: its {_LABELS}", "labels")
    for name, value in zip(names, values, strict=True):
        if type(value) is not int or not 0 <= value < MOST_CLASSES:
            raise ValueError(f"{option}: its {_LABELS} has {value!r} for {name}; a class is a whole number from 0.")
    return torch.tensor(values)
