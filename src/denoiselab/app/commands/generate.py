"""Samples from a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from denoiselab import progress
from denoiselab.app.building import checks
from denoiselab.app.building.analytic_moments import learn
from denoiselab.app.building.classifier_guidance import Steering, check_steering, steering
from denoiselab.app.building.imports import check_source
from denoiselab.app.config import overrides
from denoiselab.app.config.settings import Evaluation, SampleSettings, parse
from denoiselab.app.runs.paths import check_accelerator, checkpoint_file, device_of, new_folder, new_path, short_hash
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of, write_text
from denoiselab.instantiate import check, construct
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing, Model, mean_count
from denoiselab.noise import SAMPLING, BrownianNoise, Noise
from denoiselab.pretrained import read_weights
from denoiselab.samplers import Analytic, Sampler, slerp
from denoiselab.schedules import Schedule
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.interruption import Interruption

Config = dict[str, Any]

_NOISES = {"independent": Noise, "brownian": BrownianNoise}

# Options that a grid does not read, and a frontier.
_NOT_OF_GRIDS = ("num_samples", "batch_size", "seed", "noise", "format", "split", "repeats")
_OF_SAMPLES = ("weights", *_NOT_OF_GRIDS, "guidance")

# What the program may do with a checkpoint instead of drawing samples.
TASKS = ("frontier", "likelihood", "grid", "export", "encode", "interpolate")


def check_config(config: Config, *, sweeping: bool = False) -> SampleSettings:
    """Check all that can be checked before anything is built.

    Raises:
        BadInput: Something is wrong.
    """
    if config.get("import") is not None:
        config = {**config, "ckpt": check_source(config)}
    elif config["ckpt"] == "???":
        raise BadInput("ckpt: is not given; pass ckpt=<run directory or file>, or import=<source> import.path=...")
    settings = parse(SampleSettings, config)
    tasks = {name: config.get(name) for name in TASKS}
    check({"sampler": settings.sampler, "logger": settings.logger, "data": settings.data, **tasks})
    if settings.data is not None and settings.import_ is None and settings.export is not None:
        raise BadInput(f"data={settings.data.get('name')}: an export takes none; leave it out.")
    construct(settings.sampler, "sampler")
    if settings.classifier_guidance is not None:
        check_steering(config["classifier_guidance"])
    asked = [name for name in TASKS if config.get(name) is not None]
    if asked and any(value is not None for _, value in settings.conditioner):
        raise BadInput(f"conditioner: its options are those of samples; {asked[0]} takes the run's own.")
    if len(asked) > 1:
        raise BadInput(f"{' and '.join(asked)}: give one of them.")
    if asked in (["frontier"], ["grid"]):
        _check_alone(config, asked[0])
    if settings.classifier_guidance is not None and asked not in ([], ["frontier"]):
        raise BadInput(f"classifier_guidance: it guides samples and frontiers; {asked[0]} does not take it.")
    if settings.frontier is None and isinstance(settings.ckpt, list):
        raise BadInput(f"ckpt={settings.ckpt}: only frontier=default takes several.")
    check_accelerator(settings.accelerator)
    return settings


def _check_alone(config: Config, task: str) -> None:
    """Refuse options of samples beside a frontier or a grid, which has its own.

    Raises:
        BadInput: One is not as it is by default.
    """
    default = OmegaConf.to_container(overrides.composed("sample", []))
    assert isinstance(default, dict)
    if task == "frontier" and config["sampler"] != default["sampler"]:
        raise BadInput("sampler: it is of samples; frontier takes frontier.samplers=[...].")
    takes, names = (Evaluation.model_fields, _OF_SAMPLES) if task == "frontier" else (config[task], _NOT_OF_GRIDS)
    for name in names:
        if config[name] != default[name]:
            instead = f"takes {task}.{name}" if name in takes else "has no such option"
            raise BadInput(f"{name}={config[name]}: it is of samples; {task} {instead}.")


def sample(config: Config) -> Path:
    """Draw samples, or those between their x_T, and write them to a new folder, which is returned.

    Raises:
        BadInput: The checkpoint or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    sampler: Sampler = construct(settings.sampler, "sampler")
    path = checkpoint_file(settings.ckpt)
    conditions = {name: value for name, value in settings.conditioner if value is not None}
    loaded, weights = read_weights(path, settings.weights, conditions, settings.data)
    model = loaded.model
    checks.check_scales(model, [settings.guidance], f"guidance={settings.guidance}")
    checks.check_conditions(model)
    checks.check_sampler(sampler, model, [settings.guidance])
    number, frames = settings.num_samples, settings.interpolate
    if frames is not None:
        _check_ends(sampler, number, frames)
        number = number // 2 * frames
    checkpoint = sha256_of(path)
    asked = [settings.sampler, checkpoint, settings.format, settings.guidance, settings.noise]
    asked += [conditions] if conditions else []
    asked += [] if frames is None else [frames]
    device = device_of(settings.accelerator)
    steer = steering(settings.classifier_guidance, model, device)
    if steer is not None:
        asked.append(steer.facts)
    rule = f"{type(sampler).__name__.lower()}_steps{sampler.steps}"
    folder = f"{rule}_{weights}_seed{settings.seed}_n{settings.num_samples}_{short_hash(asked)}"
    out = new_path(settings, path, "samples" if frames is None else "interpolations", folder)
    denoiser = model.denoiser.to(device).eval()
    calls = _calls(sampler, denoiser.schedule)
    with (
        new_folder(out) as partial,
        Interruption() as interruption,
        progress.bar("sampling", number * calls, unit="call") as bar,
    ):
        learn(sampler, model, lambda: loaded.data()[0], home_of(path), interruption.check)

        def on_steps(size: int) -> progress.Steps:
            return progress.Steps(bar, size * calls, lambda moment: interruption.check())

        samples, counts = _drawn(sampler, model, settings, number, steer, on_steps)
        record = {
            **config,
            "checkpoint": str(path.resolve()),
            "checkpoint_sha256": checkpoint,
            "weights": weights,
            **counts,
            **({} if settings.guidance == 1 else {"guided_channels": model.conditioner.guided_channels}),
            **({} if steer is None else steer.facts),
        }
        rows = torch.arange(number)
        index = rows if frames is None else rows // frames * 2  # whose condition the frames have
        labels = (model.conditioner if steer is None else steer).described(index)
        medium(model.codec.shape).write_samples(partial, samples, settings.format, frames, labels)
        write_text(partial / "samples.json", json.dumps(record, indent=1))
    console().print(f"{number} samples, {record['nfe']} network calls each, weights {weights}: {out}")
    return out


def _drawn(
    sampler: Sampler,
    model: Model,
    settings: SampleSettings,
    number: int,
    steer: Steering | None,
    on_steps: Callable[[int], progress.Steps],
) -> tuple[Tensor, dict[str, float]]:
    """`number` samples, on the CPU, and the calls and evaluations of networks that one took.

    Args:
        sampler: Of the samples.
        model: With its denoiser on the device where it shall work.
        settings: The program's.
        number: Of samples, frames between two others included.
        steer: Guides them by a classifier; None for nothing.
        on_steps: Makes what is called after each step of a batch of a size.
    """
    drawing = Drawing(sampler, settings.seed, None, settings.guidance, _NOISES[settings.noise], steer)
    batches, counts = [], Counter[str]()
    for index in torch.arange(number, device=model.device).split(settings.batch_size):
        start, on_step = None, on_steps(len(index))
        if settings.interpolate is not None:
            index, start = _between(index, settings.interpolate, sampler, model, settings.seed)
        samples, counted = model.draw(index, drawing, on_step, start=start)
        on_step.finish()
        batches.append(samples.cpu())
        counts.update(nfe=counted.rows, network_evaluations=counted.evaluated_rows)
        if steer is not None:
            counts.update(classifier_evaluations=counted.classified_rows)
    return torch.cat(batches), {name: mean_count(rows, number) for name, rows in counts.items()}


def _calls(sampler: Sampler, schedule: Schedule) -> int:
    """Network calls of a sample, as far as they are known before.

    Raises:
        BadInput: The sampler refuses the schedule.
    """
    try:
        calls = 1 if sampler.adaptive else sampler.nfe(sampler.steps, schedule)
        if not isinstance(sampler, Analytic):  # which must know the model first
            with torch.no_grad():
                sampler.plan(schedule, sampler.grid(schedule))
    except ValueError as error:
        raise BadInput(f"sampler: {error}") from None
    return calls


def _check_ends(sampler: Sampler, count: int, frames: int) -> None:
    """Refuse what has no samples between two others."""
    if sampler.stochastic:
        raise BadInput(
            f"interpolate={frames}: {type(sampler).__name__} is stochastic, so x_T does not decide its samples; "
            "use a deterministic sampler (ddim, with eta=0)."
        )
    if count % 2:
        raise BadInput(f"num_samples={count}: interpolate={frames} takes pairs of samples; give an even number.")


def _between(rows: Tensor, frames: int, sampler: Sampler, model: Model, seed: int) -> tuple[Tensor, Tensor]:
    """The first of the pair of frames `rows` `(B,)`, and x_T on the great circle from its own to the next sample's."""
    first = rows // frames * 2
    ends = [Noise(seed, index, SAMPLING).normal(model.shape) for index in (first, first + 1)]
    sigma = float(sampler.grid(model.denoiser.schedule)[0].sigma)
    return first, slerp(ends[0], ends[1], rows % frames / (frames - 1)) * sigma
