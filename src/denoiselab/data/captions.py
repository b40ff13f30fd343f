"""Captions that lie beside images: `metadata.jsonl` or `metadata.csv`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

FILES = ("metadata.jsonl", "metadata.csv")

# What the caption is called, the first that is there.
_COLUMNS = ("text", "caption")


def read_captions(root: Path, names: Sequence[str]) -> list[str] | None:
    """The caption of each of `names`, paths relative to `root`; None where there is no such file.

    A line holds `file_name`, relative to `root`, and `text` or `caption`: as for Hugging Face's image folders.

    Raises:
        ValueError: The file cannot be read, names a file that is not there, or one twice, or leaves one out.
    """
    path = next((root / name for name in FILES if (root / name).is_file()), None)
    if path is None:
        return None
    captions: dict[str, str] = {}
    for place, line in _lines(path):
        column = next((c for c in _COLUMNS if isinstance(line.get(c), str)), None)
        name = line.get("file_name")
        if not isinstance(name, str) or column is None:
            raise ValueError(f"data.root: {path}, line {place}: it must hold file_name, and text or caption.")
        if name in captions:
            raise ValueError(f"data.root: {path}, line {place}: {name} stands there twice.")
        captions[name] = str(line[column])
    return match(captions, names, f"data.root: {path}", "captions")


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


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), 2)
                return
            for place, text in enumerate(file, 1):
                if text.strip():
                    line = json.loads(text)
                    yield place, line if isinstance(line, dict) else {}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"data.root: {path} cannot be read ({' '.join(str(error).split())}).") from None


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
