"""How the C library allocates the memory of tensors on the CPU."""

from __future__ import annotations

import ctypes

# Of <malloc.h>: blocks above the first are given back to the system when freed, and so is free memory above the second.
_TRIM, _MMAP = -1, -3


def keep_freed_memory(limit: int = 2**30) -> None:
    """Keep up to `limit` bytes of freed memory for the next tensors, where the C library is glibc.

    By default it gives large blocks back to the system, which then clears each page again for the next tensor: a tenth
    of the time of a large batch on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system or C library
        return
    mallopt(_MMAP, limit)
    mallopt(_TRIM, limit)
