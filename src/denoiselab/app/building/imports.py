"""Models of others as run directories."""

from __future__ import annotations

import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from denoiselab.app.building import checks
from denoiselab.app.runs.paths import new_folder
from denoiselab.app.runs.run_directory import start_record, write_description
from denoiselab.cleaning import path_part
from denoiselab.conditioners import Combined, Conditioner, Text
from denoiselab.console import console
from denoiselab.errors import BadInput, check_given
from denoiselab.files import sha256_of
from denoiselab.from_config import build_model, with_hashes
from denoiselab.from_config import parts as model_parts
from denoiselab.frozen import LDMTextEncoder, TextEncoder, folders
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.interop import Imported, InteropError, Source
from denoiselab.model import Model
from denoiselab.nodes.instantiate import MODEL, check, construct
from denoiselab.pretrained import weights_of
from denoiselab.training.checkpoint_files import (
    CHECKPOINT_KEY,
    CHECKPOINTS,
    LAST,
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)

Config = dict[str, Any]


def check_source(config: Config) -> str:
    """Refuse a source without a required option, or one given together with `ckpt`; returns the folder of imports."""
    if config["ckpt"] != "???":
        raise BadInput(f"ckpt={config['ckpt']}: there is an import beside it; give one of them.")
    check_given(config["import"], "import")
    check({"import": config["import"], "data": config.get("data")})
    return str(config["log_dir"])


def run_directory(node: Mapping[str, Any], log_dir: Path, data: Mapping[str, Any] | None = None) -> Path:
    """The run directory of the model that a source reads: a former import's of the same model, or a new one.

    Its name holds a hash of the model, so it is never written to again.

    Args:
        node: Of the source.
        log_dir: Where the directory is, in the folder `imported`.
        data: Node of the data set that the model was trained on, if it is to be measured against one.
    """
    source: Source = construct(node, "import")
    try:
        imported = source.read()
    except InteropError as error:
        raise BadInput(f"import.path={error}") from None
    with tempfile.TemporaryDirectory() as folder:  # of the parts that are in the source's own file
        return _written(node, imported, imported.placed(Path(folder)), log_dir, data)


def _written(
    node: Mapping[str, Any], imported: Imported, config: Config, log_dir: Path, data: Mapping[str, Any] | None
) -> Path:
    """The run directory of what was read, whose frozen parts are where `config` names them."""
    if data is not None:
        if list(data["shape"]) != config["data"]["shape"]:
            raise BadInput(
                f"data.shape={list(data['shape'])}: the network of {imported.name} takes {config['data']['shape']}."
            )
        config["data"] = dict(data)
    frozen: Config = {part: with_hashes(config[part]) for part in ("codec", "conditioner") if part in config}
    digest = imported.digest({**config, **frozen})
    path = log_dir / "imported" / path_part(f"{imported.name}-{digest[:12]}")
    if path.exists():
        return _former(path)
    model = _model(config, node["path"])
    origin = {
        "source": dict(node),
        "sha256": digest,
        "files_sha256": {str(f.resolve()): sha256_of(f) for f in imported.files},
    }
    try:
        with new_folder(path, "log_dir") as partial:
            config = _with_frozen_parts(config, model, partial)
            checkpoint = _checkpoint(imported, config, model)
            write_checkpoint(checkpoint, partial / CHECKPOINTS / LAST)
            starts = [start_record(config)]
            write_description(partial, config, {"wandb_id": secrets.token_hex(4), "starts": starts, "imported": origin})
    except BadInput:
        if path.exists():  # another process was faster
            return _former(path)
        raise
    numbers = sum(tensor.numel() for tensor in imported.weights.values())
    console(stderr=True).print(f"imported, {numbers / 1e6:.2f} M numbers: {path}")
    if imported.sampling:
        console(stderr=True).print(f"its own scheduler's sampler: {shlex.join(imported.sampling)}")
    return path


def _former(path: Path) -> Path:
    """The run directory of the same import before."""
    try:
        read_checkpoint(path / CHECKPOINTS / LAST)
    except CheckpointError as error:
        raise BadInput(f"log_dir={path.parent.parent}: holds a damaged import; remove it: {error}") from None
    console(stderr=True).print(f"imported before: {path}")
    return path


def _model(config: Config, path: str) -> Model:
    """The model of what was read at `path`, its denoiser without weights, its parts known to go together."""
    try:
        check(model_parts(config), MODEL)
        with torch.device("meta"):
            model = build_model(config)
        checks.check_ends(model.denoiser, advice=False)
        checks.check_network(model)
    except BadInput as error:
        raise BadInput(f"import.path={path}: {error}") from None
    return model


def _with_frozen_parts(config: Config, model: Model, folder: Path) -> Config:
    """Write the autoencoder and the text encoder to a run's directory; the configuration that names them there."""
    if isinstance(model.codec, FolderCodec):
        try:
            model.codec.write(folder / "codec")
        except ValueError as error:
            raise BadInput(f"import.vae: {error}") from None
        config = {**config, "codec": {**config["codec"], **_place(folder, "codec")}}
    for place, encoder in _encoders(config["conditioner"], model.conditioner):
        name = "_".join(["text_encoder", *place])
        encoder.write(folder / name)
        config = _with(config, ("conditioner", *place, "encoder"), _place(folder, name))
    return config


def _encoders(node: Config, conditioner: Conditioner) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The places in a conditioner's node of the frozen text encoders, and the encoders."""
    if isinstance(conditioner, Combined):
        for name, part in conditioner.parts.items():
            for place, encoder in _encoders(node["parts"][name], part):
                yield ("parts", name, *place), encoder
    elif isinstance(conditioner, Text) and isinstance(conditioner.encoder, LDMTextEncoder | TextEncoder):
        yield (), conditioner.encoder


def _with(config: Config, place: Sequence[str], changes: Config) -> Config:
    """A configuration with changed options of one node."""
    if not place:
        return {**config, **changes}
    return {**config, place[0]: _with(config[place[0]], place[1:], changes)}


def _place(folder: Path, name: str) -> Config:
    return {"path": name, "sha256": folders.sha256_of(folder / name)}


def _checkpoint(imported: Imported, config: Config, model: Model) -> dict[str, Any]:
    """The content of our checkpoint file, checked as one that is read."""
    state, ema = weights_of(imported, model)
    return {
        "state_dict": {f"denoiser.{name}": tensor for name, tensor in state.items()},
        CHECKPOINT_KEY: {"format": 1, "images_seen": 0, "config": config, "ema": ema},
    }
