"""The checkpoint with which a run continues, or the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from denoiselab.app.building import rehearsal
from denoiselab.app.building.assemble import Run
from denoiselab.app.building.captions import check_same_tokenizer
from denoiselab.app.runs.paths import newest
from denoiselab.app.runs.run_directory import RunDirectory, differences
from denoiselab.console import console
from denoiselab.data.pairs import PairStore
from denoiselab.errors import BadInput
from denoiselab.files import remove, sha256_of
from denoiselab.from_config import parts, with_hashes
from denoiselab.guidance.teacher import guided
from denoiselab.model import Model
from denoiselab.networks import ControlledTextUNet
from denoiselab.nodes.options import completed
from denoiselab.objectives import Objective
from denoiselab.rebuilding import rebuild
from denoiselab.training.checkpoint_files import (
    CHECKPOINT_KEY,
    CHECKPOINTS,
    CheckpointError,
    check_finite,
    check_weights,
    newest_whole,
    read_checkpoint,
)
from denoiselab.training.ema import RAW, Names
from denoiselab.training.restoring import check_optimizer, check_training
from denoiselab.training.snapshots import basis_of


@dataclass(frozen=True)
class Former:
    """The checkpoint with which a run continues.

    Args:
        path: Of the file.
        images_seen: In training.
        data_sha256: Fingerprint of its samples; None of an earlier version.
        teacher: Record of the teacher; None without one.
        damaged: Newer checkpoints that are damaged, and why.
    """

    path: Path
    images_seen: int
    data_sha256: str | None
    teacher: Mapping[str, Any] | None
    damaged: Mapping[Path, str]

    def put_aside(self) -> None:
        """Rename the damaged files, and report which file is used instead."""
        for path, reason in self.damaged.items():
            aside = path.with_name(f"{path.name}.damaged")
            remove(aside)  # a folder replaces none that holds files
            path.replace(aside)
            console(stderr=True).print(
                f"warning: {reason} It is now {aside.name}; continuing from {self.path.name}, of "
                f"{self.images_seen:,} images seen."
            )


def former(run: Run, directory: RunDirectory, *, leader: bool) -> Former | None:
    """The checkpoint with which the run in a directory continues; None for a new run."""
    try:
        found = newest_whole(directory.path / CHECKPOINTS)
        ours = found[1][CHECKPOINT_KEY] if found else {}
        if leader:
            directory.check_same(run.config, ours.get("config"), found[0].name if found else "")
        if found is None:
            return None
        file, checkpoint, damaged = found
        check_training(file, checkpoint, run.trainer, run.module)
    except CheckpointError as error:
        raise BadInput(str(error)) from None
    run.module.initial = ours.get("initial")
    return Former(file, ours["images_seen"], ours.get("data_sha256"), ours.get("teacher"), damaged)


def initialise(run: Run) -> dict[str, Any] | None:
    """Load the weights that `init_from` names into a new run; returns their record, None without `init_from`."""
    config, module = run.config, run.module
    if config["init_from"] is None:
        return None
    # The first stage of a distillation starts from its teacher, which alone the command names.
    option = "teacher" if config["init_from"] == config.get("teacher") else "init_from"
    path = newest(Path(config["init_from"]), option)
    try:
        checkpoint = read_checkpoint(path)
        check_finite(path, checkpoint)
        ours = checkpoint[CHECKPOINT_KEY]
        check_same_tokenizer(path, ours["config"], config)
        snapshots = basis_of(path, ours)
        weights = Names([*ours["ema"], RAW], snapshots).chosen(
            config["init_weights"], f"{option.removesuffix('_from')}_weights"
        )
        found = _part(checkpoint, "denoiser.")
        average = {} if weights == RAW else snapshots.weights(weights, ours["ema"])
        if average.keys() - found.keys():
            raise CheckpointError(f"{path}: malformed: its averages are not those of its weights.")
        found = with_second_time(module.denoiser, _with_control(module.denoiser, found | average))
        check_weights(path, module.denoiser.state_dict(), found)
        module.denoiser.load_state_dict(found)
        _initialise_objective(run, path, _part(checkpoint, "objective."))
        if config["init_optimizer"]:
            _check_same_optimizer(path, ours["config"], config)
            module.initial_optimizer = check_optimizer(path, checkpoint, module)
    except CheckpointError as error:
        raise BadInput(f"{option}={error}") from None
    _report_differences(path, ours["config"], config)
    module.initial = {
        "checkpoint": str(path.resolve()),
        "checkpoint_sha256": sha256_of(path),
        "images_seen": ours["images_seen"],
        "weights": weights,
        "optimizer": config["init_optimizer"],
        **{name: ours[name] for name in ("initial", "teacher") if ours.get(name)},
    }
    return module.initial


def training_of(run: Run) -> dict[str, Any] | None:
    """What a run's training costs, and which features it sees: its record; None for what draws no samples."""
    objective, model = run.module.objective, run.model
    if not (isinstance(objective, Objective) and isinstance(model, Model)):
        return None
    calls = rehearsal.check_objective(objective, model.denoiser, model.shape[0], len(model.shape))
    return {"calls_per_image": calls, "features": [*objective.metric_features]}


def teach(run: Run, continued: Former | None) -> dict[str, Any] | None:
    """Read the teacher that `teacher` names, for a run that continues too, unless all of its training is done.

    Returns its record, None without one.

    Raises:
        BadInput: If it cannot be used, or is another one than at this run's start.
    """
    config, module = run.config, run.module
    module.teacher = dict(continued.teacher) if continued and continued.teacher else None
    if isinstance(run.batches.latents, PairStore):
        module.teacher = run.batches.latents.taught
    if config.get("teacher") is None:
        return module.teacher
    if continued and continued.images_seen >= run.settings.max_images:
        return module.teacher
    assert isinstance(module.objective, Objective)  # as check_teacher has found
    path = newest(Path(config["teacher"]), "teacher")
    found = rebuild(path, option="teacher")
    if not isinstance(found.model, Model):
        raise BadInput(f"teacher={path}: it draws no samples; name the run of a model that does.")
    names = Names([*found.averages, RAW], found.basis)
    weights = names.chosen(config.get("teacher_weights"), "teacher_weights")
    scale = float(config.get("teacher_guidance", 1.0))
    record = {
        "checkpoint": str(path.resolve()),
        "checkpoint_sha256": sha256_of(path),
        "weights": weights,
        "images_seen": found.images_seen,
        "calls_per_image": module.objective.teacher_calls * (1 if scale == 1 else 2),
        **({} if scale == 1 else {"guidance": scale}),
        **found.origins,
    }
    for key in ("checkpoint_sha256", "weights", "guidance"):
        if continued and record.get(key) != (former := (continued.teacher or {}).get(key)):
            raise BadInput(
                f"teacher={config['teacher']}: the run learned from another one ({key} {str(former)[:12]}, now "
                f"{str(record.get(key))[:12]}); restore that, or start a new run."
            )
    _check_same_input(path, found.config, run)
    denoiser = found.model.denoiser
    if weights != RAW:
        denoiser.load_state_dict(found.basis.weights(weights, found.averages), strict=False)
    assert isinstance(run.model, Model)
    own = run.model.denoiser.schedule
    if completed(found.config["schedule"]) == completed(config["schedule"]) and next(own.parameters(), None) is None:
        denoiser.schedule = own  # whose levels it then need not search for
    try:
        if found.model.grid is not None:
            module.objective.check_distilled(found.model.grid, own)
        module.objective.take_teacher(guided(denoiser, found.model.conditioner, scale))
    except ValueError as error:
        raise BadInput(str(error)) from None
    module.teacher = record
    return record


def described(teacher: Mapping[str, Any]) -> str:
    """A teacher's record in words."""
    called = f"called {teacher['calls_per_image']} times an image"
    if "pairs" in teacher:
        called = f"in {teacher['pairs']:,} pairs, which took {teacher['calls']:,} calls"
    return (
        f"learns from {teacher['checkpoint']}: {teacher['weights']} weights of {teacher['images_seen']:,} images seen, "
        f"{called}"
    )


def _check_same_input(path: Path, theirs: Mapping[str, Any], run: Run) -> None:
    """Refuse a teacher that takes other samples or conditions than the run's network."""
    module = run.model.conditioner.module
    if module is not None and any(one.requires_grad for one in module.parameters()):
        raise BadInput(
            f"teacher={path}: conditions are made by weights that this run trains, so they would not be the teacher's; "
            "take a conditioner with frozen weights."
        )
    ours = run.config
    shapes = [config["data"]["shape"] for config in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"teacher={path}: takes samples of shape {shapes[0]}, and data.shape={shapes[1]}.")
    for part in ("codec", "conditioner"):
        there, here = (with_hashes(completed(config.get(part) or {})) for config in (theirs, ours))
        for key, old, new in differences(there, here):
            if key not in ("dropout", "classes"):  # how it is trained, and what is drawn
                raise BadInput(
                    f"teacher={path}: has {part}.{key}={old}, and this run {new}; a teacher takes the same {part}."
                )


def _with_control(denoiser: nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    """The state of a denoiser; of the frozen part of a controlled network, completed by the part that is trained."""
    network = getattr(denoiser, "network", None)
    if not isinstance(network, ControlledTextUNet) or any(name.startswith("network.control.") for name in found):
        return found
    prefix = "network."
    frozen = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    others = {name: value for name, value in found.items() if not name.startswith(prefix)}
    return {**others, **{f"{prefix}{name}": value for name, value in network.start(frozen).items()}}


def with_second_time(denoiser: nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    """The state of a denoiser that starts from one without a second time: what that lacks is as it was made."""
    prefix = "network.between."
    if any(name.startswith(prefix) for name in found):
        return found
    return {**found, **{name: value for name, value in denoiser.state_dict().items() if name.startswith(prefix)}}


def _part(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def _initialise_objective(run: Run, path: Path, found: dict[str, Any]) -> None:
    """Load the objective's own weights, if the checkpoint's objective has the same."""
    own = run.module.objective.state_dict()
    if own.keys() == found.keys():
        check_weights(path, own, found)
        run.module.objective.load_state_dict(found)
    else:
        console(stderr=True).print(
            "init_from: the checkpoint has another objective; this one's own weights are initialised."
        )


def _check_same_optimizer(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    there, here = (config.get("optimizer", {}).get("_target_") for config in (theirs, ours))
    if there != here:
        raise BadInput(
            f"init_optimizer=true: {path} holds the state of {there}, and this run's optimizer is {here}; give "
            "init_optimizer=false."
        )


def _report_differences(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Report the options in which the checkpoint's model differs."""
    there, here = ({**parts(completed(config)), "data": config["data"].get("name")} for config in (theirs, ours))
    keys = [key for key, _, _ in differences(there, here)]
    if keys:
        console(stderr=True).print(f"init_from={path}: was trained with another {', '.join(keys)}.")
