"""WebDataset shards: tar archives whose members are read at random, by an index made once."""

from __future__ import annotations

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
from PIL import Image
from torch import Tensor

from denoiselab import progress
from denoiselab.data.reading.captions import checked_caption
from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import MOST_CLASSES, Reopened, Strings, identity
from denoiselab.data.sources.image_folder import EXTENSIONS, no_image, warn_of_skipped
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import cached_json, missing_files

FACTS = "dataset.json"  # written by `denoiselab.data.conversion` in the folder of the shards

_MOST = 2**20  # bytes of a member with a class or a caption

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class ShardRecords(Reopened):
    """Images in tar archives, each with its class and caption under the same key.

    A key is a member's path up to the first dot of its last part. Its members are an image and optionally a class
    (`.cls`, a whole number from 0) and a caption (`.txt`); or both in `.json`, as the fields label and caption.
    Source: github.com/webdataset/webdataset, "The WebDataset format".

    Args:
        index: From `read_index`.
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
                raise ValueError(f"{self.describe(values.index(None))}: it has no {what}, but others have one.")
        self.labels: Tensor = torch.tensor([0 if label is None else label for label in labels], dtype=torch.int64)
        self.captions = Strings(captions) if captions and captions[0] is not None else None
        sizes = self._places[:, 1].tolist()
        named = (f"{name} {size}" for name, size in zip(self._names, sizes, strict=True))
        self.identity = identity(named, self.labels, self.captions)

    @cached_property
    def _opened(self) -> dict[int, int]:
        return {}

    def __len__(self) -> int:
        return len(self._names)

    def describe(self, i: int) -> str:
        return f"{self.files[int(self._shard[i])]}/{self._names[i]}"

    def image(self, i: int) -> Image.Image:
        shard, (offset, size) = int(self._shard[i]), self._places[i].tolist()
        if shard not in self._opened:
            self._opened[shard] = os.open(self.files[shard], os.O_RDONLY)
        content = os.pread(self._opened[shard], size, offset)
        if len(content) < size:
            raise OSError("the archive ends within it")
        return open_image(content)

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_opened", {}).values():
            os.close(descriptor)


@dataclass(kw_only=True)
class WebDataset(ImageSource):
    """WebDataset shards on a disk, with random access: order, resume and splits are as for all sources.

    The first start reads the headers of all members into an index, which is kept in `cache_dir`. `dataset.json` in the
    folder of the shards, as written by `python -m denoiselab.convert`, gives the names of the classes.

    Args:
        root: A folder of .tar files, one of them, or several as shards-{000000..000146}.tar or shards-*.tar.
        validation_root: The same for images to hold out; None splits by hash.
    """

    root: str
    validation_root: str | None = None

    def records(self) -> ShardRecords:
        return self._read(self.root, "data.root")

    def held_out(self) -> ShardRecords | None:
        return None if self.validation_root is None else self._read(self.validation_root, "data.validation_root")

    def _read(self, root: str, option: str) -> ShardRecords:
        shards = expand(root, option)
        index = read_index(shards, Path(self.cache_dir))
        others = [name for shard in index for name in shard["others"]]
        if not any(shard["names"] for shard in index):
            raise no_image(f"{option}={root}", others)
        warn_of_skipped(others, f"{option}={root}")
        facts, classes = shards[0].parent / FACTS, ()
        if facts.is_file():
            try:
                stated = json.loads(facts.read_text("utf-8"))
                classes, counts = stated["classes"], {shard["name"]: shard["n"] for shard in stated.get("shards", ())}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{facts}: damaged, or not written by denoiselab.convert.") from None
            found = {shard.name: len(part["names"]) for shard, part in zip(shards, index, strict=True)}
            for name, count in counts.items():
                if found.get(name, 0 if Path(root).expanduser().is_dir() else count) != count:
                    raise ValueError(
                        f"{option}={root}: {name} has {found.get(name, 0):,} images, but {count:,} by {FACTS}; check "
                        "with sha256sum -c SHA256SUMS."
                    )
        return ShardRecords(root, shards, index, classes)


def expand(root: str, option: str) -> list[Path]:
    """The archives of a folder, a path or a pattern, in the order of their names."""
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
            f"{option}={root}: {packed[0].name} is compressed and does not allow random access; unpack it."
        )
    lacking = [shard for shard in shards if not shard.is_file()]
    if not shards or lacking:
        expected = f"the shard {lacking[0]}" if lacking else "shards, files of .tar"
        below = sorted({str(shard.parent) for shard in path.glob("*/*.tar")})
        convert = "python -m denoiselab.convert makes shards from a folder."
        source = f"There are some in {' and '.join(below)}." if below else convert
        raise missing_files("data=webdataset", path, expected, source, option)
    return shards


def read_index(shards: Sequence[Path], cache: Path) -> list[dict[str, Any]]:
    """Names, offsets, classes and captions of the images in each shard, from `cache` if they were read before."""
    facts = [(str(shard.resolve()), (stat := shard.stat()).st_size, stat.st_mtime_ns) for shard in shards]
    key = hashlib.sha256(json.dumps(["index 3", facts]).encode()).hexdigest()

    def index() -> list[dict[str, Any]]:
        found = []
        with progress.bar("indexing shards", sum(size for _, size, _ in facts)) as bar:
            for shard, (_, size, _) in zip(shards, facts, strict=True):
                found.append(_indexed(shard))
                bar.update(size)
        return found

    out: list[dict[str, Any]] = cached_json(cache / f"shards-{key[:16]}.json", index)
    return out


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
                        raise ValueError(f"{where}: it has {member.size:,} bytes, more than the {_MOST:,} allowed.")
                    file = archive.extractfile(member)
                    assert file is not None
                    sample |= _parsed(file.read(_MOST), extension.lower(), where)
                else:
                    sample.setdefault("others", []).append(member.name)
            end = archive.offset
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: damaged, truncated, or not a tar archive ({error}).") from None
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{shard}: truncated: its end-of-archive mark is missing.")
    found = [sample for sample in samples.values() if "name" in sample]
    ends = shard.stat().st_size
    for sample in found:
        if sum(sample["place"]) > ends:
            raise ValueError(f"{shard}: truncated: it ends within {sample['name']}.")
    return {
        "names": [sample["name"] for sample in found],
        "places": [sample["place"] for sample in found],
        "labels": [sample.get("label") for sample in found],
        "captions": [sample.get("caption") for sample in found],
        # Of keys without an image; other files of an image, such as masks, are not reported.
        "others": [name for sample in samples.values() if "name" not in sample for name in sample.get("others", ())],
    }


def _check(shard: Path, member: tarfile.TarInfo) -> None:
    place = PurePosixPath(member.name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{shard}: its member {member.name} has an unsafe path; the archive is not read.")
    if not member.isfile() or member.issparse():  # a small archive can declare huge holes
        raise ValueError(f"{shard}: its member {member.name} is not a regular file; the archive is not read.")


def _parsed(content: bytes, extension: str, where: str) -> dict[str, Any]:
    """Class and caption in a member."""
    try:
        text = content.decode("utf-8-sig")
        if extension == "txt":
            return {"caption": text.rstrip("\r\n")}
        fields = {"label": int(text)} if extension == "cls" else json.loads(text)
        known = {key: fields[key] for key in ("label", "caption") if fields.get(key) is not None}
        label = known.get("label", 0)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            raise ValueError
        if not isinstance(known.get("caption", ""), str):
            raise ValueError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{where}: it is neither a class, a whole number from 0, nor a caption.") from None
    checked_caption(str(known.get("caption", "")), where)
    return known
