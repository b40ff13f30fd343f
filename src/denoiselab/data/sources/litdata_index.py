"""The `index.json` of LitData's optimised sets: its contents, and whether reading the set could run code."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

INDEX = "index.json"

# Serializers of LitData that give numbers, texts and arrays; others unpickle, or call parsers of other formats.
_PLAIN = frozenset(
    {
        *("bool", "bytes", "float", "int", "json", "str", "text"),
        *("no_header_numpy", "no_header_tensor", "numpy", "tensor"),
        *("file", "image", "jpeg", "jpeg_array", "pil", "tifffile"),
    }
)
_DETAILS = frozenset({"avif", "bmp", "gif", "jp2", "jpg", "png", "ppm", "tif", "tiff", "webp"})

# Containers of a sample that import no class.
_CONTAINERS = frozenset({None, "builtins.dict", "builtins.list", "builtins.tuple", "collections.OrderedDict"})


class UnsafeIndex(ValueError):  # noqa: N818
    """Reading a set with this index could run code, or access files elsewhere; the message names the entry."""


def check_index(index: bytes, root: str, *, tables: bool, trusted: bool) -> None:
    """Check that reading samples runs no code, and that the chunks are in the set's folder.

    `tables` are .parquet files, which LitData's serializers do not read; `trusted` allows pickled samples.

    Raises:
        UnsafeIndex: If a check fails.
        ValueError: If it is not an index.
    """
    found = json.loads(index)
    for chunk in found["chunks"]:
        place = PurePosixPath(str(chunk["filename"]).replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
            raise UnsafeIndex(f"data.root={root}: its {INDEX} lists a chunk outside of it, {place}; it is not read.")
    if trusted:
        return
    formats = [] if tables else [part for name in found["config"]["data_format"] for part in _serializers(name)]
    unsafe = [f"samples of the format {name!r}" for name in formats if name not in _PLAIN]
    unsafe += [f"containers of the type {name!r}" for name in _containers(found["config"]["data_spec"])]
    if unsafe:
        raise UnsafeIndex(
            f"data.root={root}: its {INDEX} declares {unsafe[0]}, which can run code when they are read; if you trust "
            "its author, set on the command line data=litdata, its options, and data.trust_pickles=true."
        )


def _serializers(name: str) -> Iterator[str]:
    """The names by which LitData may choose a serializer: of `image:png` the first part, of `file:pickle` both.

    The second part may also be a detail: a number, or the extension of a file.
    """
    first, _, second = str(name).partition(":")
    yield first
    if second and not second.isdecimal() and second not in _DETAILS:
        yield second


def _containers(spec: str | None) -> Iterator[str]:
    """Types in the serialised structure of a sample that are not plain."""
    waiting = [] if spec is None else [json.loads(spec)[1]]
    while waiting:
        node: Mapping[str, Any] = waiting.pop()
        if node["type"] not in _CONTAINERS:
            yield str(node["type"])
        elif "__enum__" in str(node["context"]):  # a dictionary key, whose class would be imported
            yield "enum"
        waiting += node["children_spec"]


class Contents:
    """The chunks of an `index.json`, and the row of sample i in the set.

    LitData lists .parquet files in the random order of its threads; here they are sorted by name, so that the set is
    the same on all machines.

    Args:
        index: The file.
        folder: Of the chunks; None for a remote address.
    """

    def __init__(self, index: bytes, folder: Path | None) -> None:
        found = json.loads(index)
        chunks: list[dict[str, Any]] = found["chunks"]
        order = list(range(len(chunks)))
        if all(chunk["filename"].endswith(".parquet") for chunk in chunks):
            order.sort(key=lambda k: str(chunks[k]["filename"]))
            found = {"chunks": [chunks[k] for k in order], "config": found["config"]}
        self.files = [] if folder is None else [folder / str(chunk["filename"]) for chunk in chunks]
        self.chunks, self.facts = chunks, json.dumps(found, sort_keys=True).encode()
        starts: list[int] = list(itertools.accumulate((chunk["chunk_size"] for chunk in chunks), initial=0))
        self._ends: list[int] = list(itertools.accumulate(chunks[k]["chunk_size"] for k in order))
        self._shifts = [starts[k + 1] - end for k, end in zip(order, self._ends, strict=True)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, i: int) -> int:
        """The row of sample `i`."""
        return i + self._shifts[bisect.bisect_right(self._ends, i)]
