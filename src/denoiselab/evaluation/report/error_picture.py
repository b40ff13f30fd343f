"""The picture of `error_split.json`: scores beside the model's own error, and distances to a fine run, against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.cleaning import figure_text
from denoiselab.media import figures

NAME = "error_split.png"


def write(path: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Write the picture of the first group, that of the run just made; nothing without cells."""
    if not groups or not groups[0]["cells"]:
        return
    from matplotlib.figure import Figure  # slow to import

    group = groups[0]
    figure = Figure(figsize=(9.6, 4.4), dpi=130, layout="constrained")
    scores, distances = figure.subplots(1, 2)
    _draw_scores(scores, group)
    _draw_distances(distances, group)
    if group["sentences"]:
        figure.suptitle(figure_text(group["sentences"][0]), fontsize=10)
    figures.save(figure, path)


def _draw_scores(axes: Any, group: Mapping[str, Any]) -> None:
    low, high = group["model_error"]
    noise = max((end["standard_error"] or 0.0 for end in group["fine"]), default=0.0)
    axes.axhspan(low - noise, high + noise, color="0.85", label="model error (fine runs +- standard error)")
    axes.axhspan(low, high, color="0.65")
    for name, cells in _by_sampler(group["cells"]).items():
        errors = [cell["standard_error"] or 0.0 for cell in cells]
        style = "-" if "distance" in cells[0] else ":"
        label = name if "distance" in cells[0] else f"{name} (not the ODE)"
        axes.errorbar(
            [cell["network_evaluations"] for cell in cells], [cell["score"] for cell in cells],
            errors if any(errors) else None, marker="o", linestyle=style, capsize=2, label=figure_text(label),
        )  # fmt: skip
    if min(cell["score"] for cell in group["cells"]) > 0 and low - noise > 0:
        axes.set_yscale("log")
    axes.set(xscale="log", xlabel="network evaluations a sample", ylabel=f"{group['metric']} at n = {group['n']}")
    axes.legend(fontsize=8)


def _draw_distances(axes: Any, group: Mapping[str, Any]) -> None:
    for name, cells in _by_sampler(group["cells"]).items():
        if "distance" not in cells[0]:
            axes.plot([], [])  # the same colours as beside
            continue
        order = group["orders"].get(name)
        label = name if order is None else f"{name}: order {order['value']:.2f}"
        axes.errorbar(
            [cell["steps"] for cell in cells], [cell["distance"] for cell in cells],
            [cell["distance_standard_error"] or 0.0 for cell in cells], marker="o", capsize=2, label=figure_text(label),
        )  # fmt: skip
    axes.axhline(group["apart"], color="0.5", linestyle="--", linewidth=1, label="between the fine runs")
    if any(cell.get("distance", 0) > 0 for cell in group["cells"]):
        axes.set_yscale("log")
    axes.set(xscale="log", xlabel="steps", ylabel="distance to the fine run, in features")
    axes.legend(fontsize=8)


def _by_sampler(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    out: dict[str, list[Mapping[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["nfe"]):
        out.setdefault(cell["sampler"], []).append(cell)
    return out
