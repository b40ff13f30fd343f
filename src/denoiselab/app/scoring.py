"""The frontier of a trained run, on disk, on W&B and on the screen."""

from __future__ import annotations

import hashlib
import importlib.metadata
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.loggers import Logger
from torch import nn

from denoiselab.app.assemble import Run
from denoiselab.app.errors import console
from denoiselab.data import DataSet
from denoiselab.evaluation import Scorer, Statistics, plane, report
from denoiselab.training.checkpoints import CHECKPOINTS, LAST, read_checkpoint
from denoiselab.training.loggers import WandBRun
from denoiselab.training.module import CHECKPOINT_KEY

Records = list[dict[str, Any]]

# What a score of fresh data is averaged over.
_FRESH = 4
_PICTURE = "toy_2d.png"


def score(run: Run, path: Path, *, leader: bool) -> Records:
    """The records of the frontier, computed with the weights that the configuration names.

    Raises:
        Stopped: The run was asked to stop; finished cells are stored.
    """
    # Several ranks stop between cells, where they can agree on it.
    check = (lambda moment: None) if dist.is_initialized() else run.interruption.check
    scorer = _scorer(run, check, leader=leader)
    reference = _statistics(scorer, {"train": run.images, "held_out": run.held_out}[scorer.split])
    notes = _floor(run, scorer, reference)
    # Lightning leaves the module on the CPU.
    denoiser, ema = run.model.denoiser.eval().to(run.trainer.strategy.root_device), run.module.ema
    for name, budget, nfe in run.frontier.inexact:
        _tell(f"{name} cannot spend exactly {budget} network calls; it spends {nfe}.", leader=leader)
    if not ema.averages:  # the training was complete before this start
        saved = read_checkpoint(path / CHECKPOINTS / LAST)
        run.module.load_state_dict(saved["state_dict"])
        ema.averages = saved[CHECKPOINT_KEY]["ema"]
        run.module.images_seen = saved[CHECKPOINT_KEY]["images_seen"]
    ema.start(denoiser)
    with ema.applied(denoiser, run.weights):
        protocol = {
            "data": run.config["data"]["name"],
            "split": scorer.split,
            "weights": run.weights,
            "images_seen": run.module.images_seen,
            "weights_sha256": digest(denoiser),
            **scorer.facts,
            "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
        }
        records = run.frontier.run(
            denoiser,
            run.model.conditioner,
            run.model.shape,
            scorer,
            reference,
            path,
            protocol,
            run.samplers,
            check,
            lambda: _agree_to_stop(run),
            notes,
        )
        if leader and run.model.shape == (2,):
            _draw_plane(run, records, path / _PICTURE, check)
        return records


def _statistics(scorer: Scorer[Any], data: DataSet) -> Statistics:
    out: Statistics = scorer.statistics()
    for batch in data.stored.split(512):
        out.update(batch)
    return out


def _floor(run: Run, scorer: Scorer[Any], reference: Statistics) -> dict[str, float]:
    """The score of fresh draws of the data, as many points as a cell has samples: nobody can do better.

    Nothing where the density is not known.
    """
    draws = [run.images.fresh(run.frontier.num_samples, number) for number in range(_FRESH)]
    scores = [scorer.distance(_statistics(scorer, data), reference) for data in draws if data is not None]
    if not scores:
        return {}
    return {"floor": statistics.fmean(scores), "floor_std": statistics.stdev(scores)}


def _draw_plane(run: Run, records: Records, path: Path, check: Callable[[object], None]) -> None:
    """The picture of the best cell of this run's samplers."""
    best = min((r for r in records if r["sampler"] in run.frontier.samplers), key=lambda r: r["score"])
    data = run.images.fresh(plane.DATA, _FRESH) or run.held_out
    parts = (run.module.objective, run.model.denoiser.schedule)
    plane.write_picture(
        path,
        run.model.denoiser,
        run.model.conditioner,
        run.frontier.samplers[best["sampler"]],
        best,
        data.stored,
        ", ".join(type(part).__name__ for part in parts),
        check,
    )


def _agree_to_stop(run: Run) -> None:
    """Stop all ranks if one was signalled: a rank that left alone would leave the others waiting."""
    if dist.is_initialized():
        flag = torch.tensor(int(run.interruption.signal is not None), device=run.trainer.strategy.root_device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        if flag:
            run.interruption.stop()


def report_records(records: Records, path: Path, loggers: list[Logger]) -> None:
    """Send the frontier to W&B, and print its table and what was written."""
    for logger in loggers:
        if isinstance(logger, WandBRun):
            _to_wandb(logger, records, path)
    out = console()
    out.print(report.table(records))
    for what, name in (
        ("scores", "frontier.csv"),
        ("whole records", "frontier.json"),
        ("plot", "frontier.png"),
        ("samples", "samples/"),
        ("picture", _PICTURE),
        ("training curve", "metrics.csv"),
        ("checkpoint", f"{CHECKPOINTS}/{LAST}"),
    ):
        if (path / name).exists():
            out.print(f"{what:>15}: {path / name}")


def _scorer(run: Run, check: Callable[[object], None], *, leader: bool) -> Scorer[Any]:
    """The scorer, trained by the first rank if it is not in the cache."""
    if dist.is_initialized() and not leader:
        dist.barrier()
    scorer = run.extractor.fit(run.images, run.held_out, Path(run.settings.paths.cache_dir), check, shown=leader)
    if dist.is_initialized() and leader:
        dist.barrier()
    if scorer.told:
        _tell(f"{run.config['data']['name']} is scored by {scorer.told}", leader=leader)
    return scorer


def _tell(text: str, *, leader: bool) -> None:
    if leader:
        console(stderr=True).print(text)


def digest(module: nn.Module) -> str:
    """sha256 of names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _to_wandb(logger: WandBRun, records: Records, path: Path) -> None:
    import wandb  # slow to import

    columns = ["sampler", "nfe", "steps", "score", "metric", "n", "seconds", "weights", "seed", "extractor"]
    pictures = {f"samples/{name}": path / "samples" / f"{name}.png" for name in report.by_sampler(records)}
    pictures["frontier/plot"] = path / "frontier.png"
    if (path / _PICTURE).exists():
        pictures["frontier/plane"] = path / _PICTURE

    def send(run: Any) -> None:
        table = wandb.Table([*columns], [[record[c] for c in columns] for record in records])
        run.log({"frontier/table": table, **{key: wandb.Image(str(p)) for key, p in pictures.items()}})
        for record in records:
            run.summary[f"{record['metric']}/{record['sampler']}@{record['nfe']}"] = record["score"]

    logger.do(send)
