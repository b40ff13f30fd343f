"""Tables and pictures of a frontier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from denoiselab.cleaning import aligned, figure_text, line, path_part
from denoiselab.evaluation.records import (
    STRENGTH,
    Record,
    beside,
    depends_on_nfe,
    evaluations,
    finished,
    guidance_text,
    lower_is_better,
)
from denoiselab.evaluation.report.published_curves import Beside
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.verdicts.compare import DOMINATED, SURE, TIED
from denoiselab.evaluation.verdicts.frontiers import LEVEL, standings
from denoiselab.media import figures

WriteSheet = Callable[[Path, Sequence[Any], Sequence[str], str], None]


def write_pictures(store: Store, records: Sequence[Record], write_sheet: WriteSheet, level: float = LEVEL) -> None:
    """Write `frontier.png` and, for each series of finished cells, `samples/<series>.png`: the picture of each NFE.

    Marks of `frontier.png` are wrong with probability `level` at most.
    """
    done = finished(records)
    if not done:
        return
    _plot(store.directory / "frontier.png", done, standings(done, store.influences, level))
    for name, rows in by_series(done).items():
        strips = [read_strip(store.picture(r)) for r in rows]
        labels = [f"NFE {r['nfe']}: {digits(r['score'])}" for r in rows]
        title = f"{name}: {rows[0]['metric']} at {samples_of(rows)}"
        write_sheet(sheet_of(store.directory, name), strips, labels, title)


def sheet_of(directory: Path, series: str) -> Path:
    """Path of the picture of a series' samples."""
    return directory / "samples" / f"{path_part(series)}.png"


def by_series(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records grouped by sampler, guidance, weights and other code, each group by rising NFE.

    The name of a group has what differs between the groups. It has the code where some records are of the present
    code, or where one sampler's are of several codes: digests of different samplers always differ.
    """
    several_weights = len({record["weights"] for record in records}) > 1
    guided = len({guidance_text(record, always=True) for record in records}) > 1
    present = any(not record.get("other_code") for record in records)
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        words = [record["sampler"], *filter(None, [guidance_text(record, always=guided)])]
        if record.get("classifier_scale") is not None:
            words.append(f"classifier={record['classifier_scale']:g}")
        if several_weights:
            words.append(record["weights"])
        code = f" code={code_name(record)}" if record.get("other_code") else ""
        groups.setdefault(" ".join(words), {}).setdefault(code, []).append(record)
    return {
        name + (code if present or len(codes) > 1 else ""): sorted(group, key=lambda r: r["nfe"])
        for name, codes in groups.items()
        for code, group in codes.items()
    }


def code_name(record: Record) -> str:
    """Digest of the code that scored a cell or, for releases without one, the git revision or the version."""
    version = record.get("versions", {}).get("denoiselab", "unknown")
    return str(record.get("code_sha256") or record.get("git") or version)[:8]


def samples_of(records: Sequence[Record]) -> str:
    """The numbers of samples: `n = 512`, or `n = 256 to 4096` of a decided frontier."""
    least, most = min(record["n"] for record in records), max(record["n"] for record in records)
    return f"n = {records[0]['n']}" if least == most or not records[0].get("stop") else f"n = {least} to {most}"


def metric_key(record: Record) -> str:
    """The metric with its number of samples, distinct for each n: fid50k, fid_64_n50k."""
    metric, n = path_part(record["metric"]), record["n"]
    if record.get("stop"):  # of an n of its own
        return metric
    between = "_n" if metric[-1].isdigit() else ""
    return f"{metric}{between}{n // 1000}k" if n % 1000 == 0 else f"{metric}{between}{n}"


def named(records: Sequence[Record]) -> dict[str, float]:
    """The scores of finished cells by name: `fid50k/dpmpp_2m@10`."""
    return {
        f"{metric_key(record)}/{path_part(name)}@{record['nfe']}": record["score"]
        for name, rows in by_series(records).items()
        for record in finished(rows)
    }


def table(records: Sequence[Record], published: Beside | None = None) -> str:
    """A table of scores and seconds, one line a sampler, one column an NFE; published values below those of a sampler.

    Args:
        records: The cells.
        published: Values beside them.
    """
    first = records[0]
    budgets = sorted({record["nfe"] for record in records})
    weights = ", ".join(dict.fromkeys(record["weights"] for record in records))
    better = "lower" if lower_is_better(first) else "higher"
    title = f"{first['metric']} ({better} is better), {samples_of(records)}, weights = {weights}"
    if "floor" in first:
        title += f"; fresh data score {digits(first['floor'])}"
    if "codec_score" in first:
        title += f"; the codec's reconstructions of {first['codec_n']} images score {digits(first['codec_score'])}"
    series = by_series(records)

    def rows_of(text: Callable[[Record], str], theirs: Mapping[tuple[str, int], float]) -> str:
        lines = [["NFE", *map(str, budgets)]]
        for name, rows in series.items():
            own = {row["nfe"]: text(row) for row in rows}
            lines.append([name, *[own.get(budget, "") for budget in budgets]])
            known = [theirs.get((rows[0]["sampler"], budget)) for budget in budgets]
            if any(value is not None for value in known):
                lines.append(["  published", *["" if value is None else digits(value) for value in known]])
        return aligned(lines)

    def score_of(row: Record) -> str:
        return "failed" if row["score"] is None else f"{digits(row['score'])} ({row['seconds']:.0f}s)"

    def further_of(metric: str, row: Record) -> str:
        score = beside(row).get(metric)
        return "" if score is None else digits(score["value"])

    found = [line(title), rows_of(score_of, published.values if published else {})]
    further = {name: score["lower_is_better"] for record in records for name, score in beside(record).items()}
    for name, lower in further.items():
        better = "lower" if lower else "higher"
        found += [line(f"{name} ({better} is better)"), rows_of(partial(further_of, name), {})]
    notes = [f"{name}: {STRENGTH}" for name, rows in series.items() if depends_on_nfe(rows[0])]
    notes += [published.said] if published else []
    return "\n".join([*found, *map(line, notes)])


def digits(score: float) -> str:
    """A score with two or more significant digits."""
    size = abs(score)
    return f"{score:.2f}" if size >= 0.1 else f"{score:.4f}" if size >= 0.001 or not size else f"{score:.2g}"


def read_strip(path: Path) -> Any:
    """The pixels of a strip, as an array."""
    with Image.open(path, formats=("PNG",)) as image:  # PNG only: the file may be another's
        return image.copy()


# How cells are marked by their standing: hollow or not, opacity, and what it says of those of no more cost.
_MARKS = {
    SURE: (False, 1.0, "surely better than all of no more"),
    TIED: (True, 1.0, "ties with one of no more"),
    DOMINATED: (False, 0.3, "surely worse than one of no more"),
}


def _mark(axes: Any, x: Sequence[float], y: Sequence[float], colour: str, kind: str, **options: Any) -> None:
    hollow, alpha, _ = _MARKS[kind]
    look = {"color": colour, "markerfacecolor": "white" if hollow else colour, "alpha": alpha, "zorder": 3}
    axes.plot(x, y, "o", linestyle="none", markersize=6, **look, **options)


def _plot(path: Path, records: Sequence[Record], standing: Mapping[str, str]) -> None:
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, group in by_series(records).items():
        rows = sorted(group, key=evaluations)
        spent, scores = [evaluations(r) for r in rows], [r["score"] for r in rows]
        errors = [r["standard_error"] or 0.0 for r in rows]
        drawn = axes.errorbar(spent, scores, errors if any(errors) else None, capsize=2, label=figure_text(name))
        for record in rows:
            _mark(axes, [evaluations(record)], [record["score"]], drawn[0].get_color(), standing[record["cell"]])
    plain = all(evaluations(record) == record["nfe"] for record in records)
    for kind in (kind for kind in _MARKS if kind in standing.values()):
        _mark(axes, [], [], "0.3", kind, label=f"{_MARKS[kind][2]} {'calls' if plain else 'evaluations'}")
    if "floor" in records[0]:
        axes.axhline(records[0]["floor"], color="0.5", linestyle="--", linewidth=1, label="fresh data")
    if "codec_score" in records[0]:
        of = f"reconstructions of {records[0]['codec_n']} images"
        axes.axhline(records[0]["codec_score"], color="0.5", linestyle="--", linewidth=1, label=of)
    budgets = sorted({evaluations(record) for record in records})
    scores = [record["score"] for record in records]
    better = "lower" if lower_is_better(records[0]) else "higher"
    axes.set(
        xscale="log",
        xlabel="NFE (network calls per sample)" if plain else "network evaluations per sample",
        ylabel=figure_text(f"{records[0]['metric']} ({better} is better)"),
    )
    if min(scores) > 0:  # an unbiased estimate may be negative
        axes.set_yscale("log")
    axes.set_xticks(budgets, [f"{b:g}" for b in budgets], minor=False)
    axes.set_xticks([], minor=True)
    if 0 < max(scores) < 100 * min(scores):  # within two decades, plain numbers read better than powers of ten
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
    weights = ", ".join(dict.fromkeys(record["weights"] for record in records))
    title = figure_text(f"{samples_of(records)}, weights = {weights}, {records[0]['data']}")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, which="both")
    for columns in (3, 2, 1):  # the most that fit
        legend = figure.legend(frameon=False, loc="outside lower center", ncols=columns, fontsize=7)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    figures.save(figure, path)
