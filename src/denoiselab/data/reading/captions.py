"""Captions that lie beside images: `metadata.jsonl` or `metadata.csv`, not both, in their folders or above them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from denoiselab.data.reading.records import checked_caption

_T = TypeVar("_T")

FILES = ("metadata.jsonl", "metadata.csv")

# What the caption is called, the first that is there.
_COLUMNS = ("text", "caption")


class Table(NamedTuple):
    """A file of captions.

    Args:
        folder: That the names in it are relative to; "" is the root.
        where: What it is called in messages.
        content: Of the file.
    """

    folder: str
    where: str
    content: bytes


def read_captions(root: Path, names: Sequence[str]) -> list[str] | None:
    """The caption of each of `names`, paths relative to `root`, from the files in their folders; None without any.

    Raises:
        ValueError: As of `captions_of`, or a file cannot be read.
    """
    tables = []
    inner = {PurePosixPath(name.rpartition("/")[0]) for name in names}
    for folder in sorted({str(place) for deepest in inner for place in (deepest, *deepest.parents)}):
        for path in (root / folder / name for name in FILES if (root / folder / name).is_file()):
            try:
                tables.append(Table(folder, f"data.root: {path}", path.read_bytes()))
            except OSError as error:
                raise ValueError(f"data.root: {path} cannot be read ({error.strerror}).") from None
    return captions_of(tables, names, f"data.root: {root}: {' or '.join(FILES)}")


def captions_of(tables: Sequence[Table], names: Sequence[str], where: str) -> list[str] | None:
    """The caption of each of `names`; None where there is no table.

    A line holds `file_name`, relative to its table's folder, and `text` or `caption`; a folder has one table at most:
    as for Hugging Face's image folders.

    Raises:
        ValueError: Two tables lie in one folder, or one cannot be read, names a file that is not there, or one twice,
            or leaves one out, or a caption holds half of a character.
    """
    captions: dict[str, str] = {}
    folders = set[str]()
    for table in tables:
        if table.folder in folders:
            raise ValueError(f"{table.where} lies in one folder with another; keep one of {' and '.join(FILES)}.")
        folders.add(table.folder)
        for place, line in _lines(table):
            column = next((c for c in _COLUMNS if isinstance(line.get(c), str)), None)
            name = line.get("file_name")
            if not isinstance(name, str) or column is None or None in line:
                raise ValueError(
                    f"{table.where}, line {place}: it must hold file_name, and text or caption, in quotes where a "
                    "comma is part of it."
                )
            name = str(PurePosixPath(table.folder, name))
            if name in captions:
                raise ValueError(f"{table.where}, line {place}: {name} stands there twice.")
            captions[name] = checked_caption(str(line[column]), f"{table.where}, line {place}")
    return match(captions, names, where if len(tables) > 1 else tables[0].where, "captions") if tables else None


def match(found: Mapping[str, _T], names: Sequence[str], where: str, what: str) -> list[_T]:
    """What was found for each of `names`.

    Raises:
        ValueError: Something was found for a name that is not among them, or nothing for one that is.
    """
    if unknown := found.keys() - set(names):
        raise ValueError(f"{where} has {what} of {_some(unknown)}, which are not there.")
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{where} has no {what} of {_some(missing)}.")
    return [found[name] for name in names]


def _lines(table: Table) -> Iterator[tuple[int, Mapping[str | None, object]]]:
    try:
        text = table.content.decode("utf-8-sig")
        if table.where.endswith(".csv"):
            yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)  # what is too much has the key None
            return
        for place, row in enumerate(io.StringIO(text, newline=None), 1):
            if row.strip():
                line = json.loads(row)
                yield place, line if isinstance(line, dict) else {}
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{table.where} cannot be read ({' '.join(str(error).split())}).") from None


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
