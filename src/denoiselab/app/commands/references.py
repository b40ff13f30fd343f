"""The statistics that scores are taken against, computed before any run."""

from __future__ import annotations

from pathlib import Path

from denoiselab.app.building import parts
from denoiselab.app.config.early import check_shape
from denoiselab.app.config.settings import Config, TrainSettings, parse
from denoiselab.app.runs.paths import check_accelerator, device_of
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation import SeveralExtractors, Workspace
from denoiselab.evaluation.features.extractors import ImageExtractor
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct

# What train.py does not have.
_OWN = ("download", "accelerator")


def check(config: Config, *, sweeping: bool = False) -> TrainSettings:
    """Check all that can be checked before anything is fetched or computed."""
    settings = parse(TrainSettings, {key: value for key, value in config.items() if key not in _OWN})
    check_shape(config["data"])
    check_nodes({"data": config["data"], "evaluation": config["evaluation"]})
    download, accelerator = (config[key] for key in _OWN)
    if not isinstance(download, bool):
        raise BadInput(f"download={download}: it must be true or false.")
    if accelerator not in ("auto", "cpu", "gpu"):
        raise BadInput(f"accelerator={accelerator}: unknown; allowed: auto, cpu, gpu.")
    check_accelerator(accelerator)
    if settings.evaluation.reference is not None:
        raise BadInput(f"evaluation.reference={settings.evaluation.reference}: this program makes it; leave it out.")
    if not download:
        parts.build_extractor(config, settings.evaluation, None)
    return settings


def run(config: Config, directory: Path | None = None) -> Path:
    """Fetch weights if asked to, compute the statistics of the training split, and say where they are."""
    settings = check(config)
    extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    each = [*extractor.extractors.values()] if isinstance(extractor, SeveralExtractors) else [extractor]
    if not all(isinstance(one, ImageExtractor) for one in each):
        raise BadInput("evaluation.extractor: points are scored against fresh points; there is nothing to compute.")
    work, name = Workspace(Path(settings.paths.cache_dir)), config["data"]["name"]
    metrics, nodes = parts.build_metrics(settings.evaluation), parts.metric_nodes(settings.evaluation)
    try:
        for one in each:
            if config["download"] and one.weights is not None:
                one.weights.download()
        train, held_out = construct(config["data"], "data").load()
        for one in each:
            scorer = one.fit(train, held_out, metrics, nodes, work)
            identity = {"data": name, "split": scorer.split}
            reference = scorer.reference(train, identity, work, device_of(config["accelerator"]))
            console().print(f"{scorer.name} of {reference.n:,} images of {name} ({scorer.split}): {reference.path}")
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from None
    path: Path = reference.path
    return path
