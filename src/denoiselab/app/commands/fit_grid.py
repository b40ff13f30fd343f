"""A grid fitted to a checkpoint and a sampler, as a file that any run can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from denoiselab import progress
from denoiselab.app.building import checks
from denoiselab.app.config.settings import SampleSettings, parse
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.paths import checkpoint_file, device_of, short_hash
from denoiselab.cleaning import path_part
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of, write_json
from denoiselab.instantiate import construct
from denoiselab.pretrained import read_weights
from denoiselab.samplers import Sampler
from denoiselab.samplers.fitted_grids import GridSearch
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.interruption import Interruption

Config = dict[str, Any]


def fit_grid(config: Config) -> Path:
    """Fit a grid to the sampler's own number of steps, and write it to a new file, which is returned.

    Raises:
        BadInput: The checkpoint, the sampler or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    search: GridSearch = construct(settings.grid, "grid")
    sampler: Sampler = construct(settings.sampler, "sampler")
    path = checkpoint_file(settings.ckpt)
    loaded, weights = read_weights(path, settings.weights, data=settings.data)
    model, device = loaded.model, device_of(settings.accelerator)
    asked = {"sampler": settings.sampler, "grid": settings.grid, "weights": weights, "guidance": settings.guidance}
    facts = {**asked, "checkpoint_sha256": sha256_of(path)}
    name = f"{type(sampler).__name__.lower()}_steps{sampler.steps}_{weights}_{short_hash(facts)}.json"
    out = Path(settings.out) if settings.out else home_of(path) / "grids" / path_part(name)
    if out.exists():
        raise BadInput(f"out={out}: exists already; nothing is written over, so name another file with out=...")
    if out.suffix != ".json":
        raise BadInput(f"out={out}: a grid's file ends in .json.")
    checks.check_sampler(sampler, model, [settings.guidance])
    denoiser = model.denoiser.to(device).eval()
    index = torch.arange(search.num_samples, device=device)
    try:
        denoise = model.bound(index, settings.guidance)
    except ValueError as error:
        raise BadInput(str(error)) from None
    total = search.num_samples * (search.fine + search.runs * sampler.steps)
    with Interruption() as interruption, progress.bar("grid", total, unit="call") as bar:

        def check(moment: object) -> None:
            interruption.check()
            bar.update(search.num_samples)

        try:
            grid = search(sampler, denoise, denoiser.schedule, model.shape, device, check)
        except ValueError as error:
            raise BadInput(f"grid: {error}") from None
        record = {
            "lam": grid.lam,
            "distance": grid.distance,
            "distance_before": grid.before,
            **facts,
            "checkpoint": str(path.resolve()),
        }
        write_json(out, record)
    console().print(
        f"RMS distance to the reference {grid.distance:.4g}, {grid.before:.4g} on the sampler's own grid "
        f"(n = {search.num_samples}, weights {weights}): {out}\n"
        f"use, with this sampler: {_use(sampler, out)}"
    )
    return out


def _use(sampler: Sampler, out: Path) -> str:
    """The options with which it takes the file, and ends as it did."""
    steps = f"sampler.steps={sampler.steps}"
    if not sampler.spacing.end_is_step:
        path = override("sampler.spacing.spacing.path", out)
        return f"spacing@sampler.spacing=denoise_to_zero spacing@sampler.spacing.spacing=from_file {path} {steps}"
    options = f"spacing@sampler.spacing=from_file {override('sampler.spacing.path', out)} {steps}"
    if not sampler.spacing.to_clean:
        return f"{options} sampler.spacing.to_clean=false"
    return f"{options}, or {override('evaluation.samplers', [f'<name>@{out}'])}"
