"""Data sets of Hugging Face's `datasets`: a name on the hub, or files on this machine."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.columns import caption as caption_of
from denoiselab.data.reading.columns import numbered
from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import Strings, identity
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.requirements import require_package

_FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
_HEAD = "README.md"
_WHOLE = "train"  # name of the only split of a set without splits
_READ = 256  # evenly spread images whose bytes identify a set, together with the sizes of all


class HubRecords:
    """Rows of a `datasets.Dataset`, memory-mapped from its Arrow files.

    Args:
        data: With an undecoded image column.
        classes: Names of the classes of the training images; None if these are the training images.
    """

    def __init__(
        self,
        name: str,
        data: Any,
        image: str,
        label: str | None,
        caption: str | None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.name, self._image = name, image
        self._data = data.select_columns([image])
        self.labels, self.classes = _labels(data, label, classes)
        self.captions = None if caption is None else Strings(caption_of(cell, caption) for cell in data[caption])
        self.identity = self._identity()

    def _identity(self) -> str:
        import pyarrow.compute as pc

        sizes = pc.binary_length(self._part("bytes")).to_pylist()
        digest, rows = hashlib.sha256(), len(self)
        for k in range(min(rows, _READ)):
            content = self._content(k * (rows - 1) // max(1, min(rows, _READ) - 1)) or b""
            digest.update(content if isinstance(content, bytes) else content.encode())
        return identity(map(str, sizes), self.labels, self.captions, digest.digest())

    def _part(self, name: str) -> Any:
        """A field of all images, bytes or path."""
        import pyarrow.compute as pc

        return pc.struct_field(self._data.data.column(self._image), name)

    def _content(self, i: int) -> bytes | str | None:
        """A file's bytes, or its path."""
        cell = self._data[i][self._image] or {"bytes": None, "path": None}
        out: bytes | str | None = cell["bytes"] if cell["bytes"] is not None else cell["path"]
        return out

    @property
    def files(self) -> list[str]:
        """The tables, and the files of images that are not in them."""
        paths = self._part("path").filter(self._part("bytes").is_null()).to_pylist()
        return [*(file["filename"] for file in self._data.cache_files), *(path for path in paths if path)]

    def __len__(self) -> int:
        return len(self._data)

    def describe(self, i: int) -> str:
        return f"row {i} of {self.name}"

    def image(self, i: int) -> Image.Image:
        content = self._content(i)
        if content is None:
            raise ValueError("the row has no image")
        return open_image(content)


@dataclass(kw_only=True)
class HuggingFace(ImageSource):
    """A data set that Hugging Face's `datasets` reads, by the names of its columns.

    Needs the extra `datasets`. Nothing is downloaded unless `download` is set. No code of a data set is run.

    Args:
        path: A name on the hub; or a folder written by `save_to_disk`, a .parquet or .arrow file, or a folder of these,
            whose splits the library finds by file names. A set without splits is the split train.
        config: Of a data set on the hub that has several.
        revision: Of a data set on the hub: a branch, a tag or, for exact reproduction, a commit.
        split: To train on.
        held_out_split: To hold out; None splits by hash.
        image: Column of images.
        label: Column of classes, names or whole numbers; None for none.
        caption: Column of captions, of which the first is used if a cell is a list; None for none.
        download: Let the library download missing files.
    """

    path: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    held_out_split: str | None = None
    image: str = "image"
    label: str | None = None
    caption: str | None = None
    download: bool = False

    def records(self) -> HubRecords:
        return self._read(self.split, "split")

    def held_out(self) -> HubRecords | None:
        if self.held_out_split is None:
            return None
        classes = None if self.label is None else self.records().classes
        return self._read(self.held_out_split, "held_out_split", classes)

    def _read(self, split: str, option: str, classes: Sequence[str] | None = None) -> HubRecords:
        datasets = require_package("datasets", "huggingface", "datasets")
        data = self._opened(split, option)
        named = {"image": self.image, "label": self.label, "caption": self.caption}
        for column, name in named.items():
            if name is not None and name not in data.column_names:
                raise ValueError(f"data.{column}={name}: no such column; it has {', '.join(data.column_names)}.")
        try:
            data = data.cast_column(self.image, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError):
            raise ValueError(
                f"data.image={self.image}: the column has type {data.features[self.image]}; expected are images."
            ) from None
        return HubRecords(f"{self.path} {split}", data, self.image, self.label, self.caption, classes)

    def _opened(self, split: str, option: str) -> Any:
        path = Path(self.path).expanduser()
        local = path.exists()
        try:
            with contextlib.nullcontext() if self.download and not local else _offline():
                return self._found(path, split)
        except (ValueError, OSError, RuntimeError) as error:
            text = " ".join(str(error).split())
            if "split" in text:
                raise ValueError(f"data.{option}={split}: {text}") from None
            more = "" if local or self.download else " If it is on the hub, data.download=true downloads it."
            raise ValueError(f"data.path={self.path}: {text}{more}") from None

    def _found(self, path: Path, split: str) -> Any:
        import datasets

        cache = str(Path(self.cache_dir) / "datasets")
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(str(path))
            splits = found if isinstance(found, datasets.DatasetDict) else {_WHOLE: found}
            if split not in splits:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
            return splits[split]
        if path.is_file() and path.suffix in _FORMATS:
            files = {_WHOLE: str(path)}
            return datasets.load_dataset(_FORMATS[path.suffix], data_files=files, split=split, cache_dir=cache)
        if path.exists():
            kinds = {_FORMATS[file.suffix] for file in path.rglob("*") if file.suffix in _FORMATS}
            if len(kinds) != 1:
                raise ValueError("it must be a .parquet or .arrow file, or a folder of files of one of these kinds.")
            if elsewhere := next(_elsewhere(path), None):
                raise ValueError(f"it refers to {elsewhere}; nothing is downloaded for a folder.")
            return datasets.load_dataset(str(path), split=split, cache_dir=cache)
        return datasets.load_dataset(self.path, self.config, revision=self.revision, split=split)


def _elsewhere(folder: Path) -> Iterator[str]:
    """Addresses in a folder's metadata, which the library would download even when it is offline."""
    from huggingface_hub.repocard import metadata_load

    head = (metadata_load(folder / _HEAD) or {}) if (folder / _HEAD).is_file() else {}
    own = folder / ".huggingface.yaml"
    waiting = [head.get("configs"), *(own.read_text("utf-8").split() if own.is_file() else ())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str) and "://" in node:
            yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the library offline, as HF_HUB_OFFLINE=1 does, which it reads only when it is imported."""
    import datasets
    import huggingface_hub

    settings: tuple[Any, ...] = datasets.config, huggingface_hub.constants
    former = [place.HF_HUB_OFFLINE for place in settings]
    for place in settings:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(settings, former, strict=True):
            place.HF_HUB_OFFLINE = value


def _labels(data: Any, column: str | None, known: Sequence[str] | None) -> tuple[Tensor, Sequence[str]]:
    """Classes `(N,)` and their names."""
    if column is None:
        return torch.zeros(len(data), dtype=torch.int64), ()
    own = getattr(data.features[column], "names", None)
    labels, names = numbered(list(data[column]), column, known if own is None else own)
    if known is not None and list(names) != list(known):
        raise ValueError(f"data.label={column}: its classes are {list(names)}, but for training {list(known)}.")
    return labels, names
