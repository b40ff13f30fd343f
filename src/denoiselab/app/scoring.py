"""The frontier of a trained run, on disk, on W&B and on the screen."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.loggers import Logger
from torch import nn

from denoiselab.app.assemble import Run
from denoiselab.app.errors import console
from denoiselab.evaluation import report
from denoiselab.evaluation.features import ClassifierFeatures
from denoiselab.evaluation.statistics import GaussianStatistics
from denoiselab.training.checkpoints import CHECKPOINTS, LAST, read_checkpoint
from denoiselab.training.loggers import WandBRun
from denoiselab.training.module import CHECKPOINT_KEY

Records = list[dict[str, Any]]


def score(run: Run, path: Path, *, leader: bool) -> Records:
    """The records of the frontier, computed with the weights that the configuration names.

    Raises:
        Stopped: The run was asked to stop; finished cells are stored.
    """
    # Several ranks stop between cells, where they can agree on it.
    check = (lambda step: None) if dist.is_initialized() else run.interruption.check
    features = _features(run, check, leader=leader)
    reference = GaussianStatistics(features.dimension)
    for batch in run.images.images.split(512):
        reference.update(features(batch))
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
            "split": "train",
            "weights": run.weights,
            "images_seen": run.module.images_seen,
            "weights_sha256": _digest(denoiser),
            "extractor_accuracy": features.accuracy,
            "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
        }
        return run.frontier.run(
            denoiser,
            run.model.conditioner,
            run.model.shape,
            features,
            reference,
            path,
            protocol,
            run.samplers,
            check,
            lambda: _agree_to_stop(run),
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
        ("training curve", "metrics.csv"),
        ("checkpoint", f"{CHECKPOINTS}/{LAST}"),
    ):
        out.print(f"{what:>15}: {path / name}")


def _features(run: Run, check: Callable[[int], None], *, leader: bool) -> ClassifierFeatures:
    """The extractor, trained by the first rank if it is not in the cache."""
    if dist.is_initialized() and not leader:
        dist.barrier()
    features = run.extractor.fit(run.images, run.held_out, Path(run.settings.paths.cache_dir), check, shown=leader)
    if dist.is_initialized() and leader:
        dist.barrier()
    if features.accuracy is not None:
        accuracy = f"{features.accuracy:.2%} right on {len(run.held_out)} held-out images"
        _tell(f"scored by a classifier of {run.config['data']['name']}: {accuracy}", leader=leader)
    return features


def _tell(text: str, *, leader: bool) -> None:
    if leader:
        console(stderr=True).print(text)


def _digest(module: nn.Module) -> str:
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

    def send(run: Any) -> None:
        table = wandb.Table([*columns], [[record[c] for c in columns] for record in records])
        run.log({"frontier/table": table, **{key: wandb.Image(str(p)) for key, p in pictures.items()}})
        for record in records:
            run.summary[f"{record['metric']}/{record['sampler']}@{record['nfe']}"] = record["score"]

    logger.do(send)
