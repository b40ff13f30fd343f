"""Lightning's plugin for checkpoint files: written atomically, read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from denoiselab.training.checkpoint_files import read_checkpoint, write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, atomic on every file system and safe to read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint`; if interrupted, the former file stays as it is.

        Args:
            checkpoint: Tensors and plain containers.
            path: Of the file.
            storage_options: `{"keep": k}` keeps the k - 1 files before it, as `<stem>.1.ckpt` (the newest) and so on.
        """
        write_checkpoint(checkpoint, Path(path), (storage_options or {}).get("keep", 1))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)
