"""WebDataset shards: tar archives whose members are read where they lie, by an index that is made once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from denoiselab import progress
from denoiselab.data.reading.image_files import opened
from denoiselab.data.reading.records import MOST_CLASSES, Reopened, Strings, checked_caption, identity
from denoiselab.data.sources.image_folder import EXTENSIONS, note_passed_over, passed_over
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import absent
from denoiselab.files import drop_sum, matches_sum, write_sum, write_text

FACTS = "dataset.json"  # of `denoiselab.data.convert`, beside its shards

# Bytes of a member of a class or a caption.
_MOST = 2**20

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class ShardRecords(Reopened):
    """Images in tar archives, each with its class and caption under the same key.

    A key is a member's path up to the first dot of its last part. A key's members are an image, and if there are some
    a class (`.cls`, a whole number from 0) and a caption (`.txt`; or of `.json` the fields label and caption).
    Source: github.com/webdataset/webdataset, "The WebDataset format".

    Args:
        name: Of the shards.
        shards: Archives, in order.
        index: From `read_index`.
        classes: Names of the classes.
    """

    def __init__(
        self, name: str, shards: Sequence[Path], index: Sequence[dict[str, Any]], classes: Sequence[str]
    ) -> None:
        self.name, self.classes, self.files = name, tuple(classes), tuple(shards)
        self._names = Strings(name for shard in index for name in shard["names"])
        counts = [len(shard["names"]) for shard in index]
        self._shard = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        self._places = torch.tensor([place for shard in index for place in shard["places"]], dtype=torch.int64)
        labels = [label for shard in index for label in shard["labels"]]
        captions = [caption for shard in index for caption in shard["captions"]]
        for values, what in ((labels, "class"), (captions, "caption")):
            if None in values and any(value is not None for value in values):
                raise ValueError(f"{self.describe(values.index(None))}: it has no {what}, and others have one.")
        self.labels: Tensor = torch.tensor([0 if label is None else label for label in labels], dtype=torch.int64)
        self.captions = Strings(captions) if captions and captions[0] is not None else None
        sizes = self._places[:, 1].tolist()
        told = (f"{name} {size}" for name, size in zip(self._names, sizes, strict=True))
        self.identity = identity(told, self.labels, self.captions)

    @cached_property
    def _opened(self) -> dict[int, int]:
        return {}

    def __len__(self) -> int:
        return len(self._names)

    def describe(self, i: int) -> str:
        """The archive and the member."""
        return f"{self.files[int(self._shard[i])]}/{self._names[i]}"

    def image(self, i: int) -> Image.Image:
        """The member, opened.

        Raises:
            OSError: It cannot be read.
        """
        shard, (offset, size) = int(self._shard[i]), self._places[i].tolist()
        if shard not in self._opened:
            self._opened[shard] = os.open(self.files[shard], os.O_RDONLY)
        content = os.pread(self._opened[shard], size, offset)
        if len(content) < size:
            raise OSError("the archive ends within it")
        return opened(content)

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_opened", {}).values():
            os.close(descriptor)


@dataclass(kw_only=True)
class WebDataset(ImageSource):
    """WebDataset shards on a disk, with random access: order, resume and splits are those of all other sources.

    The first start reads the heads of all members, and keeps what it found in `cache_dir`. `dataset.json` beside the
    shards, as `python -m denoiselab.convert` writes it, gives the names of the classes.

    Args:
        root: A folder of .tar files, one of them, or several as shards-{000000..000146}.tar or shards-*.tar.
        validation_root: The same for images to hold out; None splits by hash.

    Raises:
        ValueError: An option is out of range.
    """

    root: str
    validation_root: str | None = None

    def records(self) -> ShardRecords:
        """The images in the shards.

        Raises:
            ValueError: There is no shard, or one is not as it should be.
        """
        return self._read(self.root, "data.root")

    def held_out(self) -> ShardRecords | None:
        """Those of `validation_root`."""
        return None if self.validation_root is None else self._read(self.validation_root, "data.validation_root")

    def _read(self, root: str, option: str) -> ShardRecords:
        shards = expand(root, option)
        index = read_index(shards, Path(self.cache_dir))
        others = [name for shard in index for name in shard["others"]]
        if not any(shard["names"] for shard in index):
            raise ValueError(f"{option}={root}: there is no image in the shards{passed_over(others)}.")
        note_passed_over(others, f"{option}={root}")
        facts, classes = shards[0].parent / FACTS, ()
        if facts.is_file():
            try:
                told = json.loads(facts.read_text("utf-8"))
                classes, counts = told["classes"], {shard["name"]: shard["n"] for shard in told.get("shards", ())}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{facts}: it is not the table of classes of converted shards.") from None
            found = {shard.name: len(part["names"]) for shard, part in zip(shards, index, strict=True)}
            for name, count in counts.items():
                if found.get(name, 0 if Path(root).expanduser().is_dir() else count) != count:
                    raise ValueError(
                        f"{option}={root}: {name} has {found.get(name, 0):,} images, and {FACTS} says {count:,}; see "
                        "sha256sum -c SHA256SUMS there."
                    )
        return ShardRecords(root, shards, index, classes)


def expand(root: str, option: str) -> list[Path]:
    """The archives that a folder, a path or a pattern stands for, in the order of their names.

    Raises:
        ValueError: There is none, one of a range is not there, or one is compressed.
    """
    path = Path(root).expanduser()
    if braces := _BRACES.search(str(path)):
        first, last = braces.groups()
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        shards = [Path(str(path).replace(braces.group(), number)) for number in numbers]
    elif path.is_dir():
        shards = sorted(path.glob("*.tar"))
    else:
        shards = sorted(path.parent.glob(path.name)) or [path]
    packed = [
        shard for shard in (shards or path.glob("*.tar.*")) if shard.name.endswith((".gz", ".bz2", ".xz", ".zst"))
    ]
    if packed:
        raise ValueError(
            f"{option}={root}: {packed[0].name} is compressed, and cannot be read at any place; unpack it."
        )
    lacking = [shard for shard in shards if not shard.is_file()]
    if not shards or lacking:
        expected = f"the shard {lacking[0]}" if lacking else "shards, files of .tar"
        below = sorted({str(shard.parent) for shard in path.glob("*/*.tar")})
        convert = "python -m denoiselab.convert makes shards of a folder."
        source = f"There are some in {' and '.join(below)}." if below else convert
        raise absent("data=webdataset", path, expected, source, option)
    return shards


def read_index(shards: Sequence[Path], cache: Path) -> list[dict[str, Any]]:
    """Names, places, classes and captions of the images in each shard, from `cache` if they were read before.

    Raises:
        ValueError: A shard is no tar archive or not whole, or a member is unsafe or not as it should be.
    """
    facts = [(str(shard.resolve()), (stat := shard.stat()).st_size, stat.st_mtime_ns) for shard in shards]
    key = hashlib.sha256(json.dumps(["index 3", facts]).encode()).hexdigest()
    path = cache / f"shards-{key[:16]}.json"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file() and matches_sum(path):
            with contextlib.suppress(ValueError):  # what is damaged is made anew
                known: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
                return known
        drop_sum(path)
        index = []
        with progress.bar("indexing shards", sum(size for _, size, _ in facts)) as bar:
            for shard, (_, size, _) in zip(shards, facts, strict=True):
                index.append(_indexed(shard))
                bar.update(size)
        write_text(path, json.dumps(index))
        write_sum(path)
    return index


def _indexed(shard: Path) -> dict[str, Any]:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                _check(shard, member)
                place = PurePosixPath(member.name)
                stem, _, extension = place.name.partition(".")
                sample = samples.setdefault(str(place.with_name(stem)), {})
                if f".{extension.lower()}" in EXTENSIONS:
                    if "name" in sample:
                        raise ValueError(f"{shard}: {member.name} is the second image of its key.")
                    sample["name"], sample["place"] = member.name, (member.offset_data, member.size)
                elif extension.lower() in ("cls", "txt", "json"):
                    where = f"{shard}/{member.name}"
                    if member.size > _MOST:
                        raise ValueError(f"{where}: it is of {member.size:,} bytes, and at most {_MOST:,} are read.")
                    file = archive.extractfile(member)
                    assert file is not None
                    sample |= _told(file.read(_MOST), extension.lower(), where)
                else:
                    sample.setdefault("others", []).append(member.name)
            end = archive.offset
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: it is not a whole tar archive ({error}).") from None
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{shard}: it is not a whole tar archive; the mark of its end is not there.")
    found = [sample for sample in samples.values() if "name" in sample]
    ends = shard.stat().st_size
    for sample in found:
        if sum(sample["place"]) > ends:
            raise ValueError(f"{shard}: it is not a whole tar archive; it ends within {sample['name']}.")
    return {
        "names": [sample["name"] for sample in found],
        "places": [sample["place"] for sample in found],
        "labels": [sample.get("label") for sample in found],
        "captions": [sample.get("caption") for sample in found],
        # Beside an image, as masks and the like are, they are meant for others.
        "others": [name for sample in samples.values() if "name" not in sample for name in sample.get("others", ())],
    }


def _check(shard: Path, member: tarfile.TarInfo) -> None:
    place = PurePosixPath(member.name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{shard}: its member {member.name} lies outside of it; nothing is read from such an archive.")
    if not member.isfile() or member.issparse():  # holes take no room in an archive, and all they like in memory
        raise ValueError(f"{shard}: its member {member.name} is no file; nothing is read from such an archive.")


def _told(content: bytes, extension: str, where: str) -> dict[str, Any]:
    """Class and caption in a member."""
    try:
        text = content.decode("utf-8-sig")
        if extension == "txt":
            return {"caption": text.rstrip("\r\n")}
        told = {"label": int(text)} if extension == "cls" else json.loads(text)
        known = {key: told[key] for key in ("label", "caption") if told.get(key) is not None}
        label = known.get("label", 0)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            raise ValueError
        if not isinstance(known.get("caption", ""), str):
            raise ValueError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{where}: it is no class, a whole number from 0, and no caption.") from None
    checked_caption(str(known.get("caption", "")), where)
    return known
