"""What a run of a first stage writes and says at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from denoiselab import progress
from denoiselab.app.building.first_stages import Reconstructions, value_of
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.failures import check_there
from denoiselab.codecs import ReconstructionLoss, normalisation
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.evaluation.reconstruction import FILE
from denoiselab.files import write_text
from denoiselab.frozen.autoencoders import can_write, write
from denoiselab.nodes.options import completed
from denoiselab.trained import FirstStage
from denoiselab.training.checkpoint_files import CHECKPOINTS, LAST

if TYPE_CHECKING:  # imports Lightning
    from denoiselab.app.building.assemble import Run

FOLDER = "first_stage"
PICTURE = "reconstructions.png"

# Training images of which scale and shift of the latents are measured, at most.
_MEASURED = 10_000

_UNITS = {"psnr": " dB", "ssim": "", "rfd": "", "l1": "", "perceptual": "", "usage": "", "perplexity": ""}


def described(model: FirstStage, objective: nn.Module) -> str:
    """What is trained, in a sentence."""
    assert isinstance(objective, ReconstructionLoss)
    shape, latent = model.shape, model.autoencoder.latent_shape
    adversary = objective.adversary
    judged = "" if adversary is None else f", a discriminator from {adversary.start:,} images on"
    perceptual = "" if objective.perceptual is None else f", {type(objective.perceptual).__name__}"
    return (
        f"a first stage: images of {'x'.join(map(str, shape))} to latents of {'x'.join(map(str, latent))}; "
        f"{objective.distance.upper()}{perceptual}, {type(objective.regulariser).__name__}{judged}. It draws no "
        "samples: of evaluation its extractor, num_samples and weights count; callbacks.frontier does nothing, and "
        "callbacks.preview writes reconstructions."
    )


def finish(run: Run, measured: Reconstructions, path: Path, *, leader: bool) -> float:
    """Measure, write `reconstruction.json`, the picture and `first_stage/`; returns the `optimized_metric`."""
    found = measured.final()
    options = _normalised(run, measured)
    if leader:
        check_there(path)
        facts = {
            "images_seen": run.module.images_seen,
            "data": run.settings.data["name"],
            "split_n": len(run.held_out),
            "split_sha256": run.held_out.fingerprint,
            "latent_shape": list(measured.model.autoencoder.latent_shape),
            **options,
        }
        write_text(path / FILE, json.dumps({**found, **facts}, indent=1))
        measured.draw(path / PICTURE)
        written = _write(run, measured, path / FOLDER, options)
        _report(found, path, written=written)
        for logger in run.trainer.loggers:
            numbers = {f"reconstruction/{name}": found[name] for name in _UNITS if name in found}
            logger.log_metrics(numbers, step=run.module.images_seen)
    return value_of(run.settings.optimized_metric, found)


def _normalised(run: Run, measured: Reconstructions) -> dict[str, Any]:
    """Scale and shift of each channel of the latents, over training images that ranks share."""
    network, data = measured.model.autoencoder, run.images
    with measured.applied(measured.weights), measured.model.evaluating():
        return normalisation(network, _batches(data, measured.model.device))


def _batches(data: DataSet, device: torch.device) -> Iterator[Tensor]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    n = min(len(data), _MEASURED)
    index = torch.linspace(0, len(data) - 1, n, dtype=torch.float64).round().long()  # sets may be sorted by class
    with progress.bar("scale of latents", len(index[rank::world]), shown=is_leader()) as bar:
        for part in index[rank::world].split(64):
            yield data.inputs(part).to(device)
            bar.update(len(part))


def _write(run: Run, measured: Reconstructions, folder: Path, options: Mapping[str, Any]) -> bool:
    """Write the autoencoder as a codec reads it; False for a class that no codec knows."""
    node = completed({"network": run.config["network"]})["network"]
    network = measured.model.trained
    if not can_write(type(network)):
        return False
    folder.mkdir(exist_ok=True)
    with measured.applied(measured.weights):
        own = {name: value for name, value in node.items() if name != "_target_"}
        write(folder, type(network), {**own, **options}, network.state_dict())
    return True


def _report(found: Mapping[str, Any], path: Path, *, written: bool) -> None:
    out = console()
    shown = ", ".join(f"{name} {found[name]:.4g}{unit}" for name, unit in _UNITS.items() if name in found)
    if shown:
        out.print(f"{found['n']:,} held-out images, weights {found['weights']}: {shown}")
    if not written:
        out.print("no first_stage/ is written: its class is no codec of denoiselab")
    for what, name in (
        ("scores", FILE),
        ("reconstructions", PICTURE),
        ("previews", "samples/preview"),
        ("training curve", "metrics.csv"),
        ("first stage", FOLDER),
        ("checkpoint", f"{CHECKPOINTS}/{LAST}"),
    ):
        if (path / name).exists():
            out.print(f"{what:>15}: {path / name}")
