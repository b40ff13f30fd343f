"""The finished cells of a directory, in files that several processes may add to."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from denoiselab.files import atomic

Record = dict[str, Any]

# Cells that agree in all of these were measured alike: same data, same measure, same number of samples.
_MEASURED = (
    "data", "split", "metric", "metrics", "n", "seed", "extractor_sha256", "reference_sha256",
    "versions",
)  # fmt: skip


class Store:
    """`frontier.json` (whole records) and `frontier.csv` (a row a cell) of a directory.

    Args:
        directory: Where they are, or will be.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "frontier.json"

    def read(self) -> dict[str, Record]:
        """Hash of the protocol to record, of all cells.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            return {record["cell"]: record for record in json.loads(self._path.read_text(encoding="utf-8"))}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self._path}: damaged; delete it to score its cells anew.") from None

    def add(self, records: Iterable[Record]) -> None:
        """Add cells, and mark anew which are Pareto-optimal; what other processes added meanwhile is kept.

        Raises:
            OSError: They cannot be written; the cells before are kept.
        """
        with self.writing():
            self.directory.mkdir(parents=True, exist_ok=True)
            with FileLock(self.directory / ".frontier.lock"):
                for half in self.directory.glob(".frontier.*.tmp"):
                    half.unlink()  # left by a kill in the middle of a write
                cells = {**self.read(), **{record["cell"]: record for record in records}}
                mark_pareto([*cells.values()])
                write_json(self._path, [*cells.values()])
                write_csv(self.directory / "frontier.csv", [*cells.values()])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within it, a failed write says what is safe.

        Raises:
            OSError: Something cannot be written.
        """
        try:
            yield
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> OSError:
        """That says what is safe."""
        reason = error.strerror or error
        return OSError(f"{self._path}: a cell cannot be written ({reason}); those before it are kept")

    def usable(self) -> dict[str, Record]:
        """The cells that need not be scored again: those with a picture, and those that failed."""
        return {k: r for k, r in self.read().items() if r.get("error") or self.picture(r).is_file()}

    def picture(self, record: Mapping[str, Any]) -> Path:
        """Where the picture of a cell's samples is."""
        name = f"{record['sampler']}_nfe{record['nfe']:04g}_{record['cell'][:8]}.png"
        return self.directory / "samples" / "cells" / name


def comparable(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal for two scores to be compared: the measure, and the training's length."""
    return (json.dumps(record.get("images_seen")), *measured(record))


def measured(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be equal for two scores to be on one scale."""
    return tuple(json.dumps(record.get(key), sort_keys=True) for key in _MEASURED)


def rule(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What all cells of a line have in common, beside its name: the model, and the sampler's settings but for steps."""
    settings = json.dumps({**record.get("settings", {}), "steps": None}, sort_keys=True)
    keys = ("model_sha256", "weights_sha256", "classifier_sha256")
    return *(record.get(key) for key in keys), settings


def finished(records: Iterable[Record]) -> list[Record]:
    """The records that have a score."""
    return [record for record in records if record["score"] is not None]


def loss(record: Record) -> float:
    """The score of a finished record, its sign changed where more is better."""
    return float(record["score"] if lower_is_better(record) else -record["score"])


def lower_is_better(record: Record) -> bool:
    """Of the primary metric."""
    primary = (record.get("scores") or {}).get(record.get("metric"), {})
    return bool(primary.get("lower_is_better", True))


def mark_pareto(records: Sequence[Record]) -> None:
    """Set `pareto` of each record: whether no comparable cell is better at the same cost, or as good for less.

    The cost is that of a sample in network evaluations, of which a call under guidance makes two.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        record["pareto"] = False
        if record["score"] is not None:
            groups.setdefault(comparable(record), []).append(record)
    for group in groups.values():
        best = math.inf
        for record in sorted(group, key=lambda r: (r["network_evaluations"], loss(r))):
            record["pareto"] = loss(record) < best
            best = min(best, loss(record))


def write_json(path: Path, records: Sequence[Record]) -> None:
    """Write whole records, atomically."""
    with atomic(path, "w") as file:
        json.dump(records, file, indent=1, allow_nan=False)


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write a row a record, atomically; each metric has a column, and one for its standard error."""
    rows = []
    for record in records:
        row = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in record.items() if k != "scores"}
        for metric, score in (record["scores"] or {}).items():
            row |= {metric: score["value"], f"{metric}_standard_error": score["standard_error"]}
        rows.append(row)
    columns = dict.fromkeys(key for row in rows for key in row)
    with atomic(path, "w") as file:
        writer = csv.DictWriter(file, [*columns])
        writer.writeheader()
        writer.writerows(rows)
