"""What a run trained, rebuilt from a checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.errors import BadInput
from denoiselab.from_config import build, parts
from denoiselab.nodes.instantiate import MODEL, check
from denoiselab.nodes.signatures import read
from denoiselab.trained import Trained
from denoiselab.training.checkpoint_files import (
    CHECKPOINT_KEY,
    CheckpointError,
    check_weights,
    home_of,
    read_checkpoint,
)
from denoiselab.training.snapshots import Basis, basis_of

# Options of data that count where the user gives them, not where a checkpoint does: to run code, and to fetch files.
_OF_USERS = ("trust_pickles", "download")


class Rebuilt(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        model: In evaluation mode, with its own weights, those without averaging.
        averages: Profile to averaged weights.
        config: Of the run, plain containers.
        images_seen: In training.
        basis: Of which averages of other widths are reconstructed.
        origins: The records of the models that it started (`initial`) and learned (`teacher`) from.
    """

    model: Trained
    averages: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    images_seen: int
    basis: Basis
    origins: Mapping[str, Any] = MappingProxyType({})


def rebuild(
    path: Path,
    conditioner: Mapping[str, Any] = MappingProxyType({}),
    data: Mapping[str, Any] | None = None,
    option: str = "ckpt",
) -> Rebuilt:
    """What a checkpoint file holds.

    Args:
        path: The file.
        conditioner: Options of the run's conditioner to be others than in training.
        data: Node of the data set that the user names; None for the run's own.
        option: That names the file, for messages.

    Raises:
        BadInput: If it cannot be used.
    """
    try:
        checkpoint = read_checkpoint(path)
        ours = checkpoint[CHECKPOINT_KEY]
        config = ours["config"]
        if unnamed := [name for name in ours["ema"] if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise BadInput(
                f"{option}={path}: {unnamed[0]!r} is no name of averages; letters, digits, '.', '-' and '_' are."
            )
        config = {**config, **{part: _rooted(node, home_of(path)) for part, node in parts(config).items()}}
        config["conditioner"] = _conditioned(config["conditioner"], conditioner)
        config["data"] = _data(path, config["data"], data)
        prefix = "denoiser."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        model = _built(path, config, state, ours["ema"])
    except CheckpointError as error:
        raise BadInput(f"{option}={error}") from None
    except BadInput:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise BadInput(
            f"{option}={path}: its configuration is incomplete or malformed, so the network cannot be rebuilt."
        ) from None
    try:
        model.codec.load()
    except ValueError as error:
        raise BadInput(f"{option}={path}: {error}") from None
    origins = {name: ours[name] for name in ("initial", "teacher") if ours.get(name)}
    return Rebuilt(model, ours["ema"], config, ours["images_seen"], basis_of(path, ours), origins)


def check_state(
    path: Path, model: Trained, state: Mapping[str, Tensor], averages: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Check the state and the averages of what a model trains.

    Raises:
        CheckpointError: If a name, a shape or a kind of numbers differs.
    """
    check_weights(path, model.trained.state_dict(), state)
    for average in averages.values():
        check_weights(path, dict(model.trained.named_parameters()), average)


def _conditioned(node: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A conditioner's node with other options; those of joined conditioners go to the parts that take them."""
    out, joined = dict(node), dict(node.get("parts") or {})
    for name, value in options.items():
        takers = [part for part, of in joined.items() if name in getattr(read(of["_target_"]), "parameters", ())]
        for part in takers:
            joined[part] = {**joined[part], name: value}
        if not takers:
            out[name] = value
    return {**out, "parts": joined} if joined else out


def _built(
    path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], averages: Mapping[str, Mapping[str, Tensor]]
) -> Trained:
    """The model of a configuration that was read from a file, with the weights `state`, in evaluation mode."""
    check(parts(config), MODEL)
    with torch.device("meta"):  # a network of absurd sizes is refused before it takes memory
        skeleton = build(config)
    check_state(path, skeleton, state, averages)
    model = build(config)
    model.trained.load_state_dict(state)
    model.trained.eval()
    return model


def _data(path: Path, own: Mapping[str, Any], named: Mapping[str, Any] | None) -> dict[str, Any]:
    """The node of the data set that the user names, else the checkpoint's, which may not run code or fetch files."""
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
