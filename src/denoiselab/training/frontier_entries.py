"""What loggers get of a frontier: scalars over network calls, the best scores, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from denoiselab.cleaning import path_part
from denoiselab.evaluation.records import Record, beside, finished, loss
from denoiselab.evaluation.report import tables

if TYPE_CHECKING:
    from denoiselab.training.trackers import TrackedRun  # imports Lightning

NFE = "frontier/nfe"


def log_frontier(run: TrackedRun, records: Sequence[Record], directory: Path) -> None:
    """Log a frontier to a logger of Lightning's: scalars at the number of network calls, and pictures.

    Args:
        run: Open.
        records: All cells of the frontier, with failed ones.
        directory: Of the run that was scored.
    """
    series = tables.by_series(records)
    for entry in by_nfe(series):
        run.log_metrics({key: value for key, value in entry.items() if key != NFE}, round(entry[NFE]))
    seen = max((record.get("images_seen") or 0 for record in records), default=0)
    run.log_metrics({key: value for key, value in best(records).items() if not isinstance(value, str)}, seen)
    for key, path in pictures_of(series, directory).items():
        run.log_image(key, [str(path)], seen)


def pictures_of(series: Mapping[str, Sequence[Record]], directory: Path) -> dict[str, Path]:
    """The pictures of a frontier that are there, by key."""
    sheets = {f"samples/{path_part(name)}": tables.sheet_of(directory, name) for name in series}
    found = {**sheets, "samples/plot": directory / "frontier.png", "samples/plane": directory / "toy_2d.png"}
    return {key: path for key, path in found.items() if path.is_file()}


def by_nfe(series: Mapping[str, Sequence[Record]]) -> list[dict[str, float]]:
    """An entry for each NFE with the scores of all series."""
    steps: dict[float, dict[str, float]] = {}
    for name, rows in series.items():
        for row in finished(rows):
            entry = steps.setdefault(row["nfe"], {NFE: row["nfe"]})
            entry[scalar(name, row)] = row["score"]
            for metric, score in beside(row).items():
                entry[scalar(name, {**row, "metric": metric})] = score["value"]
    return [steps[nfe] for nfe in sorted(steps)]


def scalar(series: str, record: Record) -> str:
    """Name of the score of a series, over network calls."""
    return f"frontier/{tables.metric_key(record)}/{path_part(series)}"


def best(records: Sequence[Record]) -> dict[str, float | str]:
    """The best scores, in all and with at most each number of calls, and their samplers.

    `fid50k_best`, `fid50k_best_nfe10`, and `fid50k_best_sampler`, `fid50k_best_nfe10_sampler`: "dpmpp_2m@10". W&B
    sorts and filters runs reliably only by names of this form.
    """
    names = {id(record): name for name, group in tables.by_series(records).items() for record in group}
    done = finished(records)
    limits = sorted({record["nfe"] for record in done if float(record["nfe"]).is_integer()})
    out: dict[str, float | str] = {}
    for limit, suffix in ((math.inf, ""), *((limit, f"_nfe{limit}") for limit in limits)):
        # The last of a key counts, so the best comes last.
        for record in sorted((r for r in done if r["nfe"] <= limit), key=loss, reverse=True):
            key = f"{tables.metric_key(record)}_best{suffix}"
            out |= {key: record["score"], f"{key}_sampler": f"{names[id(record)]}@{record['nfe']}"}
    return out
