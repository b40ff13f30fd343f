"""Loggers of metrics: a CSV file and W&B."""

from __future__ import annotations

import csv
import netrc
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from denoiselab.cleaning import path_part
from denoiselab.files import append_csv, write_csv

AXIS = "images_seen"

_DATA_DIRECTORY_IS_SET = "WANDB_DATA_DIR" in os.environ


class MetricsCSV(Logger):
    """A CSV file with a row an entry and `images_seen` as its first column.

    Args:
        path: Of the file.
        images_seen: Of the checkpoint from which the run resumes; later rows are dropped. 0 for a new file.
    """

    def __init__(self, path: Path, images_seen: int) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns = [AXIS]
        if images_seen and path.is_file():
            self._columns, rows = _read(path)
            self._rows = [row for row in rows if int(row[AXIS]) <= images_seen]

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the configuration has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; `step` is images seen. For new columns the file is rewritten atomically."""
        row = {AXIS: step, **metrics}
        fresh = [key for key in row if key not in self._columns]
        self._columns += fresh
        self._rows.append(row)
        if fresh or len(self._rows) == 1 or not self.path.is_file():
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                append_csv(file, row, self._columns)

    @rank_zero_only
    def truncate(self) -> None:
        """Rewrite the file without the rows after the resumed checkpoint."""
        if self._rows:
            self._rewrite()
        else:
            self.path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        write_csv(self.path, self._rows, self._columns)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a metrics file, without damaged rows, such as half a row after a kill."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(line.replace("\0", "") for line in file)
        columns = list(reader.fieldnames or ())
        rows = [*reader]
    whole = [row for row in rows if None not in row and None not in row.values() and str(row.get(AXIS)).isdecimal()]
    if AXIS not in columns or len(whole) < len(rows):
        warnings.warn(f"{path}: {len(rows) - len(whole) or 'all'} rows are damaged and are left out", stacklevel=2)
    return (columns, whole) if AXIS in columns else ([AXIS], [])


def has_wandb_key() -> bool:
    """Whether there is a W&B key in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


_NOT_IN_NAMES = r"/\#?%:"


class WandB:
    """Weights & Biases as configured; `open` starts the run.

    Args:
        project: Project's name.
        entity: User or team; None for the account's default.
        mode: online, offline, or auto: the value of WANDB_MODE, else online if there is a key. It never asks for one.
        tags: Of the run.
        artifacts: Kinds of artifacts to upload: checkpoint (the last and the best one), reference, frontier.
        chart: Preset of the frontier's chart, `<entity>/<name>` (made by `denoiselab.report to=wandb_chart`); None for
            W&B's own line chart.

    Raises:
        ValueError: If the project's name has characters that W&B does not allow.
    """

    def __init__(
        self,
        project: str = "denoiselab",
        entity: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
        tags: list[str] | None = None,
        artifacts: Sequence[Literal["checkpoint", "reference", "frontier"]] = ("checkpoint", "reference", "frontier"),
        chart: str | None = None,
    ) -> None:
        if not project or set(project) & set(_NOT_IN_NAMES):
            raise ValueError(f"project={project}: it must be a name without any of {' '.join(_NOT_IN_NAMES)}.")
        self.project, self.entity, self.tags = project, entity, list(tags or [])
        self.artifacts, self.chart = tuple(artifacts), chart
        self.mode: str = mode
        if mode == "auto":
            self.mode = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")

    def open(
        self,
        directory: Path,
        run_id: str,
        name: str,
        config: dict[str, Any],
        *,
        group: str | None = None,
        job_type: str = "train",
    ) -> WandBRun:
        """Start the run, or continue that of the same `run_id`.

        Args:
            directory: Of its files.
            run_id: Unique in the project.
            name: Shown name.
            config: Plain containers.
            group: Id of the training run that it belongs to; None for its own.
            job_type: train or evaluation.
        """
        run_id = path_part(run_id)  # W&B names a folder by it, and it comes from the run's own file
        options = {
            "project": self.project,
            "entity": self.entity,
            "tags": self.tags,
            "mode": self.mode,
            "dir": str(directory),
            "id": run_id,
            "resume": "allow",
            "name": name,
            "config": config,
            "group": path_part(group or run_id),
            "job_type": job_type,
        }
        if os.environ.get("WANDB_SWEEP_ID"):  # its agent has chosen these, and wandb would warn
            options = {key: value for key, value in options.items() if key not in ("project", "entity", "id")}
        return WandBRun(options, self.artifacts, self.chart)


class WandBRun(Logger):
    """A W&B run in its own thread, so that training does not wait for it.

    Images seen are logged with the metrics and are their axis, instead of W&B's own step. Errors of W&B are warnings,
    at once if the run does not start and else at the end; they do not stop the training.

    Args:
        options: Arguments of `wandb.init`.
        artifacts: As in `WandB`.
        chart: As in `WandB`.
    """

    def __init__(self, options: dict[str, Any], artifacts: Sequence[str] = (), chart: str | None = None) -> None:
        super().__init__()
        self._id, self.artifacts, self.chart = options.get("id", ""), artifacts, chart
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wandb")
        self._run: Any = None
        self._tasks: list[Future[Any]] = [self._worker.submit(self._open, options)]
        self._tasks[0].add_done_callback(_warn)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return str(self._id)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the configuration was given at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.do(lambda run: run.log({AXIS: step, **metrics}))

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int) -> None:
        """Log picture files; `step` is images seen."""

        def send(run: Any) -> None:
            import wandb  # slow to import

            run.log({AXIS: step, key: [wandb.Image(path) for path in images]})

        self.do(send)

    def do(self, action: Callable[[Any], object]) -> None:
        """Call `action` with W&B's run object, after all earlier actions."""
        self._tasks.append(self._worker.submit(lambda: action(self._run)))

    def close(self, exit_code: int) -> None:
        """Finish the run with the program's exit code, after all actions."""
        self.do(lambda run: run.finish(exit_code=exit_code))
        self._worker.shutdown(wait=True)
        for task in self._tasks:
            if _warn(task):
                break

    def _open(self, options: dict[str, Any]) -> None:
        os.environ["WANDB_SILENT"] = "true"
        if not _DATA_DIRECTORY_IS_SET:  # artifacts wait with their run until they are synced, not in the user's home
            os.environ["WANDB_DATA_DIR"] = str(Path(options["dir"]).absolute() / "wandb")
        import wandb  # slow to import; reads the environment

        # The run's own CSV is the source of truth; a short interval loses little on kill -9.
        settings = wandb.Settings(x_transaction_log_flush_interval=1, console="off", quiet=True)
        self._run = wandb.init(**options, settings=settings)
        self._run.define_metric(AXIS, hidden=True)
        for own in ("train/*", "score/*", "held_out/*", "preview/*"):
            self._run.define_metric(own, step_metric=AXIS)
        self._run.define_metric("frontier/nfe", hidden=True)
        self._run.define_metric("frontier/*", step_metric="frontier/nfe", summary="min")


def _warn(task: Future[Any]) -> bool:
    """Whether a finished task failed; its error is shown as a warning."""
    error = task.exception()
    if error is not None:
        warnings.warn(
            f"W&B: {' '.join(str(error).split())} (metrics.csv and frontier.csv hold everything)", stacklevel=2
        )
    return error is not None
