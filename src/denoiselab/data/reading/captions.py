"""Captions of image files in `metadata.jsonl` or `metadata.csv`, in the images' folders or above them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")

FILES = ("metadata.jsonl", "metadata.csv")

_COLUMNS = ("text", "caption")  # names of the caption's column, in order of preference


class Table(NamedTuple):
    """A file of captions.

    Attributes:
        folder: To which file names in it are relative; "" is the root.
        where: Its name in messages.
        content: Of the file.
    """

    folder: str
    where: str
    content: bytes


def read_captions(root: Path, names: Sequence[str]) -> list[str] | None:
    """The caption of each of `names`, paths relative to `root`, from the files in their folders; None without files."""
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
    """The caption of each of `names`; None without tables.

    A row has `file_name`, relative to its table's folder, and `text` or `caption`; a folder has at most one table, as
    in Hugging Face's image folders.

    Raises:
        ValueError: If a folder has two tables, or a table cannot be read, names a missing file or one twice, or leaves
            one out.
    """
    captions: dict[str, str] = {}
    folders = set[str]()
    for table in tables:
        if table.folder in folders:
            raise ValueError(f"{table.where}: its folder has a second table; keep one of {' and '.join(FILES)}.")
        folders.add(table.folder)
        for place, line in _lines(table):
            column = next((c for c in _COLUMNS if isinstance(line.get(c), str)), None)
            name = line.get("file_name")
            if not isinstance(name, str) or column is None or None in line:
                raise ValueError(
                    f"{table.where}, line {place}: it must have file_name and text or caption, in quotes if it "
                    "contains a comma."
                )
            name = str(PurePosixPath(table.folder, name))
            if name in captions:
                raise ValueError(f"{table.where}, line {place}: {name} is listed twice.")
            captions[name] = checked_caption(str(line[column]), f"{table.where}, line {place}")
    return match(captions, names, where if len(tables) > 1 else tables[0].where, "captions") if tables else None


def match(found: Mapping[str, _T], names: Sequence[str], where: str, what: str) -> list[_T]:
    """The values of `names`, in their order."""
    if unknown := found.keys() - set(names):
        raise ValueError(f"{where} has {what} of files that do not exist: {_some(unknown)}.")
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{where} has no {what} of {_some(missing)}.")
    return [found[name] for name in names]


def checked_caption(text: str, where: str) -> str:
    """Check that a caption can be encoded; returns it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{where}: the caption contains {half}, half of a character; fix or delete it.") from None
    return text


def _lines(table: Table) -> Iterator[tuple[int, Mapping[str | None, object]]]:
    where = table.where
    try:
        text = table.content.decode("utf-8-sig")
        if table.where.endswith(".csv"):
            yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)  # surplus cells have the key None
            return
        for place, row in enumerate(io.StringIO(text, newline=None), 1):
            if row.strip():
                where = f"{table.where}, line {place}:"
                line = json.loads(row)
                yield place, line if isinstance(line, dict) else {}
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read ({reason}).") from None


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
