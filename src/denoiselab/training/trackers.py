"""Lightning's loggers as trackers of a run: TensorBoard, MLflow and CSV files."""

from __future__ import annotations

import importlib.util
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from denoiselab.cleaning import path_part

# Writes the picture of a file under a key, at a number of images seen.
WriteImage = Callable[[str, Path, int], object]


class Start(NamedTuple):
    """What a tracker gets of a run.

    Attributes:
        directory: Of the run.
        run_id: Unique; the same for all starts of a run.
        name: Shown name.
        group: Id of the training run that it belongs to; its own for a training run.
        job_type: "train" or "evaluation".
    """

    directory: Path
    run_id: str
    name: str
    group: str
    job_type: str


class Tracker(ABC):
    """A logger of Lightning's, not yet open.

    Raises:
        ValueError: If a package that it needs is missing.
    """

    package: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            raise ValueError(
                f"_target_={type(self).__name__}: needs the package {self.package}; pip install {self.package}."
            )

    @abstractmethod
    def make(self, start: Start) -> tuple[Logger, WriteImage | None]:
        """Lightning's logger of a run, and what writes pictures to it; None if it takes none."""

    def open(
        self,
        directory: Path,
        run_id: str,
        name: str,
        config: dict[str, Any],
        *,
        group: str | None = None,
        job_type: str = "train",
    ) -> TrackedRun:
        """Start the run; the arguments are those of `WandB.open`."""
        start = Start(directory, path_part(run_id), name, path_part(group or run_id), job_type)
        return TrackedRun(type(self).__name__, lambda: self.make(start), config)


class TrackedRun(Logger):
    """A run in a logger of Lightning's; `step` is images seen.

    Errors are a warning and end the logging; they do not stop the training.

    Args:
        what: Name of the logger, for warnings.
        make: Makes it.
        config: Of the run, plain containers.
    """

    def __init__(self, what: str, make: Callable[[], tuple[Logger, WriteImage | None]], config: dict[str, Any]) -> None:
        super().__init__()
        self._what, self._failed = what, False
        self._logger: Logger | None = None
        self._write_image: WriteImage | None = None

        def start() -> None:
            self._logger, self._write_image = make()
            self._logger.log_hyperparams(config)

        self._try(start)

    @property
    def name(self) -> str:
        return self._what

    @property
    def version(self) -> str:
        return "" if self._logger is None else str(self._logger.version)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the configuration was logged at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        def write(logger: Logger) -> None:
            logger.log_metrics(dict(metrics), step)
            logger.save()

        self._do(write)

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int) -> None:
        """Log picture files; `step` is images seen. Nothing for a logger without pictures."""
        write = self._write_image
        if write is None:
            return

        def send(logger: Logger) -> None:
            for number, path in enumerate(images):
                write(f"{key}_{number}" if number else key, Path(path), step)

        self._do(send)

    def close(self, exit_code: int) -> None:
        """Finish the run with the program's exit code."""
        self._do(lambda logger: logger.finalize("success" if exit_code == 0 else "failed"))

    def _do(self, action: Callable[[Logger], object]) -> None:
        logger = self._logger
        if logger is not None:
            self._try(lambda: action(logger))

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # a server that is away, a full disk, whatever the package raises
            self._failed = True
            said = " ".join(str(error).split())
            warnings.warn(f"{self._what}: {said} (metrics.csv and frontier.csv hold everything)", stacklevel=3)


@dataclass
class TensorBoard(Tracker):
    """Event files in `<run>/tensorboard/<run id>`; a start that continues a run adds a file.

    Args:
        default_hp_metric: Whether the page of hyperparameters gets a metric of its own.
    """

    default_hp_metric: bool = False

    package: ClassVar[str | None] = "tensorboard"

    def make(self, start: Start) -> tuple[Logger, WriteImage | None]:
        logger = TensorBoardLogger(
            start.directory, name="tensorboard", version=start.run_id, default_hp_metric=self.default_hp_metric
        )

        def write(key: str, path: Path, step: int) -> None:
            import numpy as np

            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(key, pixels, step, dataformats="HWC")

        return logger, write


@dataclass
class MLflow(Tracker):
    """A run of MLflow; a start that continues a run continues that of the same id.

    Args:
        experiment: Its name.
        tracking_uri: Server or data base; None for MLFLOW_TRACKING_URI, else `<run>/mlflow.db`, with pictures in
            `<run>/mlruns`.
    """

    experiment: str = "denoiselab"
    tracking_uri: str | None = None

    package: ClassVar[str | None] = "mlflow"

    def make(self, start: Start) -> tuple[Logger, WriteImage | None]:
        from mlflow.tracking import MlflowClient

        home = start.directory.absolute()
        asked = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = asked or f"sqlite:///{home / 'mlflow.db'}"
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(self.experiment)
        same = f"tags.denoiselab_id = '{start.run_id}'"
        former = [] if experiment is None else client.search_runs([experiment.experiment_id], same)
        logger = MLFlowLogger(
            self.experiment,
            start.name,
            tracking_uri=uri,
            tags={"denoiselab_id": start.run_id, "group": start.group, "job_type": start.job_type},
            artifact_location=None if asked else f"file:{home / 'mlruns'}",
            run_id=former[0].info.run_id if former else None,
        )

        def write(key: str, path: Path, step: int) -> None:
            with Image.open(path) as picture:
                logger.experiment.log_image(logger.run_id, picture.convert("RGB"), f"{key}/{step:012d}.png")

        return logger, write


@dataclass
class CSV(Tracker):
    """Lightning's CSV file in `<run>/lightning_csv/version_<start>`; pictures are in the run's directory anyway."""

    def make(self, start: Start) -> tuple[Logger, WriteImage | None]:
        return CSVLogger(start.directory, name="lightning_csv", flush_logs_every_n_steps=1), None
