"""What is said when a data set, or the package that reads it, is not where it should be."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def absent(name: str, root: Path, files: str, source: str, option: str = "data.root") -> ValueError:
    """The error for a data set whose files are not there.

    Args:
        name: Of the data set.
        root: Where it was looked for.
        files: What was expected under it.
        source: Where the files are to be had.
        option: That says where they are.
    """
    there = f"'{root}' is a file" if root.is_file() else f"there is no folder '{root}'"
    lacks = f"'{root}' does not hold it" if root.is_dir() else there
    return ValueError(f"{option}={root}: {lacks}; {name} needs {files}. {source}")


def package(name: str, choice: str, extra: str) -> Any:
    """The package that reads the data sets of `data=choice`.

    Raises:
        ValueError: It is not installed; `extra` installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        distribution = name.partition(".")[0]
        raise ValueError(f"data={choice}: {distribution} is not installed; pip install denoiselab[{extra}].") from None
