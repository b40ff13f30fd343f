"""Files of published weights: their path, verification and download."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from denoiselab.files import sha256_of

COMMAND = "python -m denoiselab.references"


# Scores record the file's sha256 in any case.
_UNKNOWN = " (no sha256 is required; scores record the file's, and evaluation.extractor.sha256=... requires one)"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Args:
        owner: Name of the network.
        path: Of the file; None for the place where torch.hub keeps it.
        sha256: Of the file, or its first digits; None accepts any file.
        url: Where it is published.
        name: Of the file in torch.hub's folder; None for that of the URL.
    """

    owner: str
    path: str | None
    sha256: str | None
    url: str
    name: str | None = None

    @property
    def file(self) -> Path:
        """Its path."""
        if self.path is not None:
            return Path(self.path)
        return Path(torch.hub.get_dir()) / "checkpoints" / (self.name or self.url.rpartition("/")[2])

    def verify(self) -> str:
        """The sha256 of the file.

        Raises:
            ValueError: If the file is missing, or its sha256 is another one.
        """
        file = self.file
        wanted = f" (sha256 {self.sha256}{'...' if len(self.sha256) < 64 else ''})" if self.sha256 else _UNKNOWN
        if not file.is_file():
            raise ValueError(
                f"evaluation.extractor: the weights of {self.owner}{wanted} are not at {file}; put {self.url} there, "
                f"set evaluation.extractor.weights_path, or run `{COMMAND}` with the same options and download=true."
            )
        status = file.stat()
        digest = _sha256(file, status.st_mtime_ns, status.st_size)
        if not digest.startswith(self.sha256 or ""):
            raise ValueError(
                f"evaluation.extractor: {file} has sha256 {digest}, not that of the weights of {self.owner}{wanted}; "
                f"get them from {self.url}, or pass evaluation.extractor.sha256=null to score with this file."
            )
        return digest

    def download(self) -> None:
        """Download the file if it is missing, and verify it.

        Raises:
            ValueError: If this is one process of several, the download fails, or the sha256 is another one.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("download=true: run it in one process; here WORLD_SIZE > 1.")
        if not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(self.file), self.sha256, progress=True)
            except (RuntimeError, OSError) as error:  # a wrong hash; no network, or no such page
                raise ValueError(f"download=true: {self.url} cannot be downloaded ({error}).") from None
        self.verify()


@functools.lru_cache
def _sha256(file: Path, _modified: int, _size: int) -> str:
    return sha256_of(file)
