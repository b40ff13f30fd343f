"""The frontier of a trained run, on disk, on W&B and on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from denoiselab.app.building import error_splits, parts
from denoiselab.app.commands.report import papers
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.failures import check_there
from denoiselab.cleaning import line
from denoiselab.console import console
from denoiselab.evaluation import Frontier, Record, Store, error_split
from denoiselab.evaluation.diversity import MOST
from denoiselab.evaluation.level_losses import HELD_OUT_FILE
from denoiselab.evaluation.records import finished, loss
from denoiselab.evaluation.report import error_picture, plane, tables
from denoiselab.evaluation.report.budget import Budget
from denoiselab.evaluation.report.page import PAGE, page_run, write_page
from denoiselab.evaluation.report.published_curves import Beside, beside
from denoiselab.evaluation.report.verdicts import ONE_TRAINING, VERDICTS, sentences, write_verdicts
from denoiselab.files import read_json, write_text
from denoiselab.media.kinds import medium
from denoiselab.training.checkpoint_files import BEST, CHECKPOINT_KEY, CHECKPOINTS, LAST, newest_whole, read_checkpoint

if TYPE_CHECKING:  # both import Lightning
    from pytorch_lightning.loggers import Logger

    from denoiselab.app.building.assemble import Run, Scoring
    from denoiselab.app.building.evaluator import Evaluator
    from denoiselab.app.config.settings import Evaluation

Config = Mapping[str, Any]

PICTURE = "toy_2d.png"


def restore(run: Run, path: Path) -> None:
    """Give what was trained its weights and averages, on the device of the training, from now on whole on each rank."""
    run.module.gather()
    trained, ema = run.model.trained.to(run.trainer.strategy.root_device), run.module.ema  # Lightning leaves the CPU
    if not ema.averages:  # the training was complete before this start
        found = newest_whole(path / CHECKPOINTS)
        assert found is not None
        saved = read_checkpoint(found[0])
        run.module.load_state_dict(saved["state_dict"])
        ema.averages = saved[CHECKPOINT_KEY]["ema"]
        run.module.images_seen = saved[CHECKPOINT_KEY]["images_seen"]
    ema.start(trained)


def score(run: Run, scoring: Scoring, *, leader: bool) -> list[Record]:
    """The records of the frontier, computed with the weights that the configuration names.

    Raises:
        Stopped: If the run was asked to stop; finished cells are stored.
    """
    if leader:
        tell_budgets(scoring.frontier)
        tell_diversity(scoring.frontier, run.settings.evaluation, "evaluation")
    evaluation, seen = run.settings.evaluation, run.module.images_seen
    records = scoring.evaluator.score(scoring.frontier, evaluation, seen)
    if scoring.fine is not None:
        split_errors(scoring.evaluator, (scoring.frontier, scoring.fine), evaluation, seen, records)
    return records


def write(run: Run, path: Path, records: list[Record], losses: Mapping[str, Any]) -> None:
    """Write the losses by level, and what shows the frontier."""
    check_there(path)
    if losses:
        write_text(path / HELD_OUT_FILE, json.dumps({**losses, "images_seen": run.module.images_seen}, indent=1))
    if run.scoring is not None:
        shape = run.scoring.model.codec.shape
        write_outputs(records, run.scoring.evaluator.store, shape, run.settings.evaluation.level)
        if shape == (2,):
            _draw_plane(run, run.scoring, records, path / PICTURE)


def report(
    run: Run, path: Path, records: Sequence[Record], losses: Mapping[str, Any], loggers: Sequence[Logger]
) -> None:
    """Print what was found, and send it to the loggers."""
    if run.scoring is None:
        report_held_out(losses, path)
    else:
        report_records([*records], path, loggers, published=published(run.config, run.config["evaluation"], records))


def report_held_out(losses: Mapping[str, Any], path: Path) -> None:
    """Print the losses and accuracies of a classifier on held-out data, and where what was written is."""
    for one in losses.get("levels", ()):
        text = f"half log-SNR {one['lam']:+g}: cross-entropy {one['loss']:.3f} nats, accuracy {one['accuracy']:.1%}"
        console().print(f"held-out data at {text}")
    report_files(path)


def split_errors(
    evaluator: Evaluator,
    frontiers: tuple[Frontier, Frontier],
    evaluation: Evaluation,
    images_seen: int,
    records: Sequence[Record],
) -> None:
    """Split the errors of a frontier's cells, the first of `frontiers`, by its fine runs; write the picture."""
    content = error_splits.split_errors(evaluator, frontiers, evaluation, images_seen, records)
    if is_leader():
        error_picture.write(evaluator.store.directory / error_picture.NAME, content["groups"])
        for group in content["groups"][: len(frontiers[0].weights) * len(frontiers[0].guidance)]:
            for sentence in group["sentences"]:
                console().print(sentence)


def tell_budgets(frontier: Frontier) -> None:
    """Say which budgets a sampler cannot spend, and where its grid wastes all calls but one."""
    for name, budget, nfe in frontier.inexact:
        text = f"{name} cannot spend exactly {budget} network calls; it spends {nfe}."
        console(stderr=True).print(text)
    for name, nfe in frontier.as_one:
        rule = name.partition("@")[0]
        console(stderr=True).print(
            f"{name} with {nfe} network calls ends where it does with 1: the other levels of its grid have almost no "
            f"noise, or almost nothing else, so it is no baseline of {nfe} calls; {rule}@power_time, {rule}@vp_time or "
            f"{rule}@asinh has levels between."
        )


def tell_diversity(frontier: Frontier, evaluation: Evaluation, option: str) -> None:
    """Say what is computed beside the metrics of a frontier where guidance acts.

    Args:
        frontier: To be scored.
        evaluation: Its options.
        option: The node of these.
    """
    if evaluation.diversity and frontier.stopping is None and any(one.acts for one in frontier.guidance):
        text = (
            "guidance trades diversity for fidelity, which one distance hides: precision, recall and a distance by "
            f"another extractor are computed too, of each cell's samples against at most {MOST:,} of the data; "
            f"{option}.diversity=false leaves them out."
        )
        console(stderr=True).print(text)


def write_outputs(records: list[Record], store: Store, shape: Sequence[int], level: float) -> None:
    """Write the verdicts, the plot, the sheets of samples and the page of a directory's frontier."""
    store.add([])  # marks of cells that were scored before have the level that is asked for now
    write_verdicts(store, records, level)
    tables.write_pictures(store, records, medium(shape).write_sheet, level)
    asked = {record["cell"] for record in records}
    write_page(store.directory / PAGE, [page_run(store.directory.name, store.directory)], asked, papers(), level=level)


def _draw_plane(run: Run, scoring: Scoring, records: list[Record], path: Path) -> None:
    """The picture of the best cell of this run's samplers."""
    cells = [record for record in finished(records) if record["sampler"] in scoring.frontier.samplers]
    if not cells:
        return
    best = min(cells, key=loss)
    data = run.images.fresh(plane.DATA, 4) or run.held_out
    parts = (run.module.objective, scoring.model.denoiser.schedule)
    with scoring.evaluator.applied(best["weights"]), scoring.model.evaluating():
        plane.write_picture(
            path,
            scoring.model,
            scoring.frontier.samplers[best["sampler"]],
            best,
            data.stored(torch.arange(len(data))),
            ", ".join(type(part).__name__ for part in parts),
            (lambda moment: None) if dist.is_initialized() else run.interruption.check,
        )


def published(config: Config, evaluation: Config, records: Sequence[Record]) -> Beside | None:
    """The published values beside the cells of a checked evaluation, if it names any.

    Args:
        config: Of the run.
        evaluation: Its evaluation, or another one.
        records: The cells.
    """
    found = parts.published_values(evaluation)
    return None if found is None else beside(*found, records, config)


def report_records(
    records: list[Record],
    path: Path,
    loggers: Sequence[Logger],
    best_under: Budget | None = None,
    published: Beside | None = None,
) -> None:
    """Send the frontier to the loggers, and print its table, the best within a budget, and what was written."""
    if loggers:
        from denoiselab.training.frontier_entries import log_frontier
        from denoiselab.training.loggers import WandBRun  # imports Lightning
        from denoiselab.training.trackers import TrackedRun
        from denoiselab.training.wandb_frontier import send_frontier

        for logger in loggers:
            if isinstance(logger, WandBRun):
                send_frontier(logger, records, path)
            elif isinstance(logger, TrackedRun):
                log_frontier(logger, records, path)
    out = console()
    out.print(tables.table(records, published))
    found = read_json(path / VERDICTS)
    said = sentences(found)
    for sentence in [*said, *([ONE_TRAINING] if said else [])]:
        out.print(line(sentence))
    for sentence in best_under.sentences(Store(path), records, found["level"]) if best_under is not None else ():
        out.print(line(sentence))
    if others := sum(record.get("other_code", False) for record in records):
        label = "code=...: " if others < len(records) else ""
        out.print(
            f"{label}{others} of these {len(records)} cells were scored by another version of the code, and are "
            "kept; evaluation.rescore=true (sample.py: task.rescore=true) scores again those that are asked for."
        )
    for record in records:
        if record["error"]:
            out.print(f"failed: {record['sampler']} at NFE {record['nfe']}: {record['error']}")
    report_files(path)


def report_files(path: Path) -> None:
    """Print where what was written is."""
    for what, name in (
        ("page", PAGE),
        ("scores", "frontier.csv"),
        ("whole records", "frontier.json"),
        ("verdicts", VERDICTS),
        ("plot", "frontier.png"),
        ("samples", "samples/"),
        ("error split", error_split.FILE),
        ("its picture", error_picture.NAME),
        ("picture", PICTURE),
        ("training curve", "metrics.csv"),
        ("loss by level", HELD_OUT_FILE),
        ("profile", "fit-profile.txt"),
        ("checkpoint", f"{CHECKPOINTS}/{LAST}"),
        ("best checkpoint", f"{CHECKPOINTS}/{BEST}"),
    ):
        if (path / name).exists():
            console().print(f"{what:>15}: {path / name}")
