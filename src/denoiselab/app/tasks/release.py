"""A run as a release: `model.safetensors`, what rebuilds the model, and a card with the scores of these weights."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from denoiselab import released
from denoiselab.app.tasks.task import Opened
from denoiselab.evaluation import Store
from denoiselab.files import sha256_of, write_text
from denoiselab.from_config import parts
from denoiselab.model import Model, digest

# What of a run's configuration a release keeps, beside the parts of the model: what says how it was trained and scored.
_KEPT = (
    *("name", "seed", "batch_size", "max_images", "sigma_data", "data", "objective", "optimizer", "lr_schedule", "ema"),
    *("augmentation", "evaluation"),
)

# Options that change nothing of the weights.
_ASIDE = ("paths.", "name=", "logger", "callbacks.", "evaluation.", "traceback", "data.cache_dir", "data.workers")

_DTYPES = {"float32": torch.float32, "float16": torch.float16}

_SCORE = ("sampler", "steps", "nfe", "guidance", "n", "seed", "extractor", "extractor_sha256", "reference_n")


def write(folder: Path, opened: Opened, dtype: str) -> str:
    """Write a release to an empty folder; returns what it is, in words.

    Raises:
        ValueError: If the weights do not fit into the dtype, or the record of the run is damaged.
    """
    model, half = opened.model, _DTYPES[dtype]
    state = model.denoiser.state_dict()
    weights = {name: value.to(half) if value.dtype is torch.float32 else value for name, value in state.items()}
    if any(value.is_floating_point() and not bool(value.isfinite().all()) for value in weights.values()):
        raise ValueError(f"task.dtype={dtype}: a weight is too large for it; give task.dtype=float32.")
    rounded = any(not torch.equal(value.to(state[name].dtype), state[name]) for name, value in weights.items())
    own = opened.loaded.config
    config = {key: own[key] for key in _KEPT if own.get(key) is not None} | _copied(parts(own), folder)
    config["data"] = {key: value for key, value in own["data"].items() if key != "cache_dir"}
    record = _record(opened)
    facts = {
        "config": config,
        "images_seen": opened.loaded.images_seen,
        "average": opened.weights,
        "parameters": [name for name, _ in model.denoiser.named_parameters()],
        "numbers": sum(value.numel() for value in model.denoiser.parameters()),
        "dtype": dtype,
        "make": str(record.get("make") or _command(record)),
        "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
        "scores": [] if rounded else _scores(opened, model),
    }
    released.write(folder, weights, facts)
    write_text(folder / released.CARD, card(opened.loaded.config["name"], folder, facts))
    return f"release of {facts['numbers']:,} parameters in {dtype}"


def _copied(nodes: Mapping[str, Any], folder: Path, place: str = "") -> dict[str, Any]:
    """Nodes whose files and folders are copied to the release, with their places there."""
    out: dict[str, Any] = {}
    for key, value in nodes.items():
        here = f"{place}.{key}" if place else key
        out[key] = _copied(value, folder, here) if isinstance(value, Mapping) else value
        if key == "path" and isinstance(value, str) and Path(value).exists():
            out[key] = place
            (shutil.copytree if Path(value).is_dir() else shutil.copy2)(value, folder / place)
    return out


def _record(opened: Opened) -> dict[str, Any]:
    """What is known of the training: of a release its own record, else that of the run's last start."""
    try:
        run = json.loads((opened.home / "run.json").read_text(encoding="utf-8"))
        return dict(run["released"] if "released" in run else run["starts"][-1])
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"ckpt={opened.path}: its run.json is damaged.") from None


def _command(record: Mapping[str, Any]) -> str:
    """The command of the training, without options that change nothing of the weights, and without places of files."""
    given = [text for text in record.get("overrides", ()) if not text.lstrip("+~").startswith(_ASIDE)]
    return shlex.join(["python", "train.py", *(re.sub(r"=[/~].*", "=<path>", text) for text in given)])


def _scores(opened: Opened, model: Model) -> list[dict[str, Any]]:
    """The scores of the run's frontier that were measured with the weights of the model."""
    own, out = digest(model.denoiser), []
    for record in Store(opened.home).read().values():
        if record["weights_sha256"] != own or record["error"] is not None:
            continue
        cell = {key: record.get(key) for key in _SCORE} | {"reference_sha256": record["reference_sha256"]}
        for name, score in (record["scores"] or {}).items():
            if score["value"] is not None:
                out.append({**cell, "metric": name, "value": score["value"], "error": score["standard_error"]})
    return sorted(out, key=lambda row: (row["metric"], row["guidance"] or 1, row["nfe"], row["value"]))


def card(name: str, folder: Path, facts: Mapping[str, Any]) -> str:
    """The card of a release in Markdown: what the program knows of it."""
    config, weights = facts["config"], folder / released.WEIGHTS
    rows = [
        ("data", f"{config['data']['name']}, {'x'.join(map(str, config['data']['shape']))}"),
        ("command", f"`{facts['make']}`"),
        ("training", f"{facts['images_seen']:,} images seen in batches of {config.get('batch_size', '?')}"),
        ("network", f"{config['network']['_target_'].rpartition('.')[2]}, {facts['numbers']:,} parameters"),
        ("weights", f"average `{facts['average']}` in {facts['dtype']}, {weights.stat().st_size / 1e6:.2f} MB"),
        ("sha256 of the weights", f"`{sha256_of(weights)}`"),
        ("versions", ", ".join(f"{key} {value}" for key, value in facts["versions"].items())),
    ]
    lines = [f"# {name}", "", "| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)]
    return "\n".join([*lines, "", "## Scores", "", *_table(facts["scores"])]) + "\n"


def _table(scores: list[dict[str, Any]]) -> list[str]:
    if not scores:
        return ["None was measured with these weights; `task=frontier` measures them."]
    head = ["metric", "sampler", "NFE", "value", "standard error", "n", "scale"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in scores:
        if row["metric"].endswith("_infinity"):
            continue  # it is in the manifest
        error = "" if row["error"] is None else f"{row['error']:.2g}"
        scale = 1 if row["guidance"] is None else row["guidance"]
        cells = (row["metric"], row["sampler"], row["nfe"], f"{row['value']:.4g}", error, row["n"], f"{scale:g}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    measures = {
        (row["extractor"], row["extractor_sha256"], row["reference_n"], row["reference_sha256"]) for row in scores
    }
    for extractor, of, n, reference in sorted(measures):
        lines += ["", f"Extractor {extractor} `{of[:12]}`; reference `{reference[:12]}` of {n:,} images."]
    return lines
