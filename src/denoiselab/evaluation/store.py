"""The finished cells of a directory, in files that several processes may add to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from denoiselab import files
from denoiselab.cleaning import path_part
from denoiselab.code_digest import sha256_of_code
from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.records import Record
from denoiselab.evaluation.verdicts import kept
from denoiselab.evaluation.verdicts.frontiers import LEVEL, mark_pareto
from denoiselab.files import atomic
from denoiselab.nodes.options import completed

_Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e300, lt=1e300)]


class _Score(BaseModel):
    model_config = ConfigDict(strict=True)
    value: _Number | None
    standard_error: _Number | None = None
    lower_is_better: bool = True
    reason: str | None = None


class _Cell(BaseModel):
    """Fields of a record that are read; the file may have been edited."""

    model_config = ConfigDict(strict=True)
    cell: str
    sampler: str
    nfe: _Number
    score: _Number | None
    standard_error: _Number | None = None
    scores: dict[str, _Score] | None
    metric: Annotated[str, Field(min_length=1)]
    n: int
    weights: str
    guidance: _Number | None
    guider: dict[str, Any] | None = None
    classifier_scale: _Number | None = None
    seconds: _Number
    network_evaluations: _Number | None
    guide_evaluations: _Number | None = None
    seconds_per_1k_images: _Number | None = None
    ms_per_sample: _Number | None = None
    flops_per_sample: _Number | None = None
    peak_memory_mb: _Number | None = None
    images_seen: int | None = None
    steps: int | None = None
    seed: int
    devices: int | None = None
    floor: _Number | None = None
    codec_score: _Number | None = None
    codec_n: int | None = None
    columns: list[str] | None = Field(default=None, max_length=16)
    shape: list[Annotated[int, Field(gt=0, lt=2**31)]] = []
    settings: dict[str, Any] = {}
    data: str
    split: str = ""
    beside: dict[str, Any] = {}
    extractor: str
    extractor_sha256: str
    reference_sha256: str
    reference_n: int
    weights_sha256: str
    device: str | None = None
    device_name: str | None = None
    error: str | None
    git: str | None = None
    code_sha256: str | None = None
    code_modules: list[str] = []
    protocol_sha256: str = ""
    versions: dict[str, Any] = {}
    scored: str | None = None
    stop: dict[str, Any] | None = None
    stopped: str | None = None
    against: dict[str, Annotated[list[_Number], Field(min_length=4, max_length=4)]] = {}
    undecided: dict[str, _Number] = {}


_Cells = TypeAdapter(list[_Cell])


# Fields that have columns of their own in the table, or none.
_JSON_ONLY = ("scores", "against", "undecided")


class Store:
    """`frontier.json` (whole records) and `frontier.csv` (a row a cell) of a directory.

    Args:
        directory: Of both files.
        level: Probability that `pareto` of any cell is wrong; a record states another one than 0.05 as `pareto_level`.
    """

    def __init__(self, directory: Path, level: float = LEVEL) -> None:
        self.directory, self.level = directory, level
        self._path = directory / "frontier.json"

    def read(self) -> dict[str, Record]:
        """All records, by `cell`.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            records = json.loads(self._path.read_text(encoding="utf-8"))
            _Cells.validate_python(records)
            return {record["cell"]: record for record in records}
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            raise ValueError(f"{self._path}: damaged; delete it to score its cells anew.") from None

    def add(self, records: Iterable[Record]) -> None:
        """Add cells to those of all processes, and mark again which may be Pareto-optimal.

        Raises:
            OSError: If they cannot be written; the cells before are kept.
        """
        with self.writing():
            self.directory.mkdir(parents=True, exist_ok=True)
            with FileLock(self.directory / ".frontier.lock"):
                for half in self.directory.glob(".frontier.*.tmp"):
                    half.unlink()  # left by a kill in the middle of a write
                cells, added = self.read(), {record["cell"]: record for record in records}
                former = {cell: _marked_by(record) for cell, record in cells.items() if "pareto" in record}
                cells |= added
                mark_code(cells.values())
                asked = {cell: (record["other_code"], self.level) for cell, record in cells.items()}
                changed = {cell for cell in cells if former.get(cell) != asked[cell]}
                mark_pareto([*cells.values()], self.influences, {*changed, *added}, self.level)
                write_json(self._path, [*cells.values()])
                write_csv(self.directory / "frontier.csv", [*cells.values()])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within it, the message of a failed write says that the cells before are kept."""
        try:
            yield
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> OSError:
        """The error of a failed write."""
        reason = error.strerror or error
        return OSError(f"{self._path}: a cell cannot be written ({reason}); those before it are kept")

    def usable(self) -> dict[str, Record]:
        """The cells that need not be scored again: those with a picture, and failed ones."""
        return {k: r for k, r in self.read().items() if r.get("error") or self.picture(r).is_file()}

    def picture(self, record: Mapping[str, Any]) -> Path:
        """Where the picture of a cell's samples is."""
        name = f"{path_part(record['sampler'])}_nfe{record['nfe']:04g}_{path_part(record['cell'][:8])}.png"
        return self.directory / "samples" / "cells" / name

    def keep(self, record: Mapping[str, Any], influences: Mapping[str, Influences]) -> None:
        """Write the influences of a cell, by metric, before its record.

        Raises:
            OSError: If they cannot be written.
        """
        with self.writing():
            kept.write(self._influences(record), influences)

    def influences(self, record: Mapping[str, Any]) -> dict[str, Influences]:
        """The influences of a cell, by metric; empty if they were not kept, or the file is damaged."""
        return kept.read(self._influences(record))

    def lost(self, record: Mapping[str, Any]) -> bool:
        """Whether a score with a standard error has no influences here."""
        return record.get("standard_error") is not None and not self.influences(record)

    def _influences(self, record: Mapping[str, Any]) -> Path:
        return self.directory / "influences" / f"{path_part(record['cell'])}.npz"


def _marked_by(record: Record) -> tuple[Any, float]:
    """What its mark depends on beside the other cells."""
    return record.get("other_code"), record.get("pareto_level", LEVEL)


def key_of(cell: Mapping[str, Any]) -> str:
    """sha256 of a protocol."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()


def find(stored: Iterable[Record], cell: Mapping[str, Any]) -> Record | None:
    """The last stored record of the protocol `cell`, scored by any code.

    Records without a digest of their code have the version of this package in their protocol instead. Older ones do not
    state those settings of their sampler which are the defaults of its class.
    """
    stored = list(stored)
    versions = {(r.get("versions") or {}).get("denoiselab") for r in stored if "protocol_sha256" not in r}
    own = completed(cell.get("settings"))
    stated = [r["settings"] for r in stored if "settings" in r and completed(r["settings"]) == own]
    cells = [cell, *({**cell, "settings": settings} for settings in stated)]
    former = {key_of({**c, "versions": {**c.get("versions", {}), "denoiselab": v}}) for v in versions for c in cells}
    keys = {*map(key_of, cells), *former}
    return next((r for r in reversed(stored) if r.get("protocol_sha256", r["cell"]) in keys), None)


def mark_code(records: Iterable[Record]) -> None:
    """Set `other_code` of each record: whether the code that scored it differs from the present code."""
    for record in records:
        modules = record.get("code_modules")
        record["other_code"] = not modules or sha256_of_code(modules) != record.get("code_sha256")


def write_json(path: Path, records: Sequence[Record]) -> None:
    """Write whole records, atomically."""
    with atomic(path, "w") as file:
        json.dump(records, file, indent=1, allow_nan=False)


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write one row a record, atomically, with two columns a metric: value and standard error."""
    rows = []
    for record in records:
        row = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in record.items() if k not in _JSON_ONLY}
        for metric, score in (record["scores"] or {}).items():
            row |= {metric: score["value"], f"{metric}_standard_error": score["standard_error"]}
        rows.append(row)
    files.write_csv(path, rows)
