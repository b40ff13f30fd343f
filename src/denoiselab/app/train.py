"""One training run, from a checked configuration to its frontier."""

from __future__ import annotations

import hashlib
import logging
import importlib.metadata
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from rich.console import Console

from denoiselab.app import build
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput
from denoiselab.app.run_directory import RunDirectory
from denoiselab.app.settings import TrainSettings, parse
from denoiselab.data import ImageSet
from denoiselab.data.datamodule import DataModule
from denoiselab.evaluation import Frontier, report
from denoiselab.evaluation.statistics import GaussianStatistics
from denoiselab.training.callbacks import LAST, ProgressBar
from denoiselab.training.checkpoints import AtomicCheckpointIO, CheckpointError, check_weights, read_checkpoint
from denoiselab.training.ema import EMA
from denoiselab.training.interruption import Interruption
from denoiselab.training.loggers import MetricsCSV, WandBRun
from denoiselab.training.module import CHECKPOINT_KEY, DiffusionModule

Config = dict[str, Any]


def check_config(config: Config, *, sweeping: bool) -> TrainSettings:
    """Check all that can be checked before anything is built.

    Args:
        config: Resolved configuration, plain containers.
        sweeping: The run is a job of a multirun in this process.

    Raises:
        BadInput: Something is wrong.
    """
    settings = parse(TrainSettings, config)
    check(config)
    build.sampler_nodes(settings.evaluation.samplers)
    _check_devices(config["trainer"], sweeping=sweeping)
    return settings


def train(config: Config, run_dir: Path) -> float:
    """Train, score, report; returns the best score of the frontier.

    Args:
        config: Checked configuration, plain containers.
        run_dir: New, or a former run's, which is continued.

    Raises:
        BadInput: Parts do not fit together, or the directory cannot be used.
        Stopped: The run was asked to stop; it has saved its state.
    """
    # What they say of a default, a tip or a loader is said better here, or is not so.
    for package in ("pytorch_lightning", "lightning_fabric"):
        warnings.filterwarnings("ignore", module=package)
        logging.getLogger(package).setLevel(logging.WARNING)
    settings = parse(TrainSettings, config)
    samplers = build.sampler_nodes(settings.evaluation.samplers)
    frontier = _build_frontier(settings, samplers)
    model = build.build_model(config)
    ema = EMA(construct(config["ema"]["profiles"], "ema.profiles"))
    weights = build.profile_name(settings.evaluation.weights, ema.names, "evaluation.weights")
    objective = construct(config["objective"], "objective")
    optimizer = construct(config["optimizer"], "optimizer")
    _try_optimizer(optimizer)
    lr_schedule = construct(config["lr_schedule"], "lr_schedule")
    extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    trackers = construct(config["logger"], "logger")
    dataset = construct(config["data"], "data")
    images, held_out = _load(dataset)

    # What is written into checkpoints says all that rebuilds the model.
    stored = {**config, "sampler": samplers}
    module = DiffusionModule(
        model.denoiser, objective, model.conditioner, optimizer, lr_schedule, ema, settings.seed, stored
    )
    leader = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0
    copies = 2 * (3 + len(ema.profiles))
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    run = RunDirectory(run_dir, config, needs_bytes=4 * copies * parameters + 20_000_000, leader=leader)
    try:
        images_seen = _check_checkpoint(run.checkpoints / LAST, module)
        metrics = MetricsCSV(run_dir / "metrics.csv", images_seen)
        loggers: list[Any] = [metrics]
        if leader:
            metrics.truncate()
            loggers += [
                tracker.open(run_dir, run.info["wandb_id"], run_dir.name, config) for tracker in trackers.values()
            ]
        status = 1
        try:
            with Interruption() as interruption:
                trainer = _build_trainer(settings, config, run, loggers, interruption)
                if leader:
                    Console(stderr=True).print(
                        f"run {run_dir}: {parameters / 1e6:.2f} M parameters, {len(images):,} images of "
                        f"{settings.data['name']}, {images_seen:,} of {settings.max_images:,} seen",
                        highlight=False,
                    )
                if images_seen < settings.max_images:
                    trainer.fit(
                        module,
                        datamodule=DataModule(images, settings.seed, settings.batch_size),
                        ckpt_path=str(run.checkpoints / LAST) if images_seen else None,
                        weights_only=True,
                    )
                interruption.install()
                records = _score(
                    frontier,
                    model,
                    ema,
                    weights,
                    extractor,
                    images,
                    held_out,
                    config,
                    samplers,
                    run_dir,
                    interruption,
                    leader=leader,
                )
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
            raise
        finally:
            for logger in loggers:
                if isinstance(logger, WandBRun) and leader:
                    if status == 0:
                        _log_frontier(logger, records, run_dir)
                    logger.experiment.finish(exit_code=status)
    finally:
        run.release()
    if leader:
        _print_results(records, run_dir)
    return float(min(record["score"] for record in records))


def _check_devices(trainer: Mapping[str, Any], *, sweeping: bool) -> None:
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not gpus:
        raise BadInput(f"trainer.accelerator={accelerator}: this machine has no GPU; use trainer=cpu.")
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise BadInput(f"trainer.accelerator={accelerator}: unknown; allowed: auto, cpu, gpu, cuda.")
    on_gpu = gpus > 0 and accelerator != "cpu"
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else None
    if count is None and devices != "auto":
        raise BadInput(f"trainer.devices={devices}: must be a number, a list of numbers, or auto.")
    if count is not None and count < 1 and not (on_gpu and devices == -1):
        raise BadInput(f"trainer.devices={devices}: must be at least 1.")
    if count is not None and on_gpu and count > gpus:
        raise BadInput(f"trainer.devices={devices}: this machine has {gpus} GPU(s).")
    if count is not None and count > 1 and not on_gpu:
        cores = len(os.sched_getaffinity(0))
        if trainer["strategy"] == "auto":
            raise BadInput(
                f"trainer.devices={devices}: this machine has no GPU, and its CPU is one device; use "
                "trainer.devices=1, or trainer=ddp to train in several CPU processes."
            )
        if count > cores:
            raise BadInput(f"trainer.devices={devices}: this machine has no GPU and {cores} CPU core(s).")
    several = trainer["num_nodes"] > 1 or (count or 1) > 1 or (count is None and on_gpu and gpus > 1)
    if sweeping and several:
        raise BadInput(
            f"trainer.devices={devices}: a multirun in one process trains on one device (each rank would sweep by "
            "itself); use trainer.devices=1, or a launcher that starts a process group a job."
        )


def _build_frontier(settings: TrainSettings, nodes: Mapping[str, Any]) -> Frontier:
    evaluation = settings.evaluation
    try:
        return Frontier(
            build.build_samplers(nodes),
            evaluation.nfe,
            evaluation.extra_nfe,
            evaluation.num_samples,
            evaluation.batch_size,
            evaluation.seed,
        )
    except ValueError as error:
        raise BadInput(str(error)) from None


def _try_optimizer(make: Any) -> None:
    """Build the optimizer once for nothing: it checks its options only when it is built."""
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise BadInput(f"optimizer: {error}.") from None


def _load(dataset: Any) -> tuple[ImageSet, ImageSet]:
    try:
        train, held_out = dataset.load()
    except ValueError as error:
        raise BadInput(str(error)) from None
    return train, held_out


def _check_checkpoint(path: Path, module: DiffusionModule) -> int:
    """Images seen by the checkpoint to continue from; 0 without one."""
    if not path.exists():
        return 0
    try:
        checkpoint = read_checkpoint(path)
        check_weights(path, module.state_dict(), checkpoint["state_dict"])
    except CheckpointError as error:
        raise BadInput(str(error)) from None
    return int(checkpoint[CHECKPOINT_KEY]["images_seen"])


def _build_trainer(
    settings: TrainSettings, config: Config, run: RunDirectory, loggers: list[Any], interruption: Interruption
) -> pl.Trainer:
    callbacks = [
        construct(node, f"callbacks.{name}", **_given(name, run, interruption))
        for name, node in config["callbacks"].items()
    ]
    trainer: pl.Trainer = construct(
        config["trainer"],
        "trainer",
        max_steps=-(-settings.max_images // settings.batch_size),
        max_epochs=-1,
        logger=loggers,
        callbacks=[*callbacks, ProgressBar(settings.max_images)],
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(run.path),
    )
    shares = trainer.world_size * trainer.accumulate_grad_batches
    if settings.batch_size % shares:
        raise BadInput(
            f"batch_size={settings.batch_size}: must be divisible by devices x nodes x "
            f"trainer.accumulate_grad_batches = {shares}."
        )
    return trainer


def _given(name: str, run: RunDirectory, interruption: Interruption) -> dict[str, Any]:
    return {"directory": run.checkpoints, "interruption": interruption} if name == "checkpoints" else {}


def _score(
    frontier: Frontier,
    model: build.Model,
    ema: EMA,
    weights: str,
    extractor: Any,
    images: ImageSet,
    held_out: ImageSet,
    config: Config,
    samplers: Mapping[str, Any],
    run_dir: Path,
    interruption: Interruption,
    *,
    leader: bool,
) -> list[dict[str, Any]]:
    """Train or load the extractor, then run the frontier with the chosen weights."""
    if not ema.averages:
        saved = read_checkpoint(run_dir / "checkpoints" / LAST)
        model.denoiser.load_state_dict(
            {k.removeprefix("denoiser."): v for k, v in saved["state_dict"].items() if k.startswith("denoiser.")}
        )
        ema.averages = saved[CHECKPOINT_KEY]["ema"]
    ema.start(model.denoiser)
    if dist.is_initialized() and not leader:
        dist.barrier()  # rank 0 fills the cache
    features = extractor.fit(images, held_out, Path(config["paths"]["cache_dir"]), shown=leader)
    if dist.is_initialized() and leader:
        dist.barrier()
    if leader and features.accuracy is not None:
        Console(stderr=True).print(
            f"scored by a classifier of {config['data']['name']}: {features.accuracy:.2%} right on "
            f"{len(held_out)} held-out images",
            highlight=False,
        )
    reference = GaussianStatistics(features.dimension)
    for batch in images.images.split(512):
        reference.update(features(batch))
    denoiser = model.denoiser.eval()
    with ema.applied(denoiser, weights):
        protocol = {
            "data": config["data"]["name"],
            "split": "train",
            "weights": weights,
            "weights_sha256": _digest(denoiser),
            "extractor_accuracy": features.accuracy,
            "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
        }
        return frontier.run(
            denoiser,
            model.conditioner,
            model.shape,
            features,
            reference,
            run_dir,
            protocol,
            samplers,
            interruption.check,
        )


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _log_frontier(logger: WandBRun, records: list[dict[str, Any]], run_dir: Path) -> None:
    import wandb

    columns: list[str | int] = [
        "sampler",
        "nfe",
        "steps",
        "score",
        "metric",
        "n",
        "seconds",
        "weights",
        "seed",
        "extractor",
    ]
    run = logger.experiment
    run.log(
        {
            "frontier/table": wandb.Table(columns, [[record[str(c)] for c in columns] for record in records]),
            "frontier/plot": wandb.Image(str(run_dir / "frontier.png")),
            **{
                f"samples/{name}": wandb.Image(str(run_dir / "samples" / f"{name}.png"))
                for name in report.by_sampler(records)
            },
        }
    )
    for record in records:
        run.summary[f"{record['metric']}/{record['sampler']}@{record['nfe']}"] = record["score"]


def _print_results(records: list[dict[str, Any]], run_dir: Path) -> None:
    console = Console()
    console.print(report.table(records))
    for what, name in (
        ("scores", "frontier.csv"),
        ("whole records", "frontier.json"),
        ("plot", "frontier.png"),
        ("samples", "samples/"),
        ("training curve", "metrics.csv"),
        ("checkpoint", f"checkpoints/{LAST}"),
    ):
        console.print(f"{what:>15}: {run_dir / name}", highlight=False, soft_wrap=True)
