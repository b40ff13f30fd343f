"""The picture of a model of points on the plane: data, samples, score field and trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoiselab.cleaning import figure_text
from denoiselab.conditioners import Clean
from denoiselab.denoiser import Denoise, Prediction
from denoiselab.evaluation.report import tables
from denoiselab.media import figures
from denoiselab.media.kinds import COLOURS, EXTENT, histogram
from denoiselab.model import Drawing, Model
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import DDIM, Sampler
from denoiselab.schedules import Level

SAMPLES, DATA = 10_000, 200_000
RHO = 0.15  # the score field's noise-to-signal ratio: about the width of the thinnest data
_BINS, _ARROWS = 150, 25
_PATHS, _PATH_STEPS = 40, 60


class _Recorder:
    """A denoiser that records the x of each call, at unit variance: x / |(alpha, sigma)|."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.recorded: list[Tensor] = []

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        self.recorded.append(x / math.hypot(float(level.alpha), float(level.sigma)))
        return self._denoise(x, level)


@torch.no_grad()
def write_picture(
    path: Path,
    model: Model,
    sampler: Sampler,
    record: Mapping[str, Any],
    data: Tensor,
    method: str,
    check: Callable[[object], None] = lambda moment: None,
) -> None:
    """Write four panels on [-3, 3]^2: data, samples, learned score, paths from noise to data.

    The score is that of x / alpha at sigma / alpha = 0.15, over the log density of the data with that noise; a
    conditional model's is that of class 0. The paths are those of DDIM in 60 steps of the sampler's spacing, in
    x / sqrt(alpha^2 + sigma^2).

    Args:
        path: The PNG.
        model: Of points, with the weights of the cell.
        sampler: Of the samples.
        record: Of the cell.
        data: Fresh points `(n, 2)`.
        method: Objective and schedule, for the title.
        check: Called between sampling steps; an exception stops the run.
    """
    from matplotlib.figure import Figure  # slow to import

    drawing = Drawing(sampler, record["seed"], record["steps"])
    samples, _ = model.draw(torch.arange(min(SAMPLES, record["n"])), drawing, check)
    figure = Figure(figsize=(13, 3.9), dpi=130, layout="constrained")
    floor = f", fresh data {tables.digits(record['floor'])}" if "floor" in record else ""
    figure.suptitle(
        figure_text(
            f"{record['data']}: {method}; {record['sampler']}, NFE {record['nfe']}: {record['metric']} "
            f"{tables.digits(record['score'])}{floor} (n = {record['n']})"
        ),
        fontsize=11,
    )
    panels = figure.subplots(1, 4)
    for axes, points, title in ((panels[0], data, "data"), (panels[1], samples.cpu(), "samples")):
        _density(axes, points[: len(samples)])
        axes.set_title(title, fontsize=10)
    _score_field(panels[2], model, data)
    _trajectories(panels[3], model, sampler, record["seed"], data)
    for axes in panels:
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        axes.tick_params(labelsize=8, length=2)
    figures.save(figure, path)


def _density(axes: Any, points: Tensor) -> None:
    axes.scatter(*points[:, :2].numpy().T, s=1.2, alpha=0.35, linewidths=0, color="#1f4e8c", rasterized=True)


def _backdrop(axes: Any, values: Any, **options: Any) -> None:
    axes.imshow(values, extent=(-EXTENT, EXTENT, -EXTENT, EXTENT), interpolation="bilinear", **options)


def _score_field(axes: Any, model: Model, data: Tensor) -> None:
    """Arrows of -eps / rho, as long as the fourth root of the score's size, over the smoothed data's log density."""
    from scipy.ndimage import gaussian_filter

    density = gaussian_filter(histogram(data, _BINS), RHO * _BINS / (2 * EXTENT))
    shown = np.log(density / density.max() + 1e-12)
    _backdrop(axes, shown, cmap=COLOURS, vmin=-7, vmax=0.8)
    denoiser, device = model.denoiser, model.device
    side = torch.linspace(-EXTENT, EXTENT, _ARROWS + 2)[1:-1]
    grid = torch.cartesian_prod(side, side).to(device)
    level = denoiser.schedule.at(torch.tensor(-math.log(RHO), dtype=torch.float64))
    cond = model.conditioner.given(Clean.blank(len(grid), (2,), device))
    score = -denoiser(level.alpha.float() * grid, level, cond).eps.cpu() / float(level.rho)
    arrows = score / score.norm(dim=1, keepdim=True).clamp_min(1e-12).pow(0.75)
    of_class = " of class 0" if cond.class_label is not None else ""
    axes.quiver(
        *grid.cpu().numpy().T, *arrows.numpy().T, angles="xy", scale_units="xy", scale=12, width=0.0035,
        color="#b3331f", pivot="mid",
    )  # fmt: skip
    axes.set_title(f"learned score{of_class} at $\\sigma/\\alpha$ = {float(level.rho):.2f}", fontsize=10)


def _trajectories(axes: Any, model: Model, sampler: Sampler, seed: int, data: Tensor) -> None:
    from matplotlib.collections import LineCollection

    axes.scatter(*data[:3000, :2].numpy().T, s=1, alpha=0.25, linewidths=0, color="0.6", rasterized=True)
    index = torch.arange(_PATHS, device=model.device)
    recorder = _Recorder(model.bound(index))
    rule = DDIM(sampler.spacing, _PATH_STEPS)
    last = rule(recorder, model.denoiser.schedule, (2,), Noise(seed, index, SAMPLING))
    paths = torch.stack([*recorder.recorded, last]).cpu().numpy()  # (T, B, 2)
    for path in paths.transpose(1, 0, 2):
        pieces = np.stack((path[:-1], path[1:]), axis=1)
        lines = LineCollection(list(pieces), cmap="viridis", array=np.arange(len(pieces)), linewidths=1, alpha=0.9)
        axes.add_collection(lines)
    axes.scatter(*paths[0].T, s=9, color="#440154", linewidths=0, zorder=3, label="noise")
    axes.scatter(*paths[-1].T, s=12, color="#d9731a", edgecolor="white", linewidths=0.4, zorder=4, label="samples")
    axes.legend(frameon=False, fontsize=8, loc="upper right", handletextpad=0.1, borderpad=0.1)
    axes.set_title("trajectories, at unit variance", fontsize=10)
