"""Tables and pictures of a frontier."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from denoiselab.files import atomic

Record = dict[str, Any]
WriteSheet = Callable[[Path, Sequence[Any], Sequence[str], str], None]


def write_records(directory: Path, records: Sequence[Record]) -> None:
    """Write `frontier.json` (whole records) and `frontier.csv` (a row a cell), atomically."""
    with atomic(directory / "frontier.json", "w") as file:
        json.dump(records, file, indent=1)
    columns = dict.fromkeys(key for record in records for key in record)
    with atomic(directory / "frontier.csv", "w") as file:
        writer = csv.DictWriter(file, [*columns])
        writer.writeheader()
        for record in records:
            writer.writerow({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in record.items()})


def picture_of(directory: Path, record: Record) -> Path:
    """Where the picture of a cell's samples is."""
    return directory / "samples" / "cells" / f"{record['sampler']}_nfe{record['nfe']:04d}_{record['cell'][:8]}.png"


def write_pictures(directory: Path, records: Sequence[Record], write_sheet: WriteSheet) -> None:
    """Write `frontier.png` and, for each sampler, `samples/<sampler>.png`: the picture of each NFE."""
    _plot(directory / "frontier.png", records)
    for sampler, rows in by_sampler(records).items():
        strips = [read_strip(picture_of(directory, r)) for r in rows]
        labels = [f"NFE {r['nfe']}: {digits(r['score'])}" for r in rows]
        title = f"{sampler}: {rows[0]['metric']} at n = {rows[0]['n']}"
        write_sheet(directory / "samples" / f"{sampler}.png", strips, labels, title)


def by_sampler(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records grouped by sampler, each group by rising NFE."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["sampler"], []).append(record)
    return {name: sorted(group, key=lambda r: r["nfe"]) for name, group in groups.items()}


def table(records: Sequence[Record]) -> Table:
    """Samplers by NFE: the score, and the seconds it took."""
    first = records[0]
    budgets = sorted({record["nfe"] for record in records})
    title = f"{first['metric']} (lower is better), n = {first['n']}, weights = {first['weights']}"
    if "floor" in first:
        title += f"; fresh data score {digits(first['floor'])}"
    out = Table(title=title, title_justify="left")
    out.add_column("NFE")
    for budget in budgets:
        out.add_column(str(budget), justify="right")
    for sampler, rows in by_sampler(records).items():
        cells = {row["nfe"]: f"{digits(row['score'])} ({row['seconds']:.0f}s)" for row in rows}
        out.add_row(sampler, *[cells.get(budget, "") for budget in budgets])
    return out


def digits(score: float) -> str:
    """A score for people."""
    return f"{score:.2f}" if score >= 0.1 else f"{score:.4f}"


def grid(images: Tensor, columns: int, gap: int = 0) -> Tensor:
    """Tile images `(N, C, H, W)` into one `(C, rows (H + gap), columns (W + gap))`; gaps grey, empty places black."""
    images = torch.nn.functional.pad(images, (0, gap, 0, gap), value=96)
    n, c, h, w = images.shape
    rows = -(-n // columns)
    padded = torch.cat((images, images.new_zeros(rows * columns - n, c, h, w)))
    return padded.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def write_png(path: Path, image: Tensor, scale: int = 1) -> None:
    """Write a `(C, H, W)` uint8 image (C = 1 or 3), each pixel as a square of `scale`, atomically."""
    pixels = image.permute(1, 2, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    with atomic(path) as file:
        file.write(buffer.getvalue())


def write_strip(path: Path, images: Tensor) -> None:
    """Write images `(N, C, H, W)` side by side at their own size."""
    write_png(path, grid(images, len(images)))


def read_strip(path: Path) -> Any:
    """The pixels of a strip, as an array."""
    with Image.open(path) as image:
        return image.copy()


def magnification(height: int) -> int:
    """How much small images are enlarged so that a person can see them: to about 64 pixels."""
    return max(1, 64 // height)


def _plot(path: Path, records: Sequence[Record]) -> None:
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for sampler, rows in by_sampler(records).items():
        axes.plot([r["nfe"] for r in rows], [r["score"] for r in rows], marker="o", label=sampler)
    if "floor" in records[0]:
        axes.axhline(records[0]["floor"], color="0.5", linestyle="--", linewidth=1, label="fresh data")
    budgets = sorted({record["nfe"] for record in records})
    axes.set(xscale="log", yscale="log", xlabel="NFE (network calls per sample)", ylabel=records[0]["metric"])
    axes.set_xticks(budgets, [str(b) for b in budgets], minor=False)
    axes.set_xticks([], minor=True)
    scores = [record["score"] for record in records]
    if max(scores) < 100 * min(scores):  # within two decades, plain numbers read better than powers of ten
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.set_title(f"n = {records[0]['n']}, weights = {records[0]['weights']}, {records[0]['data']}", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    save(figure, path)


def write_rows(path: Path, strips: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """Write strips one below the other, each with its label on the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.75 * len(strips) + 0.4), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, strip, label in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips, labels, strict=True):
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    save(figure, path)


def write_columns(path: Path, panels: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """Write square panels side by side, each with its label above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(2.3 * len(panels), 4.6), 2.9), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, panel, label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, labels, strict=True):
        axes.imshow(panel)
        axes.set(xticks=[], yticks=[])
        axes.set_title(label, fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic(path) as file:
        figure.savefig(file, format="png")
