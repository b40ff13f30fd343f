"""Errors for data sets whose files, or the package that reads them, are missing; and the cache of their indices."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from denoiselab.files import drop_sum, matches_sum, write_sum, write_text


def missing_files(name: str, root: Path, files: str, source: str, option: str = "data.root") -> ValueError:
    """The error for a data set whose files are missing.

    Args:
        name: Of the data set.
        root: Where they were expected.
        files: What was expected under `root`.
        source: Where the files can be obtained.
        option: Whose value is `root`.
    """
    if root.is_dir():
        found = f"'{root}' does not contain it"
    else:
        found = f"'{root}' is a file" if root.is_file() else f"there is no folder '{root}'"
    return ValueError(f"{option}={root}: {found}; {name} needs {files}. {source}")


def require_package(name: str, choice: str, extra: str) -> Any:
    """Import the package that reads the data sets of `data=choice`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        distribution = name.partition(".")[0]
        raise ValueError(f"data={choice}: {distribution} is not installed; pip install denoiselab[{extra}].") from None


def cached_json(path: Path, make: Callable[[], Any]) -> Any:
    """The content of a JSON file, made and written with a checksum if the file is missing or damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file() and matches_sum(path):
            with contextlib.suppress(ValueError):
                return json.loads(path.read_text("utf-8"))
        drop_sum(path)
        text = json.dumps(make())
        write_text(path, text)
        write_sum(path)
    return json.loads(text)
