"""Folders of frozen models: their configuration and checksum."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

# Suffixes of weights, configuration and vocabulary.
_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")


def folder_of(path: str) -> Path:
    """The folder of a frozen model."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"path={path}: {what}; name the folder of a model, such as a pipeline's vae or text_encoder.")
    return folder


def configuration(folder: Path) -> dict[str, Any]:
    """Content of the folder's `config.json`."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"path={folder}: its config.json is damaged.")
    return content


def sha256_of(folder: Path) -> str:
    """SHA-256 of names and bytes of a model's files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    return _sha256_of(*((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def check_sha256(folder: Path, expected: str | None) -> None:
    """Check that a folder has not changed since training."""
    if expected is not None and (found := sha256_of(folder)) != expected:
        raise ValueError(f"sha256={expected}: the files in {folder} have changed; now it is {found}.")


@functools.cache
def _sha256_of(*files: tuple[Path, int, int]) -> str:
    total = hashlib.sha256()
    for path, size, _ in files:
        total.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def token_features(path: str) -> int:
    """Features of a token of a text encoder in transformers' format."""
    config = configuration(folder_of(path))
    config = config.get("text_config", config)
    for name in ("hidden_size", "d_model", "dim"):
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ValueError(f"path={path}: its config.json states no hidden_size, so it is no text encoder.")
