"""Models of others as run directories."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from denoiselab.app import build
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput, console
from denoiselab.app.places import new_folder
from denoiselab.app.run_directory import start_record, write_description
from denoiselab.interop import Imported, InteropError, Source
from denoiselab.training.checkpoints import (
    CHECKPOINTS,
    LAST,
    AtomicCheckpointIO,
    CheckpointError,
    check_weights,
    read_checkpoint,
)
from denoiselab.training.module import CHECKPOINT_KEY

Config = dict[str, Any]


def check_source(config: Config) -> str:
    """Refuse a source that lacks an option, or stands beside a checkpoint; returns what stands for `ckpt` till then.

    Raises:
        BadInput: It does.
    """
    if config["ckpt"] != "???":
        raise BadInput(f"ckpt={config['ckpt']}: there is an import beside it; give one of them.")
    for name, value in config["import"].items():
        if value == "???":
            raise BadInput(f"import.{name}: is not given and has no default; pass import.{name}=...")
    check({"import": config["import"], "data": config.get("data")})
    return str(config["log_dir"])


def run_directory(node: Mapping[str, Any], log_dir: Path, data: Mapping[str, Any] | None = None) -> Path:
    """The run directory of the model that a source reads: a former import's of the same model, or a new one.

    Its name holds a hash of the model, so it is never written to again.

    Args:
        node: Of the source.
        log_dir: Where the directory is, in the folder `imported`.
        data: Node of the data set that the model was trained on, if it is to be measured against one.

    Raises:
        BadInput: The source cannot be read whole, the data have another shape, or the directory cannot be written.
    """
    source: Source = construct(node, "import")
    try:
        imported = source.read()
    except InteropError as error:
        raise BadInput(f"import.path={error}") from None
    config = imported.config()
    if data is not None:
        if list(data["shape"]) != config["data"]["shape"]:
            raise BadInput(
                f"data.shape={list(data['shape'])}: the network of {imported.name} takes {config['data']['shape']}."
            )
        config["data"] = dict(data)
    digest = imported.digest(config)
    path = log_dir / "imported" / f"{imported.name}-{digest[:12]}"
    checkpoint = _checkpoint(imported, config)
    if path.exists():
        return _former(path)
    origin = {
        "source": dict(node),
        "sha256": digest,
        "files_sha256": {str(f.resolve()): hashlib.sha256(f.read_bytes()).hexdigest() for f in imported.files},
    }
    info = {"wandb_id": secrets.token_hex(4), "starts": [start_record(config)], "imported": origin}
    try:
        with new_folder(path, "log_dir") as partial:
            AtomicCheckpointIO().save_checkpoint(checkpoint, partial / CHECKPOINTS / LAST)
            write_description(partial, config, info)
    except BadInput:
        if path.exists():  # another process was faster
            return _former(path)
        raise
    numbers = sum(tensor.numel() for tensor in imported.weights.values())
    console(stderr=True).print(f"imported, {numbers / 1e6:.2f} M numbers: {path}")
    return path


def _former(path: Path) -> Path:
    """The run directory of the same import before."""
    try:
        read_checkpoint(path / CHECKPOINTS / LAST)
    except CheckpointError as error:
        raise BadInput(f"log_dir={path.parent.parent}: holds a damaged import; remove it: {error}") from None
    console(stderr=True).print(f"imported before: {path}")
    return path


def _checkpoint(imported: Imported, config: Config) -> dict[str, Any]:
    """The content of our checkpoint file, checked as one that is read."""
    check(build.parts(config), model_only=True)
    with torch.device("meta"):
        denoiser = build.build_model(config).denoiser
    state = {f"network.{name}": tensor for name, tensor in imported.weights.items()}
    parameters = {name.removeprefix("network."): value for name, value in denoiser.named_parameters()}
    ema = {
        profile: {f"network.{name}": tensor for name, tensor in average.items() if name in parameters}
        for profile, average in imported.averages.items()
    }
    where = imported.files[0]
    check_weights(where, denoiser.state_dict(), state)
    for average in ema.values():
        check_weights(where, dict(denoiser.named_parameters()), average)
    return {
        "state_dict": {f"denoiser.{name}": tensor for name, tensor in state.items()},
        CHECKPOINT_KEY: {"format": 1, "images_seen": 0, "config": config, "ema": ema},
    }
