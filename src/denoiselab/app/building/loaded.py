"""A model from a checkpoint."""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from denoiselab.app.building import checks, parts
from denoiselab.app.runs.paths import home_of
from denoiselab.data import DataSet, in_turn
from denoiselab.errors import BadInput
from denoiselab.instantiate import MODEL, check, construct
from denoiselab.model import Model, digest
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, CheckpointError, check_weights, read_checkpoint
from denoiselab.training.ema import RAW, applied

# Options of data that count where the user gives them, not where a checkpoint does: to run code, and to fetch files.
_OF_USERS = ("trust_pickles", "download")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's model, with its own weights.

    Args:
        model: Rebuilt.
        averages: Profile to averaged weights.
        config: Of the run, plain containers.
        images_seen: In training.
    """

    model: Model
    averages: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    images_seen: int

    @property
    def names(self) -> list[str]:
        """What `applied` accepts."""
        return [*self.averages, RAW]

    @property
    def data_node(self) -> dict[str, Any]:
        """The configuration of the data set.

        Raises:
            BadInput: There is none: an import without data.
        """
        node: dict[str, Any] = self.config["data"]
        if "_target_" not in node:
            raise BadInput(
                f"ckpt: {self.config.get('name')} was imported without data to measure against; name some with data=..."
            )
        return node

    def data(self) -> tuple[DataSet, DataSet]:
        """The training data, and those held out.

        Raises:
            BadInput: They cannot be loaded.
        """
        check({"data": self.data_node}, MODEL)
        source = construct(self.data_node, "data")
        try:
            loaded: tuple[DataSet, DataSet] = source.load()
        except (ValueError, OSError) as error:
            raise BadInput(f"ckpt: its data cannot be loaded: {error}") from None
        return loaded

    def applied(self, name: str) -> AbstractContextManager[None]:
        """Within it the denoiser has the weights of that name."""
        return nullcontext() if name == RAW else applied(self.model.denoiser, self.averages[name])


def protocol(
    loaded: Loaded, path: Path, checkpoint: str, weights: str, data: DataSet, split: str, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """What a number measured on data of a checkpoint's run depends on, beside how it was measured.

    Args:
        loaded: With the weights measured.
        path: The checkpoint file.
        checkpoint: Its sha256.
        weights: Their name.
        data: The split that is measured.
        split: Its name.
        packages: Those that count beside this one and torch.
    """
    return {
        "data": loaded.config["data"]["name"],
        "split": split,
        "split_n": len(data),
        "split_sha256": data.fingerprint,
        "dimensions": math.prod(data.shape),
        "conditional": bool(loaded.model.conditioner.names),
        "weights": weights,
        "weights_sha256": digest(loaded.model.denoiser),
        "images_seen": loaded.images_seen,
        "checkpoint": str(path.resolve()),
        "checkpoint_sha256": checkpoint,
        "dtype": "float32",
        "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch", *packages)},
    }


def load(
    path: Path, conditioner: Mapping[str, Any] = MappingProxyType({}), data: Mapping[str, Any] | None = None
) -> Loaded:
    """The model of a checkpoint file, in evaluation mode: dropout does nothing until it is trained.

    Args:
        path: The file.
        conditioner: Options of the run's conditioner to be others than in training.
        data: Node of the data set that the user names; None for the run's own.

    Raises:
        BadInput: It cannot be used.
    """
    try:
        checkpoint = read_checkpoint(path)
        ours = checkpoint[CHECKPOINT_KEY]
        config = ours["config"]
        if unnamed := [name for name in ours["ema"] if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise BadInput(
                f"ckpt={path}: {unnamed[0]!r} is no name of averages; letters, digits, '.', '-' and '_' are."
            )
        config = {**config, **{part: _rooted(node, home_of(path)) for part, node in checks.parts(config).items()}}
        config["conditioner"] = {**config["conditioner"], **conditioner}
        config["data"] = _data(path, config["data"], data)
        check(checks.parts(config), MODEL)
        prefix = "denoiser."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        with torch.device("meta"):  # a network of absurd sizes is refused before it takes memory
            denoiser = checks.build_model(config).denoiser
        check_weights(path, denoiser.state_dict(), state)
        for average in ours["ema"].values():
            check_weights(path, dict(denoiser.named_parameters()), average)
        model = checks.build_model(config)
    except CheckpointError as error:
        raise BadInput(f"ckpt={error}") from None
    except BadInput:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise BadInput(
            f"ckpt={path}: its configuration is incomplete or malformed, so the network cannot be rebuilt."
        ) from None
    model.denoiser.load_state_dict(state)
    model.denoiser.eval()
    loaded = Loaded(model, ours["ema"], config, ours["images_seen"])
    try:
        model.codec.load()
    except ValueError as error:
        raise BadInput(f"ckpt={path}: {error}") from None
    if "_target_" in config["data"]:
        model.conditioner.set_held_out(in_turn(lambda: loaded.data()[1]))
    return loaded


def load_weights(
    path: Path,
    asked: str | None,
    conditioner: Mapping[str, Any] = MappingProxyType({}),
    data: Mapping[str, Any] | None = None,
) -> tuple[Loaded, str]:
    """A checkpoint file's model with the weights asked for, or its first profile, and their name.

    Args:
        path: As in `load`.
        asked: The name; None for the first profile.
        conditioner: As in `load`.
        data: As in `load`.

    Raises:
        BadInput: It cannot be used, or has no such weights.
    """
    loaded = load(path, conditioner, data)
    weights = parts.profile_name(asked, loaded.names, "weights")
    if weights != RAW:
        loaded.model.denoiser.load_state_dict(loaded.averages[weights], strict=False)  # buffers are not averaged
    return loaded, weights


def _data(path: Path, own: Mapping[str, Any], named: Mapping[str, Any] | None) -> dict[str, Any]:
    """The node of the data set that the user names, else the checkpoint's own, which may not run code or fetch files.

    Raises:
        BadInput: The named data have another shape.
    """
    if named is None:
        return {**own, **{option: False for option in _OF_USERS if option in own}}
    if list(named["shape"]) != list(own["shape"]):
        raise BadInput(f"data.shape={list(named['shape'])}: the network of {path} takes {list(own['shape'])}.")
    return dict(named)


def _rooted(node: Any, home: Path) -> Any:
    """A node with each `path` that names something in the run's directory `home` as a whole path."""
    if not isinstance(node, dict):
        return node
    out = {key: _rooted(value, home) for key, value in node.items()}
    path = out.get("path")
    if isinstance(path, str) and not Path(path).is_absolute() and (home / path).exists():
        out["path"] = str(home / path)
    return out


def split_of(train: DataSet, held_out: DataSet, name: str, option: str, split: str, wanted: int) -> DataSet:
    """The data that `option=split` names, "train" or "held_out", of the data set `name`.

    Raises:
        BadInput: There are none, or fewer than wanted.
    """
    data = {"train": train, "held_out": held_out}[split]
    if not len(data):
        raise BadInput(f"{option}={split}: {name} of this checkpoint has no such data; use {option}=train.")
    if wanted > len(data):
        raise BadInput(f"num_samples={wanted}: {name} has {len(data)} in {option}={split}; give at most that.")
    return data
