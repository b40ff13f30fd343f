"""Where every program prints, with control characters shown as escapes."""

from __future__ import annotations

import logging
import sys

from denoiselab.cleaning import lines


class Terminal:
    """Prints text without wrapping it; control characters in names and messages are shown as escapes.

    Args:
        stderr: Print to stderr instead of stdout.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._file = sys.stderr if stderr else sys.stdout

    def print(self, text: object = "") -> None:
        """Print text and a newline."""
        print(lines(text), file=self._file, flush=True)


class Logged(logging.LogRecord):
    """What is logged, whose control characters are shown as escapes too."""

    def getMessage(self) -> str:  # noqa: N802
        """The message."""
        return lines(super().getMessage())


def console(*, stderr: bool = False) -> Terminal:
    """Where every program prints: stdout, or stderr."""
    return Terminal(stderr=stderr)
