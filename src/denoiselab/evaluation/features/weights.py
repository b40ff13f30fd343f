"""Files of published weights: where they lie, whether they are the right ones, and the step that fetches them."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from denoiselab.files import sha256_of

COMMAND = "python -m denoiselab.references"


# Scores name the file that was taken in any case.
_UNKNOWN = " (no sha256 is asked for; a score records the file's, and evaluation.extractor.sha256=... demands one)"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Args:
        owner: What they are the weights of.
        path: Of the file; None for the place where torch.hub keeps it.
        sha256: Of the file, or how it starts; None takes any file.
        url: Where it is published.
        name: Of the file at torch.hub's place; None for that of the URL.
    """

    owner: str
    path: str | None
    sha256: str | None
    url: str
    name: str | None = None

    @property
    def file(self) -> Path:
        """Where it is, or must be put."""
        if self.path is not None:
            return Path(self.path)
        return Path(torch.hub.get_dir()) / "checkpoints" / (self.name or self.url.rpartition("/")[2])

    def verify(self) -> str:
        """The sha256 of the file, which is there and the right one.

        Raises:
            ValueError: It is not.
        """
        file = self.file
        wanted = f" (sha256 {self.sha256}{'...' if len(self.sha256) < 64 else ''})" if self.sha256 else _UNKNOWN
        if not file.is_file():
            raise ValueError(
                f"evaluation.extractor: the weights of {self.owner}{wanted} are not at {file}; put {self.url} there, "
                f"or set evaluation.extractor.weights_path, or, online, run `{COMMAND}` with the same options and "
                "download=true."
            )
        status = file.stat()
        digest = _sha256(file, status.st_mtime_ns, status.st_size)
        if not digest.startswith(self.sha256 or ""):
            raise ValueError(
                f"evaluation.extractor: {file} has sha256 {digest}, not that of the weights of {self.owner}{wanted}; "
                f"get them from {self.url}, or set evaluation.extractor.sha256=null to score with this file."
            )
        return digest

    def download(self) -> None:
        """Fetch the file, unless it is there; one process does it, before any other starts.

        Raises:
            ValueError: This is one process of many, the file cannot be fetched, or it is not the right one.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("download=true: one process fetches weights, before the others start.")
        if not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(self.file), self.sha256, progress=True)
            except (RuntimeError, OSError) as error:  # a wrong hash; no network, or no such page
                raise ValueError(f"download=true: {self.url} cannot be fetched ({error}).") from None
        self.verify()


@functools.lru_cache
def _sha256(file: Path, _modified: int, _size: int) -> str:
    return sha256_of(file)
