"""Peak memory of a piece of work, and the name of its device."""

from __future__ import annotations

import contextlib
import platform
import re
import resource
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Peak memory since construction: torch's allocations on a GPU, the process's resident set on a CPU.

    The resident set's peak can be reset on Linux only; elsewhere it is that of the whole process so far.

    Args:
        device: Of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")

    def megabytes(self) -> float:
        """In 10^6 bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        try:
            kibibytes = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        except OSError:
            kibibytes = None
        peak = int(kibibytes[1]) if kibibytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * 1024 / 1e6


def device_name(device: torch.device) -> str:
    """A GPU's model, or a CPU's architecture and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s)"
