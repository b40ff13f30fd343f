"""Releases as run directories: what programs write about one has a place that is not among its files."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from denoiselab.app.runs.paths import new_folder, newest
from denoiselab.app.runs.run_directory import start_record, write_description
from denoiselab.cleaning import path_part
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import MANIFEST, read_json, sha256_of
from denoiselab.released import PREFIX, is_release
from denoiselab.training.checkpoint_files import (
    CHECKPOINT_KEY,
    CHECKPOINTS,
    LAST,
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)


def with_directories(ckpt: str | Sequence[str], log_dir: Path) -> str | list[str]:
    """`ckpt`, one or several, with the run directory of a release in place of its folder or its name."""
    if isinstance(ckpt, str):
        named = ckpt.startswith(PREFIX) or is_release(Path(ckpt))
        return str(_directory(newest(Path(ckpt)), log_dir)) if named else ckpt
    return [str(with_directories(one, log_dir)) for one in ckpt]


def _directory(release: Path, log_dir: Path) -> Path:
    """The run directory of a release, a former one or a new one. Its name holds a hash of the files.

    Raises:
        BadInput: If the release is not as it was written, or nothing can be written.
    """
    digest = sha256_of(release)
    path = log_dir / "imported" / path_part(f"{release.resolve().name}-{digest[:12]}")
    try:
        if path.exists():
            read_checkpoint(path / CHECKPOINTS / LAST)
            return path
        checkpoint = read_checkpoint(release)
    except CheckpointError as error:
        what = f"log_dir={log_dir}: holds a damaged run; remove it: " if path.exists() else "ckpt="
        raise BadInput(f"{what}{error}") from None
    config = {**checkpoint[CHECKPOINT_KEY]["config"], "paths": {"cache_dir": str(log_dir / "cache")}}
    checkpoint[CHECKPOINT_KEY]["config"] = config
    origin = {"sha256": digest, "make": read_json(release / MANIFEST)["make"]}
    info = {"wandb_id": secrets.token_hex(4), "starts": [start_record(config)], "released": origin}
    try:
        with new_folder(path, "log_dir") as partial:
            for part in release.iterdir():
                if part.is_dir():
                    shutil.copytree(part, partial / part.name)
            write_checkpoint(checkpoint, partial / CHECKPOINTS / LAST)
            write_description(partial, config, info)
    except BadInput:
        if not path.exists():  # else another process was faster
            raise
    console(stderr=True).print(f"run directory of {release.resolve().name}: {path}")
    return path
