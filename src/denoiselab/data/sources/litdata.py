"""LitData's optimised sets: chunks of many samples in a folder or an object store, with random access."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denoiselab import progress
from denoiselab.data.reading.columns import caption, numbered
from denoiselab.data.reading.image_files import open_image
from denoiselab.data.reading.records import Reopened, Strings, identity, version
from denoiselab.data.sources.arrays import channels_last
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.litdata_index import INDEX, Contents, UnsafeIndex, check_index
from denoiselab.data.sources.requirements import cached_json, missing_files, require_package

# Bytes of chunks that LitData keeps; its own default is a share of the free space, which shrinks as they are stored.
_ALL, _FEW = 2**62, 25 * 2**30

Fetch = Literal["chunk", "image"]


@dataclass(frozen=True)
class Place:
    """Where a set is, and how it is downloaded.

    Args:
        root: A folder, or an address.
        cache: Folder for downloads from an address.
        fetch: Whole chunks, or the bytes of single images.
        trusted: Read pickled samples, which runs the code in them.
    """

    root: str
    cache: str
    fetch: Fetch
    trusted: bool

    def opened(self, *, whole_chunks: bool) -> Any:
        """A `StreamingDataset`, for access by index.

        Raises:
            UnsafeIndex: If reading samples could run code, or access files elsewhere.
        """
        from litdata import StreamingDataset

        size = _ALL if self.fetch == "chunk" else _FEW
        data = StreamingDataset(self.root, cache_dir=self.cache, max_cache_size=size)
        # So far it has read only the list of chunks; the format of samples is read with the first sample.
        index = (Path(data.input_dir.path) / INDEX).read_bytes()
        check_index(index, self.root, tables=self.root.startswith("hf://"), trusted=self.trusted)
        if whole_chunks:
            data[0:1]  # a slice switches to whole chunks
        return data


class LitRecords(Reopened):
    """The samples of an optimised set, which are dictionaries.

    Args:
        place: Of the set.
        contents: Of the set.
        image: Key of the images: bytes of a file, arrays `(H, W)`, `(H, W, C)` or `(C, H, W)`, or images of Pillow.
    """

    def __init__(
        self,
        place: Place,
        contents: Contents,
        image: str,
        labels: Tensor,
        classes: Iterable[str],
        captions: Strings | None,
    ) -> None:
        self.name, self._place, self._contents, self._image = place.root, place, contents, image
        self.labels, self.classes, self.captions = labels, tuple(classes), captions
        self.identity = identity((image,), labels, captions, contents.facts)

    @property
    def files(self) -> list[Path]:
        """The chunks in a folder; none for an address, whose files are identified by their names."""
        return self._contents.files

    @cached_property
    def _data(self) -> Any:
        return self._place.opened(whole_chunks=self._place.fetch == "chunk")

    def __len__(self) -> int:
        return len(self._contents)

    def describe(self, i: int) -> str:
        return f"sample {self._contents.row(i)} of {self.name}"

    def image(self, i: int) -> Image.Image | NDArray[np.uint8]:
        value = self._data[self._contents.row(i)][self._image]
        if isinstance(value, dict):  # as in tables of the Hugging Face hub
            value = value["bytes"]
        if value is None:
            raise ValueError("the sample has no image")
        if isinstance(value, (bytes, memoryview)):
            return open_image(value)
        return value if isinstance(value, Image.Image) else channels_last(np.asarray(value)[None])[0]


@contextlib.contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except UnsafeIndex:
        raise
    except Exception as error:  # each kind of store raises errors of its own
        text = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(f"{what} LitData cannot read it ({text}).") from None


def _check_room(cache: Path, chunks: Sequence[dict[str, Any]], what: str) -> None:
    lacking = sum(chunk["chunk_bytes"] for chunk in chunks if not (cache / chunk["filename"]).is_file())
    free = shutil.disk_usage(cache).free
    if free < lacking:
        raise ValueError(
            f"{what} all its chunks are kept, {lacking / 1e9:.3g} GB more, and {free / 1e9:.3g} GB are free in "
            "data.cache_dir; set another folder, or data.fetch=image."
        )


@dataclass(kw_only=True)
class LitData(ImageSource):
    """A set written by `litdata.optimize`, in a folder or an object store.

    Order, resume and splits are as for all sources: LitData does not shuffle. Classes and captions are read from all
    samples once, before the first training, and kept in `cache_dir`. Since the order covers the whole set, all its
    chunks must fit there; if not, use `fetch=image`, which downloads single images, and `first_pass=false`.

    An address on the Hugging Face hub, such as hf://datasets/ylecun/mnist/mnist, is a folder of .parquet files, which
    are downloaded when needed; `litdata.optimize_hf` makes faster chunks of them. This and object stores have been
    tested with files copied in the place of downloads, not over a network.

    Needs the extra `litdata`.

    Args:
        root: A folder, or an address that LitData supports: s3://, gs://, r2://, azure://, hf://.
        validation_root: The same for images to hold out; None splits by hash.
        image: Key of images: bytes of a file, arrays of bytes or images of Pillow.
        label: Key of classes, names or whole numbers; None for none.
        caption: Key of captions, of which the first is used if the value is a list; None for none.
        fetch: From an address: chunk keeps whole chunks in `cache_dir`; image downloads the bytes of single images.
            LitData cannot do the latter in its latest layout, of samples of only bytes, numbers and texts; compressed
            chunks and .parquet files are always downloaded whole.
        trust_pickles: Read pickled samples, which runs the code in them: only from authors whom you trust. It is
            accepted on the command line only.
    """

    root: str
    validation_root: str | None = None
    image: str = "image"
    label: str | None = None
    caption: str | None = None
    fetch: Fetch = "chunk"
    trust_pickles: bool = False

    def records(self) -> LitRecords:
        return self._read(self.root, "data.root")

    def held_out(self) -> LitRecords | None:
        if self.validation_root is None:
            return None
        classes = None if self.label is None else self.records().classes
        return self._read(self.validation_root, "data.validation_root", classes)

    def _read(self, root: str, option: str, known: Sequence[str] | None = None) -> LitRecords:
        require_package("litdata", "litdata", "litdata")
        remote = "://" in root or root.startswith("local:")
        path = Path(root).expanduser()
        if not remote and not (path / INDEX).is_file():
            raise missing_files("it", path, f"{INDEX} and its chunks", "litdata.optimize writes them.", option)
        place = Place(
            root if remote else str(path), str(Path(self.cache_dir) / "litdata"), self.fetch, self.trust_pickles
        )
        what = f"{option}={root}: with data.fetch={self.fetch}"
        with _one_sentence(what):
            data = place.opened(whole_chunks=False)
            contents = Contents((Path(data.input_dir.path) / INDEX).read_bytes(), None if remote else path)
        if remote and self.fetch == "chunk":
            _check_room(Path(data.input_dir.path), contents.chunks, what)
        with _one_sentence(what), warnings.catch_warnings(action="ignore"):  # of read-only memory
            first = place.opened(whole_chunks=self.fetch == "chunk")[0] if len(contents) else {}
        for key, name in (("image", self.image), ("label", self.label), ("caption", self.caption)):
            keys = ", ".join(map(str, first)) if isinstance(first, dict) else f"none, they are {type(first).__name__}"
            if len(contents) and name is not None and (not isinstance(first, dict) or name not in first):
                raise ValueError(f"data.{key}={name}: no such key in the samples of {root}; they have {keys}.")
        labels, classes, captions = self._annotations(place, contents, known)
        return LitRecords(place, contents, self.image, labels, classes, captions)

    def _annotations(
        self, place: Place, contents: Contents, known: Sequence[str] | None
    ) -> tuple[Tensor, Iterable[str], Strings | None]:
        """Classes, their names and captions."""
        keys = [key for key in (self.label, self.caption) if key is not None]
        columns = dict(zip(keys, self._columns(place, contents, keys), strict=True)) if keys else {}
        values = [0] * len(contents) if self.label is None else columns[self.label]
        labels, classes = numbered(values, str(self.label), known)
        if self.caption is None:
            return labels, classes, None
        return labels, classes, Strings(caption(cell, self.caption) for cell in columns[self.caption])

    def _columns(self, place: Place, contents: Contents, keys: list[str]) -> list[list[Any]]:
        """The values of `keys` in all samples, from the cache if they were read before."""
        name = hashlib.sha256(json.dumps([keys, version(contents.files)]).encode() + contents.facts).hexdigest()[:16]

        def read() -> list[list[Any]]:
            data = place.opened(whole_chunks=True)  # one after another
            columns: list[list[Any]] = [[] for _ in keys]
            with progress.bar(f"reading {' and '.join(keys)}", len(contents)) as bar:
                for i in range(len(contents)):
                    sample = data[contents.row(i)]
                    for column, key in zip(columns, keys, strict=True):
                        value = sample[key]
                        column.append(value.item() if hasattr(value, "item") else value)
                    bar.update(1)
            return columns

        out: list[list[Any]] = cached_json(Path(self.cache_dir) / f"litdata-{name}.json", read)
        return out
