"""Statistics of the data, computed before any run: `python -m denoiselab.app.references [options of train.py]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from denoiselab.app import cli
from denoiselab.app.errors import BadInput

# The configuration stands beside the package's sources, or in the folder from which the command is run.
_CONF = (Path(__file__).resolve().parents[3] / "conf", Path.cwd() / "conf")


def check(config: dict[str, Any], sweeping: bool) -> None:
    """Check a job.

    Raises:
        BadInput: Something is wrong; nothing was written or fetched.
    """
    from denoiselab.app import build
    from denoiselab.app.construct import check as check_nodes

    settings, download, accelerator = _settings(config)
    check_nodes({"data": config["data"], "evaluation": config["evaluation"]})
    if accelerator not in ("auto", "cpu", "gpu"):
        raise BadInput(f"accelerator={accelerator}: unknown; allowed: auto, cpu, gpu.")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator=gpu: this machine has no GPU; use accelerator=cpu.")
    if settings.evaluation.reference is not None:
        raise BadInput("evaluation.reference: it is what this command makes; leave it out.")
    if not download:
        build.build_extractor(config, settings.evaluation, None)


def task(config: dict[str, Any], directory: Path | None) -> None:
    """Fetch weights if asked to, compute the statistics of the training split, and say where they are.

    Raises:
        BadInput: The weights cannot be fetched, or the data not be scored.
    """
    from denoiselab.app import build
    from denoiselab.app.construct import construct
    from denoiselab.evaluation.features import ImageExtractor

    settings, download, accelerator = _settings(config)
    extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    if not isinstance(extractor, ImageExtractor):
        raise BadInput("evaluation.extractor: points are scored against fresh points; there is nothing to compute.")
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    metrics, nodes = build.build_metrics(settings.evaluation), build.metric_nodes(settings.evaluation)
    cache = Path(settings.paths.cache_dir)
    try:
        if download and extractor.weights is not None:
            extractor.weights.download()
        train, held_out = construct(config["data"], "data").load()
        scorer = extractor.fit(train, held_out, metrics, nodes, cache)
        identity = {"data": config["data"]["name"], "split": scorer.split}
        reference = scorer.reference(train, identity, cache, torch.device("cuda" if on_gpu else "cpu"))
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from None
    print(f"{scorer.name} of {reference.n:,} images of {identity['data']} ({identity['split']}): {reference.path}")


def _settings(config: dict[str, Any]) -> tuple[Any, bool, str]:
    from denoiselab.app.settings import TrainSettings, parse

    rest = {key: value for key, value in config.items() if key not in ("download", "accelerator")}
    if not isinstance(config["download"], bool):
        raise BadInput(f"download={config['download']}: it must be true or false.")
    return parse(TrainSettings, rest), config["download"], config["accelerator"]


if __name__ == "__main__":
    cli.run(next((path for path in _CONF if path.is_dir()), _CONF[-1]), "references", check, task)
