"""How a program's process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but without destroying every module, which takes torch half a second.

    Args:
        code: Exit code.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = unread()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def unread() -> int:
    """The exit code where the reader of stdout, such as `head`, has ended; what is left goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
