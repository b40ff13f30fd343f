"""The picture of a sweep: parallel coordinates, a line a job through its options to its value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denoiselab.cleaning import figure_text
from denoiselab.evaluation.report.sweep_ranking import Ranking
from denoiselab.evaluation.report.sweep_texts import headline
from denoiselab.media import figures

NAME = "sweep.png"

# An axis is logarithmic where its ends are this far apart.
_DECADES = 20
_TICKS = 6  # up to so many values each have a tick of their own
_LONGEST = 18  # letters of a tick


class Axis(NamedTuple):
    """A vertical axis.

    Attributes:
        name: Of the option, or of the value.
        places: Of the jobs, in [0, 1]; None for a job without this option.
        ticks: Their places and texts.
    """

    name: str
    places: Sequence[float | None]
    ticks: Sequence[tuple[float, str]]


def axis(name: str, texts: Sequence[str | None]) -> Axis:
    """The axis of an option: of numbers by size, on a logarithmic scale where they differ much, else of names."""
    numbers = [None if text is None else _number(text) for text in texts]
    if all((number is None) == (text is None) for number, text in zip(numbers, texts, strict=True)):
        return _numeric(name, numbers)
    names = list(dict.fromkeys(text for text in texts if text is not None))
    at = {text: 0.5 if len(names) == 1 else place / (len(names) - 1) for place, text in enumerate(names)}
    return Axis(name, [None if text is None else at[text] for text in texts], [(at[text], text) for text in names])


def _numeric(name: str, numbers: Sequence[float | None]) -> Axis:
    known = sorted({number for number in numbers if number is not None})
    if not known:
        return Axis(name, [*numbers], [])
    logarithmic = known[0] > 0 and known[-1] >= _DECADES * known[0]
    scale = math.log if logarithmic else float
    low, high = scale(known[0]), scale(known[-1])

    def place(number: float) -> float:
        return (scale(number) - low) / (high - low) if high > low else 0.5

    ticks = known
    if len(known) > _TICKS:
        steps = [low + (high - low) * step / (_TICKS - 1) for step in range(_TICKS)]
        ticks = [math.exp(step) if logarithmic else step for step in steps]
    return Axis(
        name,
        [None if number is None else place(number) for number in numbers],
        [(place(tick), f"{tick:.4g}") for tick in ticks],
    )


def axes_of(ranked: Ranking) -> list[Axis]:
    """The axes of a sweep's options, then that of its values."""
    options = [axis(name, [one.options.get(name) for one in ranked.jobs]) for name in ranked.options]
    return [*options, _numeric(ranked.metric, [one.value if one.final else None for one in ranked.jobs])]


def write_picture(path: Path, ranked: Ranking, most: int = 12) -> None:
    """Write the picture; jobs without a final value end at a cross below the axis of values.

    Args:
        path: The PNG.
        ranked: The sweep.
        most: Options that it shows, the first ones.
    """
    from matplotlib.figure import Figure  # slow to import

    *options, values = axes_of(ranked)
    axes_ = [*options[:most], values]
    figure = Figure(figsize=(max(4.5, 1.9 * len(axes_) + 1), 4.4), dpi=120, layout="constrained")
    figure.suptitle(figure_text(headline(ranked)), fontsize=9, wrap=True)
    axes = figure.add_subplot()
    for number in reversed(range(len(ranked.jobs))):  # the best one last, on top of the others
        _line(axes, axes_, number, ranked)
    for x, one in enumerate(axes_):
        axes.axvline(x, color="0.35", linewidth=0.8, zorder=1)
        for at, text in one.ticks:
            label = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
            box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
            axes.annotate(
                figure_text(label), (x, at), (3, 0), textcoords="offset points", fontsize=7, va="center", bbox=box,
                zorder=5,
            )  # fmt: skip
    axes.set_xticks(range(len(axes_)), [figure_text(one.name) for one in axes_], fontsize=8)
    axes.tick_params(axis="x", length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    lost = ranked.ranked < len(ranked.jobs)
    axes.set(xlim=(-0.15, len(axes_) - 0.5), ylim=(-0.17 if lost else -0.05, 1.05), yticks=[])
    axes.set_xlabel("lower is better; a line is a job" + _beside(ranked, most), fontsize=8)
    axes.spines[:].set_visible(False)
    figures.save(figure, path)


def _line(axes: Any, shown: Sequence[Axis], number: int, ranked: Ranking) -> None:
    from matplotlib import colormaps

    one, last = ranked.jobs[number], len(shown) - 1
    places = [(x, place) for x, a in enumerate(shown) if (place := a.places[number]) is not None]
    if one.final:
        share = number / max(1, ranked.ranked - 1)
        best = number == 0
        colour = "#c8372d" if best else colormaps["viridis"](0.1 + 0.8 * share)
        axes.plot(*zip(*places, strict=True), color=colour, linewidth=2.6 if best else 1.1, zorder=4 if best else 3)
        axes.plot(last, places[-1][1], "o", color=colour, markersize=6 if best else 3, zorder=4 if best else 3)
    else:
        places.append((last, -0.12))
        axes.plot(*zip(*places, strict=True), color="0.7", linewidth=0.9, linestyle=":", zorder=2)
        axes.plot(last, -0.12, "x", color="0.4", markersize=5)
        axes.annotate("no value", (last, -0.12), (6, 0), textcoords="offset points", fontsize=7, va="center")


def _beside(ranked: Ranking, most: int) -> str:
    left = len(ranked.options) - most
    return f"; {left} more options are not shown" if left > 0 else ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
