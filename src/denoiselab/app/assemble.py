"""All objects of a training run, built before its directory exists: whatever can fail, fails here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from denoiselab.app import build
from denoiselab.app.construct import check, construct
from denoiselab.app.devices import check_devices, resolve_accelerator
from denoiselab.app.errors import BadInput
from denoiselab.app.settings import TrainSettings, parse
from denoiselab.data import DataSet
from denoiselab.evaluation import Extractor, Frontier
from denoiselab.schedules import Schedule
from denoiselab.training.callbacks import ProgressBar
from denoiselab.training.checkpoints import CHECKPOINTS, AtomicCheckpointIO
from denoiselab.training.ema import EMA
from denoiselab.training.interruption import Interruption
from denoiselab.training.loggers import WandB
from denoiselab.training.module import DiffusionModule

Config = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The objects of a run.

    Args:
        config: Resolved configuration, plain containers.
        settings: Its typed part.
        model: What is trained and sampled.
        module: What the Trainer trains.
        weights: The EMA profile, or "raw", that the frontier scores.
        frontier: Scores the samplers.
        samplers: The configuration of each sampler of the frontier.
        extractor: Makes the frontier's scorer.
        trackers: Loggers beside the CSV file, not yet open.
        trainer: The Trainer, without loggers.
        interruption: Notes signals while it is entered.
        images: Training images or points.
        held_out: Those held out.
    """

    config: Config
    settings: TrainSettings
    model: build.Model
    module: DiffusionModule
    weights: str
    frontier: Frontier
    samplers: Mapping[str, Any]
    extractor: Extractor
    trackers: Mapping[str, WandB]
    trainer: pl.Trainer
    interruption: Interruption
    images: DataSet
    held_out: DataSet


def check_config(config: Config, *, sweeping: bool) -> None:
    """Check all that can be checked without building anything.

    Args:
        config: Resolved configuration, plain containers.
        sweeping: The run is a job of a multirun in this process.

    Raises:
        BadInput: Something is wrong.
    """
    settings = parse(TrainSettings, config)
    check(config)
    build.sampler_nodes([*settings.evaluation.extra_nfe])  # a misspelt name would be passed over
    build.build_extractor(config, settings.evaluation, settings.evaluation.num_samples)
    check_devices(config["trainer"], settings.batch_size, sweeping=sweeping)
    with torch.device("meta"):  # a rehearsal: every job of a sweep fails here, or not for its model
        model, objective = build.build_model(config), build.build_objective(config)
    build.check_model(model, objective)
    _frontier(settings, build.sampler_nodes(settings.evaluation.samplers), model.denoiser.schedule)


def assemble(config: Config, path: Path, continues: str) -> Run:
    """Build the objects of a checked configuration.

    Args:
        config: Resolved configuration, plain containers.
        path: The run's directory, which need not exist yet.
        continues: The command that continues a stopped run.

    Raises:
        BadInput: An object refuses its options, or two do not fit together.
    """
    settings = parse(TrainSettings, config)
    samplers = build.sampler_nodes(settings.evaluation.samplers)
    model = build.build_model(config)
    frontier = _frontier(settings, samplers, model.denoiser.schedule)
    ema = EMA(construct(config["ema"]["profiles"], "ema.profiles"))
    optimizer = construct(config["optimizer"], "optimizer")
    try:
        optimizer([torch.nn.Parameter(torch.zeros(1))])  # it checks its options only when it is built
    except (ValueError, TypeError) as error:
        raise BadInput(f"optimizer: {error}.") from None
    module = DiffusionModule(
        model.denoiser,
        build.build_objective(config),
        model.conditioner,
        optimizer,
        construct(config["lr_schedule"], "lr_schedule"),
        ema,
        settings.seed,
        config,
    )
    interruption = Interruption(f"stopped, and saved in {path}; to continue: {continues}")
    try:
        images, held_out = construct(config["data"], "data").load()
    except ValueError as error:
        raise BadInput(str(error)) from None
    return Run(
        config=config,
        settings=settings,
        model=model,
        module=module,
        weights=build.profile_name(settings.evaluation.weights, ema.names, "evaluation.weights"),
        frontier=frontier,
        samplers=samplers,
        extractor=build.build_extractor(config, settings.evaluation, settings.evaluation.num_samples),
        trackers=construct(config["logger"], "logger"),
        trainer=_trainer(config, settings, path, interruption),
        interruption=interruption,
        images=images,
        held_out=held_out,
    )


def _trainer(config: Config, settings: TrainSettings, path: Path, interruption: Interruption) -> pl.Trainer:
    given = {"checkpoints": {"directory": path / CHECKPOINTS, "interruption": interruption}}
    callbacks = [
        construct(node, f"callbacks.{name}", **given.get(name, {})) for name, node in config["callbacks"].items()
    ]
    trainer: pl.Trainer = construct(
        {**config["trainer"], "accelerator": resolve_accelerator(config["trainer"]["accelerator"])},
        "trainer",
        max_steps=-(-settings.max_images // settings.batch_size),
        max_epochs=-1,
        logger=False,
        callbacks=[*callbacks, ProgressBar(settings.max_images)],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(path),
    )
    return trainer


def _frontier(settings: TrainSettings, nodes: Mapping[str, Any], schedule: Schedule) -> Frontier:
    evaluation = settings.evaluation
    try:
        return Frontier(
            build.build_samplers(nodes),
            schedule,
            evaluation.nfe,
            evaluation.extra_nfe,
            evaluation.num_samples,
            evaluation.batch_size,
            evaluation.seed,
        )
    except ValueError as error:
        raise BadInput(str(error)) from None
