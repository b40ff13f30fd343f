"""Samples from a checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from denoiselab import progress
from denoiselab.app import build, importing
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput
from denoiselab.app.run_directory import new_folder
from denoiselab.app.settings import SampleSettings, parse
from denoiselab.evaluation.frontier import draw
from denoiselab.evaluation.media import medium
from denoiselab.files import atomic
from denoiselab.samplers import Moment, Sampler
from denoiselab.training.checkpoints import CHECKPOINTS, LAST, CheckpointError, check_weights, read_checkpoint
from denoiselab.training.ema import RAW
from denoiselab.training.interruption import Interruption
from denoiselab.training.module import CHECKPOINT_KEY

Config = dict[str, Any]


def check_config(config: Config, *, sweeping: bool = False) -> SampleSettings:
    """Check all that can be checked before anything is built.

    Raises:
        BadInput: Something is wrong.
    """
    settings = parse(SampleSettings, config)
    if settings.import_ is not None:
        importing.check_source(settings.import_, settings.ckpt)
    elif settings.ckpt is None:
        raise BadInput("ckpt: is not given; pass ckpt=<run directory or file>, or import=<source> import.path=...")
    check({"sampler": settings.sampler, "import": settings.import_})
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator=gpu: this machine has no GPU; use accelerator=cpu.")
    return settings


def sample(config: Config) -> Path:
    """Draw samples, or export the model, and write to a new folder, which is returned.

    Raises:
        BadInput: The checkpoint or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    if settings.export is not None:
        from denoiselab.app.exporting import export

        return export(settings, settings.export)
    sampler: Sampler = construct(settings.sampler, "sampler")
    path = checkpoint_file(settings)
    model, weights = load(path, settings.weights)
    checkpoint = hashlib.sha256(path.read_bytes()).hexdigest()
    # Whatever else was asked for, in eight digits: the same request has the same folder.
    rest = json.dumps([settings.sampler, checkpoint, settings.format], sort_keys=True)
    rule = config["sampler"]["_target_"].rpartition(".")[2].lower()
    digest = hashlib.sha256(rest.encode()).hexdigest()[:8]
    folder = f"{rule}_steps{sampler.steps}_{weights}_seed{settings.seed}_n{settings.num_samples}_{digest}"
    out = new_path(settings, path, "samples", folder)
    device = device_of(settings)
    denoiser = model.denoiser.to(device).eval()
    try:
        calls = 1 if sampler.adaptive else sampler.nfe(sampler.steps, model.denoiser.schedule)
    except ValueError as error:
        raise BadInput(f"sampler: {error}") from None
    with (
        new_folder(out) as partial,
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


def checkpoint_file(settings: SampleSettings) -> Path:
    """The checkpoint that `ckpt` names, a file or a run's newest; or that of an import.

    Raises:
        BadInput: The import is refused.
    """
    if settings.import_ is not None:
        path = importing.run_directory(settings.import_, Path(settings.log_dir))
    else:
        path = Path(str(settings.ckpt))
    return path / CHECKPOINTS / LAST if path.is_dir() else path


def device_of(settings: SampleSettings) -> torch.device:
    """The device that `accelerator` names."""
    on_gpu = settings.accelerator == "gpu" or (settings.accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def new_path(settings: SampleSettings, checkpoint: Path, kind: str, folder: str) -> Path:
    """The folder to write: `out`, or one in the folder `kind` of the checkpoint's run.

    Raises:
        BadInput: It exists.
    """
    home = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent
    out = Path(settings.out) if settings.out else home / kind / folder
    if out.exists():
        raise BadInput(f"out={out}: exists already; nothing is written over, so name another folder with out=...")
    return out


def load(path: Path, asked: str | None) -> tuple[build.Model, str]:
    """The model of a checkpoint with the weights asked for, and their name.

    Raises:
        BadInput: The file is no checkpoint of ours, is damaged, or has no such weights.
    """
    try:
        checkpoint = read_checkpoint(path)
        ours = checkpoint[CHECKPOINT_KEY]
        config = ours["config"]
        check({part: config[part] for part in build.MODEL_PARTS}, model_only=True)
        model = build.build_model(config)
        prefix = "denoiser."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        check_weights(path, model.denoiser.state_dict(), state)
        for average in ours["ema"].values():
            check_weights(path, dict(model.denoiser.named_parameters()), average)
    except CheckpointError as error:
        raise BadInput(f"ckpt={error}") from None
    except (KeyError, TypeError):
        raise BadInput(f"ckpt={path}: its configuration is incomplete, so the network cannot be rebuilt.") from None
    weights = build.profile_name(asked, [*ours["ema"], RAW], "weights")
    model.denoiser.load_state_dict({**state, **(ours["ema"][weights] if weights != RAW else {})})
    return model, weights
