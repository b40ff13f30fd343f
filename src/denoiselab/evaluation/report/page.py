"""One self-contained HTML page with the frontiers of one or many runs."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from PIL import Image

from denoiselab.evaluation.records import (
    STRENGTH,
    Record,
    comparable,
    depends_on_nfe,
    evaluations,
    guidance_text,
    measured,
    rule,
)
from denoiselab.evaluation.report import error_picture
from denoiselab.evaluation.report.comparisons import comparisons
from denoiselab.evaluation.report.profiles import profiles
from denoiselab.evaluation.report.published_curves import published_curves
from denoiselab.evaluation.report.spent import circular, spent, training_of
from denoiselab.evaluation.report.tables import by_series, code_name
from denoiselab.evaluation.store import Store, mark_code
from denoiselab.evaluation.verdicts import Estimate, Influences
from denoiselab.evaluation.verdicts.frontiers import LEVEL, estimate
from denoiselab.evaluation.verdicts.published import Paper
from denoiselab.files import write_text

PAGE = "frontier.html"

# Pixels of a tile above which it is shrunk, and above which it is compressed with loss, to limit the page's size.
_TILE, _EXACT = 64, 32
_COLUMNS = 4
# Of a cell, what the page is made from and does not hold.
_OWN = ("estimates", "record")
_GAP: dict[str, Any] = {"L": 96, "RGB": (96, 96, 96)}


class PageRun(NamedTuple):
    """The content of a page from one run.

    Attributes:
        name: Distinct from the others' names.
        store: Its cells and their pictures.
        curve: Rows of `metrics.csv`.
        config: `config.yaml` as text.
        training: What its training used, as of `training_of`.
    """

    name: str
    store: Store
    curve: list[dict[str, str]]
    config: str
    training: Mapping[str, Any] = MappingProxyType({})


def page_run(name: str, directory: Path) -> PageRun:
    """A run from its directory; missing files count as empty."""
    metrics, config = directory / "metrics.csv", directory / "config.yaml"
    curve: list[dict[str, str]] = []
    if metrics.is_file():
        with metrics.open(newline="", encoding="utf-8", errors="replace") as file:
            curve = list(csv.DictReader(file))
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return PageRun(name, Store(directory), curve, text, training_of(directory))


def write_page(
    path: Path,
    runs: Sequence[PageRun],
    asked: Collection[str] = (),
    papers: Sequence[Paper] = (),
    panels: Sequence[Mapping[str, Any]] = (),
    level: float = LEVEL,
) -> int:
    """Write the page, atomically.

    Args:
        path: The HTML file.
        runs: With different names.
        asked: Hashes (`cell`) of the cells that the page shows first.
        papers: With published values to show beside the cells.
        panels: Scores over several trainings, as of `panel_of`, each with the names of its `runs`.
        level: Probability of any wrong verdict.

    Returns:
        The number of its cells, failed ones included.

    Raises:
        ValueError: If no run has a cell.
    """
    from plotly.offline import get_plotlyjs  # slow to import

    cells = [cell for run in runs for cell in _cells(run)]
    cells.sort(
        key=lambda cell: (cell["cell"] in asked, cell["scored"] or "")
    )  # JavaScript takes the last for the latest
    if not cells:
        where = ", ".join(str(run.store.directory) for run in runs) or "none"
        raise ValueError(f"runs={where}: no cell of a frontier there.")
    content = {
        "cells": [{key: value for key, value in cell.items() if key not in _OWN} for cell in cells],
        "curves": [{"run": run.name, **_curve(run.curve)} for run in runs],
        "configs": [{"run": run.name, "text": run.config} for run in runs if run.config],
        "spent": _spent(runs, cells),
        "comparisons": comparisons(cells, level),
        "panels": [*panels],
        "errors": [{"run": run.name, "picture": picture} for run in runs if (picture := _error_split(run)) is not None],
        "profiles": profiles({run.name: run.store.directory for run in runs}),
        "published": published_curves(papers, cells, {run.name: run.config for run in runs}),
    }
    names = ", ".join(run.name for run in runs[:3]) + (" and others" if runs[3:] else "")
    files = {
        "page": "page.html",
        "style": "page.css",
        "answer": "answer.js",
        "tables": "tables.js",
        "script": "plots.js",
    }
    read = {part: (Path(__file__).parent / name).read_text(encoding="utf-8") for part, name in files.items()}
    # Inside a string "</script>" would end the script, and "<!--<script>" would keep it from ending.
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    parts = {**read, "title": html.escape(names), "data": data, "plotly": get_plotlyjs()}
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], read["page"]))
    return len(cells)


def _cells(run: PageRun) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    stored = run.store.read().values()
    mark_code(stored)
    for record in stored:
        groups.setdefault(comparable(record), []).append(record)
    for group in groups.values():
        for series, records in by_series(group).items():
            rules = list(dict.fromkeys(rule(record) for record in records))
            for record in records:
                # One line is one model by one rule, but `by_series` groups by names.
                number = f" #{rules.index(rule(record)) + 1}" if rules[1:] else ""
                yield _cell(run, series + number, record)


def _spent(runs: Sequence[PageRun], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each run whose training is known, what it spent up to its newest cell, and why its scores are circular."""
    out = []
    for run in (run for run in runs if run.training):
        own = [cell for cell in cells if cell["run"] == run.name]
        costs = spent(run.training, max((cell["images_seen"] or 0 for cell in own), default=0))
        why = {reason for cell in own if (reason := circular(run.training, cell["record"])) is not None}
        out += [{"run": run.name, **costs, "circular": sorted(why)}] if costs else []
    return out


def _cell(run: PageRun, series: str, record: Record) -> dict[str, Any]:
    extractor, reference, stop = record["extractor_sha256"][:8], record["reference_sha256"][:8], record.get("stop")
    measure = {
        "metric": record["metric"],
        "n": f"n = {record['n']:,}" if not stop else f"decided with n <= {stop['max_samples']:,}",
        "data": f"{record['data']} ({record['split']})",
        "seed": f"seed {record['seed']}",
        "extractor": f"extractor {record['extractor']} {extractor}",
        "reference": f"reference {record['reference_n']:,} images {reference}",
        "options": _text(record.get("metrics")),
        "versions": _text({k: v for k, v in record.get("versions", {}).items() if k != "denoiselab"}),
    }
    picture = run.store.picture(record)
    keys = (
        "sampler", "nfe", "steps", "network_evaluations", "score", "standard_error", "n", "weights", "guidance",
        "images_seen", "seconds_per_1k_images", "ms_per_sample", "flops_per_sample", "timed_batch", "call_ms",
        "evaluation_ms", "rule_ms", "decode_ms", "peak_memory_mb", "device", "device_name", "devices", "seed", "metric",
        "cell", "weights_sha256", "git", "git_changes", "floor", "codec_score", "columns", "error", "scored",
        "other_code", "stopped",
    )  # fmt: skip
    spent = evaluations(record) if record.get("network_evaluations") is not None else None
    return {
        **{key: record.get(key) for key in keys},
        "network_evaluations": spent,
        "guide_evaluations": record.get("guide_evaluations"),
        "guided": guidance_text(record),
        "strength": STRENGTH if depends_on_nfe(record) else None,
        "run": run.name,
        "series": series,
        "measure": measure,
        "group": hashlib.sha256("\n".join(measured(record)).encode()).hexdigest(),
        "versions": _text(record.get("versions")),
        "code": code_name(record) + (", another version of the code" if record["other_code"] else ""),
        "grid": _grid(record.get("settings", {})),
        "settings": _text({k: v for k, v in record.get("settings", {}).items() if k != "steps"}),
        "scores": record["scores"],
        "estimates": _estimates(record, run.store.influences(record)),
        "record": record,
        "picture": _picture(picture, record.get("shape", []), len(record.get("columns") or ()) or _COLUMNS),
    }


def _estimates(record: Record, influences: Mapping[str, Influences]) -> dict[str, Estimate]:
    return {
        metric: estimate(record, influences, metric)
        for metric, score in (record["scores"] or {}).items()
        if score["value"] is not None and score.get("standard_error") is not None
        if not record.get("stop") or metric == record["metric"]  # of different n, which it alone decided
    }


def _grid(settings: Mapping[str, Any]) -> str | None:
    """The name of a sampler's grid in words: `uniform time`."""
    name = str((settings.get("spacing") or {}).get("_target_", "")).rpartition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower() or None


def _text(node: Any) -> str:
    """A part of a configuration as short text: `DDIM (eta 0, spacing UniformTime)`."""
    if isinstance(node, list):
        return " ".join(_text(item) for item in node)
    if not isinstance(node, dict):
        return str(node) if node is not None else ""
    name = str(node.get("_target_", "")).rpartition(".")[2]
    inner = ", ".join(f"{key} {_text(value)}" for key, value in node.items() if key != "_target_" and value is not None)
    return f"{name} ({inner})" if name and inner else name or inner


def _picture(path: Path, shape: Sequence[int], columns: int) -> str | None:
    """A cell's picture as a data URI; None if it is missing or damaged."""
    try:
        return _embedded(path, shape, columns)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _error_split(run: PageRun) -> str | None:
    """The picture of a run's solver error and model error as a data URI; None if it is missing or damaged."""
    buffer = io.BytesIO()
    try:
        with Image.open(run.store.directory / error_picture.NAME, formats=("PNG",)) as picture:
            picture.convert("RGB").save(buffer, "PNG", optimize=True)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _embedded(path: Path, shape: Sequence[int], columns: int) -> str:
    """A cell's picture as a data URI; a strip of images is folded to rows of `columns`."""
    with Image.open(path, formats=("PNG",)) as opened:  # PNG only: the file may be another's
        picture = opened.convert("L" if opened.mode == "L" else "RGB")
    if len(shape) == 3:
        (_, height, width), count = shape, picture.width // shape[2]
        scale = min(1.0, _TILE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        step = (size[0] + 1, size[1] + 1)  # a line between tiles
        folded = Image.new(
            picture.mode, (columns * step[0] - 1, -(-count // columns) * step[1] - 1), _GAP[picture.mode]
        )
        for number in range(count):
            tile = picture.crop((number * width, 0, (number + 1) * width, height)).resize(
                size, Image.Resampling.LANCZOS
            )
            folded.paste(tile, (number % columns * step[0], number // columns * step[1]))
        picture = folded  # the browser enlarges it
        exact = max(size) <= _EXACT
    else:
        exact = True
    buffer = io.BytesIO()
    kind, options = ("PNG", {"optimize": True}) if exact else ("JPEG", {"quality": 90})
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _curve(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Images seen and values of the loss and of the scores during training."""
    names = [name for name in (rows[0] if rows else {}) if name == "train/loss" or name.startswith("score/")]
    lines = {}
    for name in names:
        points = [(_number(row.get("images_seen")), _number(row.get(name))) for row in rows]
        points = [(x, y) for x, y in points if x is not None and y is not None]
        lines[name] = {"x": [x for x, _ in points], "y": [y for _, y in points]}
    return {"lines": lines}


def _number(text: str | None) -> float | None:
    """A finite number of a file that may have been edited."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
