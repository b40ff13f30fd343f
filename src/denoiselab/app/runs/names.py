"""Names of runs: that of the directory, or for jobs of a sweep the swept options."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from denoiselab.app.config import stages

SWEEP = "sweep.csv"
SWEEP_RECORD = "sweep.json"

# Options of paths and output.
ASIDE = ("paths.", "hydra", "name=", "logger", "traceback")

# Longer lists of options do not fit into a legend.
_LONGEST = 80


def job_overrides() -> list[str]:
    """The overrides of this job, with its own values of the swept ones in a multirun."""
    return [*HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def run_name(directory: Path) -> str:
    """The name of this job's run: of a job of a sweep the swept options, else that of the directory."""
    try:
        swept = json.loads((directory.absolute().parent / SWEEP_RECORD).read_text(encoding="utf-8"))["swept"]
        # Not by the command line: a launcher's processes have one of their own.
        own = [text for text in job_overrides() if text.partition("=")[0].lstrip("+~") in swept]
    except (OSError, ValueError, KeyError, TypeError):
        own = []
    name = directory.absolute().name
    if name.startswith(stages.FOLDER):
        return f"{run_name(directory.absolute().parent)} {name}"
    return " ".join(own) or name


def name_of(directory: Path) -> str:
    """The name of a former run."""
    return str(_last_start(directory).get("name") or directory.absolute().name)


def distinct(directories: Sequence[Path]) -> list[str]:
    """Distinct names of different runs: the overrides in which they differ, with directories where that is not enough.

    Jobs of a sweep have numbers as directories, so their names are these overrides alone.
    """
    given = [overrides_of(directory) for directory in directories]
    shared = set.intersection(*map(set, given)) if given else set()
    differing = [" ".join(text for text in own if text not in shared and not text.startswith(ASIDE)) for own in given]
    enough = len(set(differing)) == len(differing) and all(0 < len(options) <= _LONGEST for options in differing)
    names = []
    for directory, base, options in zip(directories, distinct_ends(directories), differing, strict=True):
        if enough or (_is_job(directory) and options):
            names.append(options)
        else:
            names.append(f"{base} {options}".strip() if len(options) <= _LONGEST else base)
    bases = distinct_ends(directories)
    return [f"{n} ({base})" if names.count(n) > 1 else n for n, base in zip(names, bases, strict=True)]


def distinct_ends(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct ends of different paths."""
    parts = [path.absolute().parts for path in paths]
    depth = next(d for d in range(1, 1000) if len({part[-d:] for part in parts}) == len(parts))
    return ["/".join(part[-depth:]) for part in parts]


def _is_job(directory: Path) -> bool:
    return directory.absolute().name.isdigit() and (directory.absolute().parent / SWEEP).is_file()


def overrides_of(directory: Path) -> list[str]:
    """The overrides of the last start of a run; runs of version 0.1 have them in the table of their sweep."""
    start = _last_start(directory)
    if isinstance(start.get("overrides"), list):
        return [str(text) for text in start["overrides"]]
    if _is_job(directory):
        with (directory.absolute().parent / SWEEP).open(newline="", encoding="utf-8") as file:
            rows = {row.get("job"): row.get("overrides") or "" for row in csv.DictReader(file)}
        return rows.get(directory.absolute().name, "").split()
    command = start.get("command")
    return [str(text) for text in command[1:] if "=" in str(text)] if isinstance(command, list) else []


def _last_start(directory: Path) -> dict[str, Any]:
    try:
        start = json.loads((directory / "run.json").read_text(encoding="utf-8"))["starts"][-1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}
    return start if isinstance(start, dict) else {}
