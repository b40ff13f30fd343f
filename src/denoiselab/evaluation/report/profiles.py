"""The losses of models by noise level, as a page shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.evaluation.level_losses import FOLDER, HELD_OUT_FILE, LOSSES_FILE

# What a line of the plot is called by, where it differs between lines.
_NAMES = ("run", "images_seen", "weights", "split")


def profiles(runs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The profiles in the directories of runs, by name of the run: each with `name`, `lam`, `loss` and `error`.

    They are that of the end of a training, and those of `task=losses`. Damaged files are left out; the first files of a
    training have no standard errors, and their lines no bars.
    """
    found = [{**record, "run": run} for run, directory in runs.items() for record in _records(directory)]
    differing = [key for key in _NAMES if len({str(record.get(key)) for record in found}) > 1] or ["weights", "split"]
    return [
        {
            "name": " · ".join(_text(key, record.get(key)) for key in differing if record.get(key)),
            "lam": [float(level["lam"]) for level in record["levels"]],
            "loss": [float(level["loss"]) for level in record["levels"]],
            "error": [float(level["standard_error"] or 0) for level in record["levels"]],
        }
        for record in found
    ]


def _records(directory: Path) -> Iterator[Mapping[str, Any]]:
    for path in (directory / HELD_OUT_FILE, *sorted((directory / FOLDER).glob(f"*/{LOSSES_FILE}"))):
        try:
            record = _read(json.loads(path.read_text(encoding="utf-8")))
            if _is_profile(record["levels"]):
                yield record
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _read(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record; the first ones were names of levels, `held_out/loss_lam-4`, and their losses."""
    if "levels" in record:
        return record
    named = ((name.partition("_lam")[2], loss) for name, loss in record.items())
    levels = [{"lam": float(lam), "loss": loss, "standard_error": None} for lam, loss in named if lam]
    return {"weights": "end of training", "split": "held_out", "levels": levels} if levels else {}


def _is_profile(levels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all its numbers are finite, so that they can be written to a page."""
    return all(math.isfinite(level[key] or 0) for level in levels for key in ("lam", "loss", "standard_error"))


def _text(key: str, value: Any) -> str:
    return f"{value:,} images" if key == "images_seen" and isinstance(value, int) else str(value).replace("_", " ")
