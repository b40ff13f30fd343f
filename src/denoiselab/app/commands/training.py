"""One training run: assemble, fit, score, report."""

from __future__ import annotations

import logging
import math
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.loggers import Logger

from denoiselab.app.building import starting
from denoiselab.app.building.assemble import Run, assemble
from denoiselab.app.building.held_out import HELD_OUT_LOSS
from denoiselab.app.building.starting import Former
from denoiselab.app.commands import first_stage_outputs, outputs
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.failures import enough_memory, less_memory
from denoiselab.app.runs.names import run_name
from denoiselab.app.runs.processes import whole
from denoiselab.app.runs.run_directory import RunDirectory
from denoiselab.app.sweeps.records import Sweep, group_of
from denoiselab.app.sweeps.results import Outcome
from denoiselab.conditioners import Clean
from denoiselab.console import console
from denoiselab.errors import BadInput, Failure
from denoiselab.evaluation import Record
from denoiselab.evaluation.records import loss
from denoiselab.files import write_text
from denoiselab.media.kinds import Images, medium
from denoiselab.networks.summary import Summary, summarize
from denoiselab.stored import to_stored
from denoiselab.trained import FirstStage
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, CHECKPOINTS, CheckpointError, newest_whole, saved
from denoiselab.training.finite import DivergedError
from denoiselab.training.loggers import MetricsCSV

Config = dict[str, Any]

OPTIMIZED = "optimized"  # what trackers call the value that a sweep minimises, whatever it is of


def run(config: Config, directory: Path | None = None, stage: str = "") -> Outcome:
    """Train, score, report; the value of the outcome is the `optimized_metric`, infinity where all its cells failed.

    Args:
        config: Checked configuration, plain containers.
        directory: Of a job of a multirun; a single run's is `paths.run_dir`. Each may be a former run's.
        stage: The folder there of a stage of several; empty for a whole training.

    Raises:
        BadInput: If parts do not fit together, or the directory cannot be used.
        Stopped: If the run was asked to stop; it has saved its state.
    """
    _silence_lightning()
    home = directory or Path(config["paths"]["run_dir"])
    config["paths"]["run_dir"] = str(path := home / stage)
    continues = _continues(*(("paths.run_dir", home) if directory is None else ("hydra.sweep.dir", home.parent)))
    run = assemble(config, path, continues)

    def advice() -> str:
        kept = any(saved(path / CHECKPOINTS))
        return f"the last checkpoint is kept; to continue: {continues}" if kept else "nothing was saved yet"

    leader, needs = is_leader(), _checkpoints(run).needs
    with RunDirectory(path, needs, leader=leader) as place, run.interruption, whole(run.trainer, path, advice):
        continued = starting.former(run, place, leader=leader)
        images_seen = continued.images_seen if continued else 0
        if images_seen - run.settings.batch_size >= run.settings.max_images:
            raise BadInput(f"max_images={run.settings.max_images}: the run in {path} has seen {images_seen} already.")
        initial = None if continued else starting.initialise(run)
        origins = {"training": starting.training_of(run), "initial": initial, "teacher": starting.teach(run, continued)}
        if not leader and images_seen >= run.settings.max_images:
            return Outcome(math.nan)  # nothing to train, so no group of processes: the leader scores alone
        if leader:
            place.describe(config, str(run.module.data_sha256), continued.data_sha256 if continued else None, origins)
            for name, content in run.files.items():
                write_text(path / name, content)
            _describe(run, place, continued, initial)
            _show_data(run, path / "samples" / "data.png")
        with _loggers(run, place, images_seen, leader=leader) as loggers:
            run.trainer.loggers = loggers
            if images_seen < run.settings.max_images:
                with enough_memory(less_memory(config)):
                    _fit(run, path, continued.path if continued else None)
            run.interruption.install()
            with enough_memory(f"evaluation.batch_size={max(1, run.settings.evaluation.batch_size // 2)}"):
                outputs.restore(run, path)
                records = [] if run.scoring is None else outputs.score(run, run.scoring, leader=leader)
                losses = run.held_out_losses()
                if leader:
                    outputs.write(run, path, records, losses)
            if run.reconstructions is not None:
                found = first_stage_outputs.finish(run, run.reconstructions, path, leader=leader)
                outcome = Outcome(found, images_seen=run.module.images_seen)
            else:
                if leader:
                    outputs.report(run, path, records, losses, loggers)
                outcome = _outcome(run, records, losses, leader=leader)
            for tracker in loggers[1:] if math.isfinite(outcome.value) else ():
                tracker.log_metrics({OPTIMIZED: outcome.value}, run.module.images_seen)
    return outcome


def _silence_lightning() -> None:
    """What Lightning says of defaults, tips, loaders and srun is said better here, or is not so."""
    for package in ("pytorch_lightning", "lightning_fabric"):
        warnings.filterwarnings("ignore", module=package)
        logging.getLogger(package).setLevel(logging.WARNING)


class _Checkpoints(NamedTuple):
    """Those of a run that are on the disk at a time.

    Attributes:
        number: Of them.
        size: Bytes of one, at most.
        snapshots: Bytes of all snapshots of averages, at most.
        needs: Bytes that the run needs.
    """

    number: int
    size: int
    snapshots: int
    needs: int


def _checkpoints(run: Run) -> _Checkpoints:
    parameters = sum(p.numel() for p in run.model.trained.parameters())
    trained = parameters + sum(p.numel() for p in run.module.objective.parameters())
    size = 4 * (3 * trained + parameters * len(run.module.ema.profiles))  # weights, two moments; averages
    keep = (run.config["callbacks"].get("checkpoints") or {}).get("keep_last", 2)
    number = keep + 2  # the last ones, the best one and the one being written; and what waits to be uploaded:
    ema = run.module.ema
    snapshots = ema.snapshots.size(parameters * len(ema.widths)) if ema.snapshots else 0
    return _Checkpoints(number, size, snapshots, (number + 2 * len(run.trackers)) * size + snapshots + 20_000_000)


def _describe(run: Run, directory: RunDirectory, continued: Former | None, initial: dict[str, Any] | None) -> None:
    """Say what the run starts from, and how large it is."""
    err = console(stderr=True)
    for change in directory.changes:
        err.print(f"changed since this run's last start: {change}")
    if directory.edited:
        err.print(f"warning: {directory.edited}")
    if continued:
        continued.put_aside()
    err.print(f"network {run.config['network']['_target_'].rpartition('.')[2]}: {_costs(run)}")
    if isinstance(run.model, FirstStage):
        err.print(first_stage_outputs.described(run.model, run.module.objective))
    elif run.scoring is None:
        err.print(
            "a classifier draws no samples: evaluation, callbacks.frontier and callbacks.preview do nothing; its loss "
            "and accuracy on held-out data are logged by callbacks.held_out."
        )
    if initial:
        err.print(
            f"starts from {initial['checkpoint']}: {initial['weights']} weights of {initial['images_seen']:,} images "
            f"seen, {'with' if initial['optimizer'] else 'without'} its optimizer's state"
        )
    if run.module.teacher:
        err.print(starting.described(run.module.teacher))
    checkpoints = _checkpoints(run)
    err.print(
        f"run {directory.path}: {len(run.images):,} images of {run.settings.data['name']}; "
        f"{continued.images_seen if continued else 0:,} of {run.settings.max_images:,} images seen; "
        f"{checkpoints.number} checkpoints of up to {checkpoints.size / 1e6:,.0f} MB at a time"
        + (f", snapshots of up to {checkpoints.snapshots / 1e6:,.0f} MB in all" if checkpoints.snapshots else "")
    )


def _costs(run: Run) -> Summary:
    """The costs of the network, of a first stage those of encoding and decoding."""
    x = torch.zeros(2, *run.model.shape)
    if isinstance(run.model, FirstStage):
        return summarize(run.model.trained, x, None, None)
    cond = run.model.conditioner.given(Clean.blank(2, run.model.codec.shape))
    return summarize(run.model.trained.network, x, torch.zeros(2), None if run.scoring is None else cond)


def _outcome(run: Run, records: list[Record], losses: Mapping[str, Any], *, leader: bool) -> Outcome:
    """The best cell, with the number that a sweep minimises."""
    images_seen = run.module.images_seen
    if run.settings.optimized_metric == HELD_OUT_LOSS:
        return Outcome(float(losses["loss"]), images_seen=images_seen)
    assert run.scoring is not None  # a classifier's metric is the loss
    try:
        best = run.scoring.optimized.best(record for record in records if record["images_seen"] == images_seen)
        return Outcome(loss(best), best, images_seen)
    except ValueError as failed:  # the run is complete, and its table says which cells failed
        if leader:
            console(stderr=True).print(f"{failed} The value of this run is inf.")
        return Outcome(math.inf, None, images_seen, str(failed))


def _continues(option: str, place: Path) -> str:
    """The command that continues this run, which `option` finds again in its place."""
    try:
        words = Sweep.read(place).command  # of a sweep: a launcher's processes have a command line of their own
    except BadInput:
        words = tuple(sys.argv)
    given = any(argument.startswith(f"{option}=") for argument in words)
    lightnings = ("hydra.run.dir=", "hydra.job.name=", "hydra.output_subdir=")  # for the processes that it starts
    command = shlex.join(["python", *(argument for argument in words if not argument.startswith(lightnings))])
    return command if given else f"{command} {override(option, place)}"


def _show_data(run: Run, path: Path) -> None:
    """Write the picture of the first training samples as they are given to the network, if it is not there."""
    shown = medium(run.model.codec.shape)
    if not path.exists():
        n = 64 if isinstance(shown, Images) else shown.shown
        shown.write_grid(path, to_stored(run.batches.first(n)))


def _fit(run: Run, path: Path, checkpoint: Path | None) -> None:
    """Train, from a checkpoint on."""
    try:
        run.trainer.fit(run.module, datamodule=run.batches, ckpt_path=checkpoint, weights_only=True)
    except DivergedError as error:
        change = "a lower optimizer.lr or trainer.gradient_clip_val"
        try:
            left = newest_whole(path / CHECKPOINTS)
        except CheckpointError:
            left = None
        if left is None:
            raise Failure(f"{error}; there is no checkpoint before that, so start anew with {change}.") from error
        file, content, _ = left
        raise Failure(
            f"{error}; {file}, of {content[CHECKPOINT_KEY]['images_seen']:,} images seen, is kept: start a new run "
            f"with {override('init_from', file)} and {change}."
        ) from error


@contextmanager
def _loggers(run: Run, directory: RunDirectory, images_seen: int, *, leader: bool) -> Iterator[list[Logger]]:
    """The run's loggers; trackers end with the run's exit code."""
    metrics = MetricsCSV(directory.path / "metrics.csv", images_seen)
    if not leader:
        yield [metrics]
        return
    metrics.truncate()
    path, group = directory.path, group_of(directory.path)
    opened = [
        tracker.open(path, directory.info["wandb_id"], run_name(path), run.config, group=group)
        for tracker in run.trackers.values()
    ]
    code = 1
    try:
        yield [metrics, *opened]
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        for logger in opened:
            logger.close(code)
