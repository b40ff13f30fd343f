"""Draws docs/pages/pictures/samplers.png: paths of samplers in one dimension, and their errors against network calls.

    python docs/sampler_picture.py

The data are a mixture whose predictions and flow are known in closed form, so nothing is trained; some seconds.
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import denoiselab
from denoiselab.noise import Noise
from denoiselab.samplers import Trajectory
from denoiselab.schedules import Level, VPLinear
from denoiselab.testing.oracles import F64, flow_map, mixture

OUT = Path(__file__).parent / "pages" / "pictures" / "samplers.png"
PATHS = {"ddim": "#3f7fd0", "heun": "#d08a2f", "dpmpp_2m": "#35a07a", "ancestral": "#c2569b"}
ERRORS = {
    "ddim": "#3f7fd0",
    "heun": "#d08a2f",
    "dpm_solver_2s": "#b9a13a",
    "ipndm": "#8f6fd0",
    "dpmpp_2m": "#35a07a",
    "unipc": "#cf4f4f",
    "dpmpp_3m": "#6b8e9f",
}
BUDGET = 8
SCHEDULE, DATA = VPLinear(), mixture()


def place(level: Level) -> float:
    """Where a level is on the horizontal axis: asinh(10 sigma / alpha), as the default grid has it."""
    return float(torch.asinh(10 * level.rho))


def paths(axes: Axes, name: str) -> None:
    """A sampler's states, at equal variance, over the exact flow from the same starts."""
    sampler = denoiselab.sampler(name)
    levels = sampler.grid(SCHEDULE, sampler.steps_for(BUDGET, SCHEDULE))
    start = torch.linspace(-1.6, 1.6, 7, dtype=F64)[:, None]
    fine = SCHEDULE.at(torch.linspace(float(levels[0].lam), 6, 80, dtype=F64)).unbind()
    exact = torch.stack([flow_map(DATA, start[:, 0], fine[0], level) for level in fine])
    axes.plot([place(level) for level in fine], exact, color="#9a9a9a", lw=1, alpha=0.7)
    seen = Trajectory()
    sampler.run(DATA, SCHEDULE, levels, start, Noise(3, torch.arange(len(start))), on_step=seen)
    states = torch.stack([start[:, 0], *(moment.x[:, 0] for moment in seen.moments)])
    places = [place(level) for level in levels]
    axes.plot(places, states, ".-", color=PATHS[name], lw=1.3, ms=4)
    x = torch.linspace(-2.1, 2.1, 200, dtype=F64)
    density = DATA.log_density(x[:, None], fine[-1]).exp()
    axes.fill_betweenx(x, -0.15, -0.15 - 1.2 * density, color="#9a9a9a", alpha=0.5, lw=0)
    axes.set_title(f"{name}, {sampler.nfe(len(levels) - 1, SCHEDULE)} calls", fontsize=10)
    axes.set_xlim(max(places) + 0.2, -1.1)
    axes.set_ylim(-2.1, 2.1)
    axes.set_xticks([])
    axes.set_yticks([])


def errors(axes: Axes) -> None:
    """Mean distance to the exact end, over network calls."""
    start = Noise(0, torch.arange(400)).normal((1,), F64)
    for name, colour in ERRORS.items():
        sampler, points = denoiselab.sampler(name), []
        for steps in sorted({sampler.steps_for(calls, SCHEDULE) for calls in (5, 7, 10, 14, 20, 28, 40, 56, 80, 112)}):
            levels = sampler.grid(SCHEDULE, steps)
            x = sampler.run(DATA, SCHEDULE, levels, start, Noise(0, torch.arange(400)))
            exact = flow_map(DATA, start[:, 0], levels[0], levels[-1])
            points.append((sampler.nfe(steps, SCHEDULE), float((x[:, 0] - exact).abs().mean())))
        axes.loglog(*zip(*points, strict=True), ".-", color=colour, label=name, lw=1.5)
    axes.set_xlabel("network calls")
    axes.set_title("mean distance to the exact end", fontsize=10)
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower left")


def main() -> None:
    """Draw the picture, in greys that are readable on light and dark pages."""
    grey = "#808891"
    mpl.rcParams.update(
        dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), grey)
    )
    figure, axes = plt.subplot_mosaic("abee\ncdee", figsize=(10, 4.6), layout="constrained")
    for key, name in zip("abcd", PATHS, strict=True):
        paths(axes[key], name)
    for key in "cd":
        axes[key].set_xlabel("noise → data")
    errors(axes["e"])
    figure.savefig(OUT, dpi=130, transparent=True, metadata={"Software": None})


if __name__ == "__main__":
    main()
