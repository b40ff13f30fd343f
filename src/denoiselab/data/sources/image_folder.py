"""A folder of image files."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.captions import FILES, read_captions
from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.label_maps import maps_beside
from denoiselab.data.reading.record_set import RecordSet
from denoiselab.data.reading.records import Strings, identity
from denoiselab.data.sources.image_source import ImageSource

_log = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga"),
        *(".tif", ".tiff", ".webp"),
    }
)

_KINDS = 5  # extensions of skipped files that a message lists


@dataclass(frozen=True)
class FileRecords:
    """Records of image files below a folder.

    Args:
        root: The folder.
        names: Of the files, relative to it.
    """

    root: Path
    names: Sequence[str]
    labels: Tensor
    classes: Sequence[str]
    captions: Sequence[str] | None
    identity: str

    @property
    def name(self) -> str:
        return str(self.root)

    @property
    def files(self) -> Iterator[str]:
        return (f"{self.root}/{name}" for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, i: int) -> str:
        return str(self.root / self.names[i])

    def image(self, i: int) -> Image.Image:
        return open_image(self.root / self.names[i])


@dataclass(kw_only=True)
class ImageFolder(ImageSource):
    """Image files in a folder and its subfolders, in the order of their paths.

    Each folder in `root` is a class, with all images below it; if images are in `root` itself there are no classes.
    `metadata.jsonl` or `metadata.csv` in `root` or the images' folders gives captions (see
    `denoiselab.data.reading.captions`). Hidden files are skipped; so are files with other extensions, with a warning.

    Args:
        root: The folder of images, or of folders of them.
        labels: Use folders as classes, or no classes.
        maps: A folder of PNGs with the class of each pixel, a/b.png for a/b.jpg; None for none.
    """

    root: str
    labels: Literal["folders", "none"] = "folders"
    maps: str | None = None

    def records(self) -> FileRecords:
        return folder_records(Path(self.root).expanduser(), classes=self.labels == "folders")

    def load(self) -> tuple[RecordSet, RecordSet]:
        if self.maps is None:
            return super().load()
        names, root = self.records().names, Path(self.maps).expanduser()
        maps = maps_beside(root, names, self.shape[1:], self.resize, kept=False)  # before images are read
        train, held_out = super().load()
        kept = replace(maps, kept=not train.workers)
        return replace(train, label_maps=kept), replace(held_out, label_maps=kept)


def folder_records(root: Path, *, classes: bool, option: str = "data.root") -> FileRecords:
    """The image files below `root`; with `classes` the folders in it are their classes."""
    if root.is_file():
        archive = "; use data=image_zip" if root.suffix == ".zip" else ""
        array = "; use data=arrays" if root.suffix in (".npy", ".npz") else ""
        raise ValueError(f"{option}={root}: it is a file, not a folder{archive}{array}.")
    if not root.is_dir():
        raise ValueError(f"{option}={root}: there is no such folder.")
    found: list[tuple[str, int]] = []
    folders, others = list[str](), list[str]()
    try:
        for name, size in _files(root, ""):
            if size is None:
                folders.append(name)
            elif Path(name).suffix.lower() in EXTENSIONS:
                found.append((name, size))
            elif Path(name).name not in FILES:
                others.append(name)
    except OSError as error:
        raise ValueError(f"{option}={root}: {error.filename} cannot be read ({error.strerror}).") from None
    if not found:
        raise no_image(f"{option}={root}", others)
    warn_of_skipped(others, f"{option}={root}")
    found.sort()
    names = [name for name, _ in found]
    inner = [name.partition("/")[0] if "/" in name else None for name in names]
    labels, kinds = torch.zeros(len(names), dtype=torch.int64), list[str]()
    if classes and any(inner):
        if None in inner:
            first = names[inner.index(None)]
            raise ValueError(
                f"{option}={root}: {first} is not in a class folder; move it into one, or set data.labels=none."
            )
        kinds = sorted({name for name in folders if "/" not in name})
        if empty := sorted(set(kinds) - {kind for kind in inner if kind}):
            raise ValueError(f"{option}={root}: the class folder {empty[0]} has no image; delete it or add images.")
        place = {kind: i for i, kind in enumerate(kinds)}
        labels = torch.tensor([place[kind] for kind in inner if kind])
    captions = read_captions(root, names)
    key = identity((f"{name} {size}" for name, size in found), labels, captions)
    return FileRecords(root, Strings(names), labels, kinds, None if captions is None else Strings(captions), key)


def no_image(where: str, skipped: Iterable[str]) -> ValueError:
    """The error for a source without an image, with the files that it has."""
    kinds = _kinds(skipped)
    return ValueError(
        f"{where}: there is no image in it; supported are {', '.join(sorted(EXTENSIONS))}"
        + (f"; skipped: {kinds}." if kinds else ".")
    )


def warn_of_skipped(names: Sequence[str], where: str) -> None:
    """Warn of files whose extension is not that of an image, once per process."""
    if names:
        count = f"{len(names):,} file{'s' if len(names) > 1 else ''}"
        _warn_once(f"{where}: skipped {count} without an image's extension: {_kinds(names)}")


@functools.lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    _log.warning(text)


def _kinds(names: Iterable[str]) -> str:
    """How many files have which extension, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(Path(name).suffix.lower(), []).append(name)
    kinds = sorted(groups.items(), key=lambda item: -len(item[1]))
    counts = []
    for kind, some in kinds[:_KINDS]:
        examples = some[0] + ", ..." * (len(some) > 1)
        counts.append(f"{len(some):,} {f'of {kind}' if kind else 'without an extension'} ({examples})")
    more = sum(len(some) for _, some in kinds[_KINDS:])
    return ", ".join(counts + [f"{more:,} of other kinds"] * bool(more))


def _files(root: Path, inner: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, int | None]]:
    """Relative names of all entries that are not hidden: folders with None, others with their size."""
    folder = root / inner
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{inner}/{entry.name}" if inner else entry.name
            try:
                is_folder, file = entry.is_dir(), entry.is_file()
            except OSError:  # a broken link
                is_folder = file = False
            if is_folder:
                yield name, None
                yield from _files(root, name, (*above, real))
            else:  # broken links and pipes with an image's extension are images that cannot be read
                yield name, entry.stat().st_size if file else 0
