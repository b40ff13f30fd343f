"""What is said when a data set is not where it should be."""

from __future__ import annotations

from pathlib import Path


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
