"""Checks of a run before it starts: its parts are built on the meta device, which holds no numbers."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

from denoiselab import released
from denoiselab.app.building import checks, parts, stored_latents
from denoiselab.app.building.evaluator import frontier_of, optimized_metric
from denoiselab.app.building.first_stages import check_metric
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.held_out import HELD_OUT_LOSS
from denoiselab.app.building.training_callbacks import PeriodicEvaluations
from denoiselab.app.config.settings import Config, Evaluation, TrainSettings, parse
from denoiselab.app.runs.devices import check_devices, is_elsewhere
from denoiselab.app.runs.launches import check_requeue
from denoiselab.app.runs.strategies import check_checkpoints
from denoiselab.codecs import Identity, ReconstructionLoss
from denoiselab.data import ImageSource
from denoiselab.errors import BadInput
from denoiselab.from_config import build, classifies, reconstructs
from denoiselab.nodes.instantiate import check, construct
from denoiselab.objectives import Objective
from denoiselab.trained import ClassifierModel, FirstStage
from denoiselab.training.checkpoint_files import CHECKPOINTS, saved
from denoiselab.training.ema import RAW
from denoiselab.training.preparing import check_compile

# What the model, its objective and its scores do not depend on.
_OF_TRAINING = ("optimizer", "lr_schedule")
_ASIDE = (
    "paths",
    "name",
    "init_from",
    "init_weights",
    "init_optimizer",
    "traceback",
    "requeue",
    "trainer",
    "logger",
    "latents",
    "pairs",
    "decode_memory",
)

# Nodes of Lightning's classes, which `assemble` checks by their imported signatures; these checks read their source.
_LATER = ("trainer", "callbacks", "logger")


def check_config(config: Config, *, sweeping: bool) -> None:
    """Check a configuration without loading data, building weights or importing Lightning."""
    settings = parse(TrainSettings, config)
    check_devices(config["trainer"], settings.batch_size, sweeping=sweeping)
    check_checkpoints(config["trainer"], config["callbacks"])
    if config["trainer"]["precision"] == "bf16-true" and reconstructs(config):
        raise BadInput("trainer.precision=bf16-true: a first stage is no single call of a network; use bf16-mixed.")
    _check_start(settings, sweeping=sweeping)
    check_requeue(asked=settings.requeue and not is_elsewhere())
    stored_latents.check_augmentation(config, parts.build_augmentation(config))
    check({name: config[name] for name in _OF_TRAINING})
    parts.build_optimizer(config["optimizer"])
    _rehearse(json.dumps({name: node for name, node in config.items() if name not in (*_OF_TRAINING, *_ASIDE)}))


@functools.lru_cache(maxsize=256)
def _rehearse(content: str) -> None:
    """Build the parts of a configuration, as JSON, once for all jobs of a sweep that differ in nothing of it."""
    config = json.loads(content)
    evaluation = parse(Evaluation, config["evaluation"], "evaluation")
    check({name: node for name, node in config.items() if name not in _LATER})
    if not classifies(config):
        try:
            parts.build_extractor(config, evaluation, None if reconstructs(config) else evaluation.num_samples)
        except BadInput:
            _check_files(config["data"])  # absent images come before absent weights of what scores them
            raise
    objective = parts.build_objective(config)
    with torch.device("meta"):  # no memory, no arithmetic: a sweep checks every job so
        model = build(config)
    check_teacher(config, objective)
    checks.check_model(model, objective)
    check_compile(config.get("compile", "off"), model, objective)
    if not isinstance(model.codec, Identity):
        assert isinstance(objective, Objective)
        _check_decoders(objective)
    parts.build_augmentation(config)
    names = parts.build_ema(config).planned(config["max_images"], config["batch_size"])
    if isinstance(model, FirstStage):
        assert isinstance(objective, ReconstructionLoss)
        check_metric(config["optimized_metric"], objective)
        return
    if isinstance(model, ClassifierModel):
        if config["optimized_metric"] != HELD_OUT_LOSS:
            raise BadInput(
                f"optimized_metric={config['optimized_metric']}: a classifier draws no samples, so its training has no "
                f"frontier; give {HELD_OUT_LOSS}."
            )
        return
    optimized_metric(config["optimized_metric"], frontier_of(config["evaluation"], Guided(model, config), names))
    periodic = PeriodicEvaluations(config, model, names)
    if "frontier" in config["callbacks"]:
        periodic.frontier(*(config["callbacks"]["frontier"][key] for key in ("samplers", "nfe", "num_samples")))
    if "preview" in config["callbacks"]:
        periodic.preview(*(config["callbacks"]["preview"][key] for key in ("sampler", "nfe", "num_samples")))


def _check_files(node: Config) -> None:
    """Refuse images that are not where `data.root` says, on this machine."""
    source = construct(node, "data")
    root = getattr(source, "root", None)
    if isinstance(source, ImageSource) and root and "://" not in root and not getattr(source, "download", False):
        try:
            source.records()
        except (ValueError, OSError) as error:
            raise BadInput(str(error)) from None


def _check_start(settings: TrainSettings, *, sweeping: bool) -> None:
    """Check that `init_from` exists, which a run that continues does not need, and `teacher`."""
    if settings.init_from is None:
        for option, asked, default in (
            ("init_weights", settings.init_weights, RAW),
            ("init_optimizer", settings.init_optimizer, False),
        ):
            if asked != default:
                raise BadInput(f"{option}={str(asked).lower()}: has no effect without init_from=<run or file>.")
    elif not (
        sweeping or _is_there("init_from", settings.init_from) or saved(Path(settings.paths.run_dir) / CHECKPOINTS)
    ):
        raise BadInput(f"init_from={settings.init_from}: no such run directory or checkpoint file.")
    if not (sweeping or settings.teacher is None or _is_there("teacher", settings.teacher)):
        raise BadInput(f"teacher={settings.teacher}: no such run directory or checkpoint file.")


def _is_there(option: str, path: str) -> bool:
    return released.place(Path(path), option).exists()


def check_teacher(config: Config, objective: Objective | ReconstructionLoss) -> None:
    """Refuse an objective that learns from a teacher without one, and a teacher that is not used."""
    name, given = type(objective).__name__, config.get("teacher")
    uses = isinstance(objective, Objective) and objective.uses_teacher
    if uses and given is None:
        raise BadInput(f"teacher=null: objective {name} learns from a trained model; give teacher=<run or file>.")
    if given is not None and not uses:
        raise BadInput(f"teacher={given}: objective {name} learns from none; leave it out.")
    if given is None and config.get("teacher_weights") is not None:
        raise BadInput(f"teacher_weights={config['teacher_weights']}: has no effect without teacher=<run or file>.")
    if given is None and config.get("teacher_guidance", 1) != 1:
        raise BadInput(f"teacher_guidance={config['teacher_guidance']}: has no effect without teacher=<run or file>.")


def check_stages(before: Config, after: Config) -> None:
    """Check that a stage may learn from the one before."""
    former, objective = (parts.build_objective(config) for config in (before, after))
    try:
        if isinstance(objective, Objective) and isinstance(former, Objective):
            objective.check_stage(former)
    except ValueError as error:
        raise BadInput(f"stages.{error}") from None


def _check_decoders(objective: Objective) -> None:
    """Check that an objective on latents has no decoder of bytes."""
    for name, module in objective.named_modules():
        if getattr(getattr(module, "decoder", None), "bins", None) is not None:
            path = ".".join(filter(None, ("objective", name, "decoder")))
            raise BadInput(f"{path}: it is for bytes, and latents are real numbers; choose decoder@{path}=real.")
