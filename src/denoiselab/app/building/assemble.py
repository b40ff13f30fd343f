"""Build all objects of a training run before its directory exists, so that errors come first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from denoiselab.app.building import captions, parts, rehearsal, stored_latents
from denoiselab.app.building.error_splits import fine_of
from denoiselab.app.building.evaluator import Evaluator, frontier_of, optimized_metric
from denoiselab.app.building.first_stages import Reconstructions
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.held_out import HELD_OUT_LOSS, HeldOut
from denoiselab.app.building.monitors import check_monitors
from denoiselab.app.building.training_callbacks import OF_SAMPLES, PeriodicEvaluations, first_weights
from denoiselab.app.config.settings import Config, TrainSettings, parse
from denoiselab.app.runs.devices import is_leader, resolve_accelerator
from denoiselab.app.runs.launches import check_world
from denoiselab.app.runs.names import run_name
from denoiselab.app.runs.processes import DirectoryCheck
from denoiselab.app.runs.strategies import built
from denoiselab.app.sweeps.pruning import watched
from denoiselab.codecs import Autoencoder, ReconstructionLoss
from denoiselab.data import DataSet, clean, supply
from denoiselab.data.loading.datamodule import DataModule
from denoiselab.errors import BadInput
from denoiselab.evaluation import Frontier, OptimizedMetric, Store
from denoiselab.from_config import build, identity
from denoiselab.model import Model
from denoiselab.nodes.instantiate import check, check_contract, construct
from denoiselab.trained import FirstStage, Trained
from denoiselab.trained.costs import step_costs
from denoiselab.training.callbacks import ProgressBar
from denoiselab.training.checkpoint_files import CHECKPOINTS
from denoiselab.training.checkpoints import AtomicCheckpointIO
from denoiselab.training.ema import Names
from denoiselab.training.interruption import Interruption
from denoiselab.training.loggers import WandB
from denoiselab.training.lr_schedules import LRSchedule
from denoiselab.training.module import DiffusionModule
from denoiselab.training.preparing import Preparation
from denoiselab.training.snapshots import SNAPSHOTS
from denoiselab.training.throughput import CompilerReport
from denoiselab.training.trackers import Tracker

# How Lightning's classes refuse their arguments.
_REFUSALS = (MisconfigurationException,)

# Held-out samples of the profile at the end of training, without `callbacks.held_out`.
_PROFILE = 128


@dataclass(frozen=True)
class Scoring:
    """How the samples of a run are scored.

    Args:
        model: What is trained and sampled.
        frontier: The cells to score at the end.
        fine: The fine runs with which their errors are split; None for none.
        evaluator: Scores them.
        optimized: The metric of the frontier that a sweep minimises.
        periodic: Scores and samples during the training.
    """

    model: Model
    frontier: Frontier
    fine: Frontier | None
    evaluator: Evaluator
    optimized: OptimizedMetric
    periodic: PeriodicEvaluations


@dataclass(frozen=True)
class Run:
    """The objects of a run.

    Args:
        config: Resolved configuration, plain containers.
        settings: Its typed part.
        model: What is trained.
        module: What the Trainer trains.
        scoring: Of its samples; None for what draws none.
        reconstructions: Of held-out images; None for what is no first stage.
        held_out_losses: Measures the loss on held-out data by level, as of `LossProfile.record`; empty without any.
        trackers: Loggers besides the CSV file, not yet open.
        trainer: The Trainer, without loggers.
        interruption: Catches signals while it is entered.
        images: Training images or points.
        held_out: Held-out images or points.
        batches: Feeds the Trainer.
        files: Name to content of further files that the run's directory keeps.
    """

    config: Config
    settings: TrainSettings
    model: Trained
    module: DiffusionModule
    scoring: Scoring | None
    reconstructions: Reconstructions | None
    held_out_losses: Callable[[], dict[str, Any]]
    trackers: Mapping[str, WandB | Tracker]
    trainer: pl.Trainer
    interruption: Interruption
    images: DataSet
    held_out: DataSet
    batches: DataModule
    files: Mapping[str, str]


def assemble(config: Config, path: Path, continues: str) -> Run:
    """Build the objects of a checked configuration; the run's directory `path` need not exist yet.

    `continues` is the command that continues a stopped run.
    """
    settings = parse(TrainSettings, config)
    check(config)
    model = build(config)
    ema = parts.build_ema(config, path / CHECKPOINTS / SNAPSHOTS)
    lr_schedule = construct(config["lr_schedule"], "lr_schedule")
    check_contract("lr_schedule", lr_schedule, LRSchedule)
    optimizer = parts.build_optimizer(config["optimizer"], [torch.nn.Parameter(torch.zeros(1))])
    interruption = Interruption(f"stopped, and saved in {path}; to continue: {continues}")
    images, held_out, files = _load(config, model, path)
    augmentation = parts.build_augmentation(config)
    objective = parts.build_objective(config)
    latents = stored_latents.read(
        config, model.codec, (model.conditioner, objective), images, augmentation, verify=is_leader()
    )  # fmt: skip
    module = DiffusionModule(
        model, objective, optimizer, lr_schedule, ema, settings.seed, config, stored_latents.sha256(images, latents),
        Preparation(settings.compile, half=config["trainer"]["precision"] == "bf16-true"),
    )  # fmt: skip
    names = ema.planned(settings.max_images, settings.batch_size)
    scoring = None
    if isinstance(model, Model):
        evaluator = Evaluator(
            model=model,
            identity=identity(config),
            applied=module.applied,
            extractor=parts.build_extractor(config, settings.evaluation, settings.evaluation.num_samples, images),
            images=images,
            held_out=held_out,
            data=config["data"]["name"],
            cache=Path(settings.paths.cache_dir),
            store=Store(path, settings.evaluation.level),
            name=run_name(path),
            interruption=interruption,
        )
        scoring = _scoring(config, settings, model, names, evaluator)
    stop = interruption.check if scoring is None else scoring.evaluator.check
    weights = first_weights(config, names)
    measured = _measured(config, settings, module, model, (images, held_out), weights, stop)
    trainer = _trainer(config, settings, module, path, interruption, scoring, measured)
    return Run(
        config=config,
        settings=settings,
        model=model,
        module=module,
        scoring=scoring,
        reconstructions=measured if isinstance(measured, Reconstructions) else None,
        held_out_losses=measured.record_of((config["callbacks"].get("held_out") or {}).get("num_samples", _PROFILE)),
        trackers=construct(config["logger"], "logger"),
        trainer=trainer,
        interruption=interruption,
        images=images,
        held_out=held_out,
        batches=DataModule(images, settings.seed, settings.batch_size, augmentation, latents),
        files=files,
    )


def _measured(
    config: Config,
    settings: TrainSettings,
    module: DiffusionModule,
    model: Trained,
    data: tuple[DataSet, DataSet],
    weights: str,
    stop: Callable[[], None],
) -> HeldOut | Reconstructions:
    """What measures a model on `data`, those for training and those held out."""
    if not len(data[1]) and (settings.optimized_metric == HELD_OUT_LOSS or isinstance(model, FirstStage)):
        raise BadInput(f"optimized_metric={settings.optimized_metric}: {config['data']['name']} has no held-out data.")
    if not isinstance(model, FirstStage):
        return HeldOut(model, data[1], module.applied, weights, lambda batch: stop())
    assert isinstance(module.objective, ReconstructionLoss)
    return Reconstructions(
        model=model,
        objective=module.objective,
        data=data[1],
        applied=module.applied,
        weights=weights,
        check=lambda batch: stop(),
        extractor=parts.build_extractor(config, settings.evaluation, None, data[0]),
        evaluation=settings.evaluation,
        train=data[0],
        cache=Path(settings.paths.cache_dir),
    )


def _scoring(config: Config, settings: TrainSettings, model: Model, names: Names, evaluator: Evaluator) -> Scoring:
    guided = Guided(model, config)
    frontier = frontier_of(config["evaluation"], guided, names)
    return Scoring(
        model,
        frontier,
        fine_of(config["evaluation"], frontier, guided, names, "evaluation"),
        evaluator,
        optimized_metric(settings.optimized_metric, frontier),
        PeriodicEvaluations(config, model, names, evaluator),
    )


def _load(config: Config, model: Trained, run: Path) -> tuple[DataSet, DataSet, dict[str, str]]:
    """Training and held-out data, tried on a sample with the model's codec, and further files that the run keeps."""
    try:
        images, held_out = construct(config["data"], "data").load()
        reads = config.get("latents") is not None and not model.conditioner.uses_images  # else it may encode them
        if reads and isinstance(model.codec, Autoencoder):
            model.codec.spare_encoder()
        model.codec.load()
        rehearsal.check_codec(model.codec, config.get("decode_memory"))
        files = captions.prepare(config, model, images, held_out, run) if isinstance(model, Model) else {}
        supply(model.conditioner, lambda: (images, held_out))
        first = torch.zeros(1, dtype=torch.int64)
        model.conditioner.given(clean(images, first))
        model.conditioner.sample(first)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return images, held_out, files


def _trainer(
    config: Config,
    settings: TrainSettings,
    module: DiffusionModule,
    path: Path,
    interruption: Interruption,
    scoring: Scoring | None,
    held_out: HeldOut | Reconstructions,
) -> pl.Trainer:
    given: dict[str, dict[str, Any]] = {
        "checkpoints": {"directory": path / CHECKPOINTS, "interruption": interruption},
        "held_out": {"prepare": held_out.of},
        "throughput": {
            "flops": lambda: step_costs(module.batch_loss.model, module.objective).flops,
            "precision": str(config["trainer"]["precision"]),
        },
    }
    nodes, drawn = config["callbacks"], held_out if scoring is None else scoring.periodic
    if scoring is None:
        absent = OF_SAMPLES[:1] if isinstance(held_out, Reconstructions) else OF_SAMPLES
        nodes = {name: node for name, node in nodes.items() if name not in absent}
    else:
        prepare = watched(scoring.periodic.frontier, path, interruption, config)
        given["frontier"] = {"directory": path / CHECKPOINTS, "prepare": prepare, "ready": scoring.periodic.ready}
    if isinstance(drawn, PeriodicEvaluations | Reconstructions):
        given["preview"] = {"directory": path / "samples" / "preview", "prepare": drawn.preview}
    callbacks = [construct(node, f"callbacks.{name}", _REFUSALS, **given.get(name, {})) for name, node in nodes.items()]
    check_monitors(dict(zip(nodes, callbacks, strict=True)), config, held_out.names)
    half = str(config["trainer"]["precision"]) == "bf16-true"  # the module's own: Lightning would round the weights
    options = {**config["trainer"], "accelerator": resolve_accelerator(config["trainer"]["accelerator"])}
    trainer: pl.Trainer = construct(
        {**options, **({"precision": "32-true"} if half else {}), "strategy": built(options["strategy"])},
        "trainer",
        _REFUSALS,
        max_steps=-(-settings.max_images // settings.batch_size),
        max_epochs=-1,
        logger=False,
        callbacks=[ProgressBar(settings.max_images), *callbacks, CompilerReport(), DirectoryCheck(path)],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(path),
    )
    check_world(trainer)
    for name, callback in zip(nodes, callbacks, strict=True):
        _check_place(f"callbacks.{name}", callback, path)
    _check_place("trainer.profiler", vars(trainer)["profiler"], path)
    if isinstance(config["trainer"]["profiler"], str):  # without a file Lightning would log its report
        vars(vars(trainer)["profiler"]).update(dirpath=path, filename="profile")
    return trainer


def _check_place(option: str, part: object, path: Path) -> None:
    """Check that a callback or a profiler of Lightning's writes into the run's directory."""
    place, name = (getattr(part, attribute, None) for attribute in ("dirpath", "filename"))
    if place is not None and not Path(place).resolve().is_relative_to(path.resolve()):
        raise BadInput(f"{option}.dirpath={place}: it must be in the run's directory, {path}; leave it out.")
    if name is not None and Path(name).name != str(name):
        raise BadInput(f"{option}.filename={name}: it must be a file name without a folder.")
