"""Text from files and command lines made safe for its destination: a terminal, a path, a CSV cell, a figure.

Names of samplers, data sets, classes, files and runs, captions and errors may contain escape sequences, `../`,
formulas or markup. HTML pages escape them when they are written (`evaluation/report/page.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_LONGEST = 120  # bytes of a name; file systems allow little more

_FORMULA = re.compile(r"\s*[=+\-@|]")


def line(text: object) -> str:
    r"""Text on one line of a terminal: characters that do not print, including newlines, become `\x1b` or `\n`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def lines(text: object) -> str:
    """Text for a terminal: as `line`, but newlines are kept, and tabs become spaces."""
    return "\n".join(map(line, str(text).expandtabs().split("\n")))


def path_part(text: object) -> str:
    """A name as one part of a path, or of a key with slashes.

    Letters, digits and `_.@=,+-` are kept, spaces become `_`; a name with other characters, a leading dot or too many
    bytes gets a hash of itself, so that names which differ in more than spaces and `_` stay different.
    """
    name = str(text)
    wanted = name.replace(" ", "_")
    cleaned = re.sub(r"[^\w.@=,+-]", "_", wanted).lstrip(".")[:_LONGEST]
    while len(cleaned.encode()) > _LONGEST:
        cleaned = cleaned[:-1]
    if cleaned == wanted and cleaned:
        return cleaned
    return f"{cleaned}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip("-")


def csv_cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    cleaned = line(value)
    return f"'{cleaned}" if _FORMULA.match(cleaned) and not _is_number(cleaned) else cleaned


def figure_text(text: object) -> str:
    """Text in a figure: as `line`, with escaped dollar signs, which would start a formula."""
    return line(text).replace("$", r"\$")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table for a terminal or a file, one line per row, the first `left` columns aligned left, the others right.

    Cells are not cut, however narrow the terminal is.
    """
    from rich.cells import cell_len  # slow to import

    cleaned = [[line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cleaned, strict=True)]
    out = []
    for row in cleaned:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [cell + gap if i < left else gap + cell for i, (cell, gap) in enumerate(zip(row, gaps, strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
