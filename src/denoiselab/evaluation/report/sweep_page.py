"""One self-contained HTML page of a sweep."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.evaluation.report import sweep_texts as texts
from denoiselab.evaluation.report.sweep_picture import axes_of
from denoiselab.evaluation.report.sweep_ranking import Ranking
from denoiselab.files import write_text

PAGE = "sweep.html"


def write_page(
    path: Path,
    ranked: Ranking,
    links: Mapping[str, str],
    commands: Sequence[str] = (),
    panels: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page, atomically.

    Args:
        path: The HTML file.
        ranked: The sweep.
        links: Job to the page of its run, relative to this one.
        commands: What to do next, for a shell.
        panels: Tables of cells over trainings: title, heads, rows and sentences.
    """
    from plotly.offline import get_plotlyjs  # slow to import

    groups, jobs = texts.group_rows(ranked), texts.job_rows(ranked)
    content = {
        "headline": texts.headline(ranked),
        "remarks": texts.remarks(ranked),
        "counts": _counts(ranked),
        "axes": [one._asdict() for one in axes_of(ranked)],
        "group_heads": groups[0],
        "groups": groups[1:] if ranked.over_seeds else [],
        "job_heads": jobs[0],
        "jobs": [
            {
                "texts": row,
                "final": one.final,
                "link": links.get(one.number),
                "hover": f"job {one.number}: {texts.options_text(one.shown(ranked.options))}: {row[-4] or one.status}",
            }
            for one, row in zip(ranked.jobs, jobs[1:], strict=True)
        ],
        "reasons": texts.reasons(ranked),
        "commands": [*commands],
        "panels": [*panels],
    }
    files = {"page": "sweep.html", "style": "page.css", "script": "sweep.js"}
    read = {part: (Path(__file__).parent / name).read_text(encoding="utf-8") for part, name in files.items()}
    # Inside a string "</script>" would end the script, and "<!--<script>" would keep it from ending.
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    title = html.escape(path.absolute().parent.name)
    parts = {**read, "title": title, "data": data, "plotly": get_plotlyjs()}
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], read["page"]))


def _counts(ranked: Ranking) -> str:
    found = Counter(one.status for one in ranked.jobs)
    seconds = [one.seconds for one in ranked.jobs if one.seconds is not None]
    spent = f"; {texts.time_text(sum(seconds))} of job time" if seconds else ""
    return f"{len(ranked.jobs)} jobs: {', '.join(f'{count} {status}' for status, count in found.items())}{spent}"
