"""Samples from a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from denoiselab import progress
from denoiselab.app import build
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput
from denoiselab.app.loaded import load
from denoiselab.app.settings import SampleSettings, parse
from denoiselab.evaluation.cell import draw
from denoiselab.evaluation.media import medium
from denoiselab.files import atomic
from denoiselab.samplers import Moment, Sampler
from denoiselab.training.checkpoints import CHECKPOINTS, LAST
from denoiselab.training.ema import RAW
from denoiselab.training.interruption import Interruption

Config = dict[str, Any]


def check_config(config: Config, *, sweeping: bool = False) -> SampleSettings:
    """Check all that can be checked before anything is built.

    Raises:
        BadInput: Something is wrong.
    """
    settings = parse(SampleSettings, config)
    check({"sampler": settings.sampler, "logger": settings.logger, "frontier": settings.frontier})
    if settings.frontier is None and isinstance(settings.ckpt, list):
        raise BadInput(f"ckpt={settings.ckpt}: samples come from one checkpoint; frontier=default takes several.")
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator=gpu: this machine has no GPU; use accelerator=cpu.")
    return settings


def sample(config: Config) -> Path:
    """Draw samples and write them to a new folder, which is returned.

    Raises:
        BadInput: The checkpoint or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    sampler: Sampler = construct(settings.sampler, "sampler")
    path = Path(str(settings.ckpt))
    path = path / CHECKPOINTS / LAST if path.is_dir() else path
    model, weights = _load(path, settings.weights)
    checkpoint = hashlib.sha256(path.read_bytes()).hexdigest()
    # Whatever else was asked for, in eight digits: the same request has the same folder.
    rest = json.dumps([settings.sampler, checkpoint, settings.format], sort_keys=True)
    rule = config["sampler"]["_target_"].rpartition(".")[2].lower()
    digest = hashlib.sha256(rest.encode()).hexdigest()[:8]
    folder = f"{rule}_steps{sampler.steps}_{weights}_seed{settings.seed}_n{settings.num_samples}_{digest}"
    home = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    out = Path(settings.out) if settings.out else home / "samples" / folder
    if out.exists():
        raise BadInput(f"out={out}: exists already; nothing is written over, so name another folder with out=...")
    on_gpu = settings.accelerator == "gpu" or (settings.accelerator == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    denoiser = model.denoiser.to(device).eval()
    try:
        calls = 1 if sampler.adaptive else sampler.nfe(sampler.steps, model.denoiser.schedule)
    except ValueError as error:
        raise BadInput(f"sampler: {error}") from None
    with (
        _folder(out) as partial,
        Interruption("stopped; nothing was written.") as interruption,
        progress.bar("sampling", settings.num_samples * calls) as bar,
    ):
        batches, rows = [], 0
        for index in torch.arange(settings.num_samples, device=device).split(settings.batch_size):

            def on_step(moment: Moment, size: int = len(index)) -> None:
                interruption.check()
                if moment.steps:
                    number = moment.number
                    bar.update(size * (calls * number // moment.steps - calls * (number - 1) // moment.steps))

            samples, counted = draw(
                sampler, denoiser, model.conditioner, model.shape, index, settings.seed, sampler.steps, on_step
            )
            batches.append(samples.cpu())
            rows += counted.rows
        nfe = rows / settings.num_samples
        record = {
            **config,
            "checkpoint": str(path.resolve()),
            "checkpoint_sha256": checkpoint,
            "weights": weights,
            "nfe": int(nfe) if nfe.is_integer() else round(nfe, 2),
        }
        medium(model.shape).write_samples(partial, torch.cat(batches), settings.format)
        with atomic(partial / "samples.json", "w") as file:
            json.dump(record, file, indent=1)
    print(f"{settings.num_samples} samples, {record['nfe']} network calls each, weights {weights}: {out}")
    return out


def _load(path: Path, asked: str | None) -> tuple[build.Model, str]:
    """The model of a checkpoint with the weights asked for, and their name."""
    loaded = load(path)
    weights = build.profile_name(asked, loaded.names, "weights")
    if weights != RAW:
        loaded.model.denoiser.load_state_dict(loaded.averages[weights], strict=False)  # buffers are not averaged
    return loaded.model, weights


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A hidden folder that takes the name `out` when the block ends well, and goes if it does not."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise BadInput(f"out={out}: cannot be written to ({error.strerror or error}).") from None
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
