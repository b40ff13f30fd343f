"""A run's directory: one live process writes to it, a second start continues it, nothing is overwritten."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from denoiselab.app.runs.names import job_overrides, run_name
from denoiselab.app.runs.run_id import trial
from denoiselab.errors import BadInput
from denoiselab.files import remove, write_text
from denoiselab.nodes.options import completed
from denoiselab.training.checkpoint_files import CHECKPOINTS, saved

# Options that may differ when a run continues, as no result of the training depends on them.
_FREE = (
    *("paths.", "name", "max_images", "evaluation.", "callbacks.", "logger", "traceback", "compile", "requeue"),
    *("teacher", "pairs"),  # a file is the same by its content, which is compared
    *("data.workers", "data.cache_dir", "data.memory_limit", "data.fetch"),
    *(
        f"trainer.{key}"
        for key in (
            *(
                "accelerator",
                "devices",
                "num_nodes",
                "accumulate_grad_batches",
                "strategy",
                "profiler",
                "detect_anomaly",
            ),
        )
    ),
)

# Options that earlier versions did not have, with their values in such runs.
_SINCE = {"init_weights": "raw", "init_optimizer": False, "compile": "off", "requeue": False}

# What may be in a directory before the run: its lock, and what a sweep writes about its job.
_BEFORE = (".lock", ".job.lock", "result.json", "job.log")

_PACKAGES = ("denoiselab", "torch", "pytorch-lightning", "hydra-core", "wandb", "numpy")


class RunDirectory:
    """The directory of a run, locked for this process until it ends.

    Args:
        path: A new directory, or a former run's.
        needs_bytes: Free space that the run will need.
        leader: Whether this process writes (rank 0); the others only read.

    Raises:
        BadInput: If it cannot be written to, is full, is in use, or is not a run.
    """

    def __init__(self, path: Path, needs_bytes: int, *, leader: bool) -> None:
        self.path = path
        self.changes: list[str] = []  # since the last start
        self.edited = ""  # differences of `config.yaml` from the checkpoint
        self._made = False
        self._lock = FileLock(path / ".lock")
        if not leader:
            return
        option = f"paths.run_dir={path}"
        if path.exists() and not path.is_dir():
            raise BadInput(f"{option}: it is a file; name a directory.")
        if path.is_dir() and not (path / "config.yaml").exists() and not saved(path / CHECKPOINTS):
            others = [p.name for p in path.iterdir() if p.name not in _BEFORE and not p.match(".*.tmp")]
            if others:
                raise BadInput(f"{option}: directory is not empty and not a run; choose a new one or that of a run.")
        try:
            place = next(p for p in (path, *path.absolute().parents) if p.is_dir())
            disk = shutil.disk_usage(place)
            if disk.total and disk.free < needs_bytes:
                free, needed = disk.free / 1e6, needs_bytes / 1e6
                raise BadInput(f"{option}: {free:.0f} MB are free there; this run needs about {needed:.0f} MB.")
            self._made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for half in (*path.glob(".*.tmp"), *path.glob("checkpoints/.*.tmp"), *path.glob("samples/**/.*.tmp")):
                remove(half)  # left by a kill in the middle of a write
        except BadInput:
            self._lock.release()
            raise
        except Timeout:
            raise BadInput(
                f"{option}: another process is using it; wait for it, or choose another directory."
            ) from None
        except OSError as error:
            raise BadInput(f"{option}: cannot be written to ({error.strerror or error}).") from None

    @property
    def info(self) -> dict[str, Any]:
        """Identity, versions and starts of the run."""
        path = self.path / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if (
                isinstance(content, dict)
                and isinstance(content["starts"], list)
                and isinstance(content["wandb_id"], str)
            ):
                return content
        except (ValueError, KeyError, RecursionError):
            pass
        raise BadInput(f"{path}: damaged; delete it to continue without the record of earlier starts.")

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *error: object) -> None:
        if self._made and [file.name for file in self.path.iterdir()] == [".lock"]:  # nothing was written
            (self.path / ".lock").unlink()
            self.path.rmdir()
        self._lock.release()

    def check_same(self, config: Mapping[str, Any], saved_config: Mapping[str, Any] | None, checkpoint: str) -> None:
        """Check that `config` is the run's: `saved_config`, of the checkpoint that is continued, else `config.yaml`."""
        written = self._written()
        if saved_config is not None:
            self._report_edited(written, saved_config, checkpoint)
        elif written is None:
            return
        elif not written:
            raise BadInput(f"{self.path / 'config.yaml'}: damaged, and there is no checkpoint to continue from.")
        # Runs of version 0.1 do not state the defaults of signatures.
        for key, old, new in differences(completed({**_SINCE, **(saved_config or written or {})}), config):
            if not key.startswith(_FREE):
                raise BadInput(
                    f"{key}={_short(new)}: the run in {self.path} has {key}={_short(old)}; "
                    "continue it with its own command, or start a new run."
                )
        for key, old, new in differences(completed(written or saved_config), config):
            if key.startswith(_FREE) and not key.startswith("paths."):
                self.changes.append(f"{key} {_short(old)} -> {_short(new)}")

    def _written(self) -> dict[str, Any] | None:
        """The content of `config.yaml`: empty if it is damaged, None if it is missing."""
        try:
            content = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError):
            return {}
        return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}

    def _report_edited(
        self, written: Mapping[str, Any] | None, saved_config: Mapping[str, Any], checkpoint: str
    ) -> None:
        """Set `edited` if `config.yaml` differs from the configuration of the training."""
        text = "is missing" if written is None else "is damaged" if not written else ""
        if written:
            texts = [
                f"{key}={_short(there)} instead of {_short(own)}"
                for key, own, there in differences(completed(saved_config), completed(written))
                if not key.startswith(_FREE)
            ]
            text = f"says {', '.join(texts)}" if texts else ""
        if text:
            self.edited = f"{self.path / 'config.yaml'} {text}; the configuration in {checkpoint} counts."

    def describe(
        self,
        config: Mapping[str, Any],
        data_sha256: str,
        trained_on: str | None,
        origins: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        """Write the record of this start, after all checks.

        Args:
            config: Of the run.
            data_sha256: Fingerprint of the samples.
            trained_on: That of the checkpoint that is continued; None without one.
            origins: The records of other runs that this one uses, by name; None for none.
        """
        try:
            self._describe(config, data_sha256, trained_on, origins)
        except OSError as error:
            reason = error.strerror or error
            raise BadInput(f"paths.run_dir={self.path}: cannot be written to ({reason}).") from None

    def _describe(
        self,
        config: Mapping[str, Any],
        data_sha256: str,
        trained_on: str | None,
        origins: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        info: dict[str, Any] = {"wandb_id": trial() or secrets.token_hex(4), "starts": []}
        if (self.path / "run.json").exists():
            info = self.info
        for known in (trained_on, info.setdefault("data_sha256", data_sha256)):
            if known not in (None, data_sha256):
                raise BadInput(
                    f"data: the run in {self.path} was started on other samples (sha256 {str(known)[:12]}, now "
                    f"{data_sha256[:12]}); restore these, or start a new run."
                )
        info |= {name: record for name, record in origins.items() if record is not None}
        info["starts"].append({**start_record(config), "name": run_name(self.path)})
        write_description(self.path, config, info)


def start_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """Time, command, host and versions of a start, with its configuration."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        **git_revision(),
        "overrides": job_overrides(),
        "config": config,
    }


def write_description(path: Path, config: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write `config.yaml` and `run.json`."""
    write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    write_text(path / "run.json", json.dumps(info, indent=1))


@functools.cache
def git_revision() -> dict[str, Any]:
    """Revision of the checkout (`git`), and whether it has changes (`git_changes`); empty outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", *words]
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return done.stdout.strip()

    try:
        return {"git": git("rev-parse", "HEAD"), "git_changes": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, old and new value of each difference of two trees of plain containers; None if missing."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path, old, new


def _short(value: Any) -> str:
    return json.dumps(value, default=str)
