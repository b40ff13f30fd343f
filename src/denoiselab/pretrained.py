"""Models with their weights: from run directories, checkpoint files, and models of other code bases."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from denoiselab.errors import BadInput
from denoiselab.from_config import build_model, parts
from denoiselab.model import Model, device_of
from denoiselab.nodes.instantiate import MODEL, check, construct
from denoiselab.training.checkpoint_files import (
    CHECKPOINT_KEY,
    CHECKPOINTS,
    CheckpointError,
    check_weights,
    home_of,
    newest,
    read_checkpoint,
)
from denoiselab.training.ema import RAW, Names, applied
from denoiselab.training.snapshots import Basis, basis_of

if TYPE_CHECKING:
    from denoiselab.data import DataSet
    from denoiselab.interop import Imported

# Options of data that count where the user gives them, not where a checkpoint does: to run code, and to fetch files.
_OF_USERS = ("trust_pickles", "download")

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's model, with its own weights.

    Args:
        model: Rebuilt.
        averages: Profile to averaged weights.
        config: Of the run, plain containers.
        images_seen: In training.
        basis: Of which averages of other widths are reconstructed.
    """

    model: Model
    averages: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    images_seen: int
    basis: Basis = field(default_factory=Basis)

    @property
    def names(self) -> Names:
        """What can be asked for."""
        return Names([*self.averages, RAW], self.basis)

    @property
    def data_node(self) -> dict[str, Any]:
        """The configuration of the data set.

        Raises:
            BadInput: If there is none: an import without data.
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
            BadInput: If they cannot be loaded.
        """
        check({"data": self.data_node}, MODEL)
        source = construct(self.data_node, "data")
        try:
            loaded: tuple[DataSet, DataSet] = source.load()
        except (ValueError, OSError) as error:
            raise BadInput(f"ckpt: its data cannot be loaded: {error}") from None
        return loaded

    def applied(self, name: str) -> AbstractContextManager[None]:
        """Within it the denoiser has the weights of that name, one that `names` chose."""
        return nullcontext() if name == RAW else applied(self.model.denoiser, self.basis.weights(name, self.averages))

    def use(self, asked: str | None) -> str:
        """Give the denoiser the weights of that name, or of the first profile for None; returns their name.

        Raises:
            BadInput: If there are no such weights.
        """
        name = self.names.chosen(asked, "weights")
        if name != RAW:
            weights = self.basis.weights(name, self.averages)
            self.model.denoiser.load_state_dict(weights, strict=False)  # buffers are not averaged
        return name


def load(
    source: str | Path,
    weights: str | None = None,
    *,
    importer: str | None = None,
    conditioner: Mapping[str, Any] = _NO_OPTIONS,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Model:
    """A trained model in evaluation mode.

    Args:
        source: A run directory (its newest whole checkpoint is read), a checkpoint file, a folder of diffusers, the id
            of a repository of the Hugging Face hub, or with `importer` a file of that code base.
        weights: Name of an average of the weights, "ema@0.10" for one of that relative width where the run has
            snapshots, or "raw" for those without averaging; None for the first average.
        importer: A name of `conf/import`, for models of other code bases: "diffusers", "edm", "openai", ...
        conditioner: Options of a run's conditioner to be others than in training, such as `{"classes": [3]}`.
        device: Where the denoiser is put.
        **options: Of the importer, such as `vae` or `variant`.

    Raises:
        ValueError: If the source or the weights cannot be used; the sentence of the command line.
    """
    if not isinstance(source, str | Path) or not str(source):
        raise BadInput(f"source={source!r}: it must be a path, or the id of a repository of the hub.")
    if not isinstance(weights, str | None):
        raise BadInput(
            f"weights={weights!r}: it must be a name, such as 'ema' or 'raw', or None for the first average."
        )
    where = device_of(device)
    path = Path(source).expanduser()
    ours = path.is_file() or (path / CHECKPOINTS).is_dir() or any(path.glob(f"*/{CHECKPOINTS}"))
    if importer is None and (ours or not (path.is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)))):
        if options:
            raise BadInput(f"{next(iter(options))}: is an option of an importer; a run takes none. Give importer=...")
        path, warning = newest(path)
        if warning:
            warnings.warn(warning, stacklevel=2)
        loaded = read(path, conditioner)
    else:
        loaded = _imported(str(source), importer or "diffusers", options)
        if conditioner:
            raise BadInput("conditioner: its options are those of runs; an imported model takes none.")
    loaded.use(weights)
    loaded.model.denoiser.to(where)
    return loaded.model


def read(path: Path, conditioner: Mapping[str, Any] = _NO_OPTIONS, data: Mapping[str, Any] | None = None) -> Loaded:
    """The model of a checkpoint file, in evaluation mode: dropout does nothing until it is trained.

    Args:
        path: The file.
        conditioner: Options of the run's conditioner to be others than in training.
        data: Node of the data set that the user names; None for the run's own.

    Raises:
        BadInput: If it cannot be used.
    """
    try:
        checkpoint = read_checkpoint(path)
        ours = checkpoint[CHECKPOINT_KEY]
        config = ours["config"]
        if unnamed := [name for name in ours["ema"] if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise BadInput(
                f"ckpt={path}: {unnamed[0]!r} is no name of averages; letters, digits, '.', '-' and '_' are."
            )
        config = {**config, **{part: _rooted(node, home_of(path)) for part, node in parts(config).items()}}
        config["conditioner"] = {**config["conditioner"], **conditioner}
        config["data"] = _data(path, config["data"], data)
        prefix = "denoiser."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        model = _rebuilt(path, config, state, ours["ema"])
    except CheckpointError as error:
        raise BadInput(f"ckpt={error}") from None
    except BadInput:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise BadInput(
            f"ckpt={path}: its configuration is incomplete or malformed, so the network cannot be rebuilt."
        ) from None
    loaded = Loaded(model, ours["ema"], config, ours["images_seen"], basis_of(path, ours))
    try:
        model.codec.load()
    except ValueError as error:
        raise BadInput(f"ckpt={path}: {error}") from None
    if "_target_" in config["data"]:
        from denoiselab.data import in_turn  # imports every source of data

        model.conditioner.set_held_out(in_turn(lambda: loaded.data()[1]))
    return loaded


def read_weights(
    path: Path,
    asked: str | None,
    conditioner: Mapping[str, Any] = _NO_OPTIONS,
    data: Mapping[str, Any] | None = None,
) -> tuple[Loaded, str]:
    """As `read`, with the weights `asked` for (None: the first profile), and their name."""
    loaded = read(path, conditioner, data)
    return loaded, loaded.use(asked)


def weights_of(imported: Imported, model: Model) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The state of a denoiser in an imported model, and its averages, checked against the model that it describes.

    Args:
        imported: What was read.
        model: Built of its configuration; may be on the meta device.

    Raises:
        CheckpointError: If a name, a shape or a kind of numbers differs.
    """
    state = {f"network.{name}": tensor for name, tensor in imported.weights.items()}
    parameters = {name.removeprefix("network."): value for name, value in model.denoiser.named_parameters()}
    averages = {
        profile: {f"network.{name}": tensor for name, tensor in average.items() if name in parameters}
        for profile, average in imported.averages.items()
    }
    _check_weights(imported.files[0], model, state, averages)
    return state, averages


def _imported(source: str, importer: str, options: Mapping[str, Any]) -> Loaded:
    """The model that an importer reads."""
    from denoiselab import choices
    from denoiselab.interop import InteropError

    reader = choices.build("import", importer, path=source, **options)
    try:
        imported: Imported = reader.read()
        config = imported.config()
        check(parts(config), MODEL)
        model = build_model(config)
        state, averages = weights_of(imported, model)
    except (InteropError, CheckpointError) as error:
        raise BadInput(f"import.path={error}") from None
    model.denoiser.load_state_dict(state)
    model.denoiser.eval()
    try:
        model.codec.load()
    except ValueError as error:
        raise BadInput(f"import.path={source}: {error}") from None
    return Loaded(model, averages, config, 0)


def _rebuilt(
    path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], averages: Mapping[str, Mapping[str, Tensor]]
) -> Model:
    """The model of a configuration that was read from a file, with the weights `state`, in evaluation mode."""
    check(parts(config), MODEL)
    with torch.device("meta"):  # a network of absurd sizes is refused before it takes memory
        skeleton = build_model(config)
    _check_weights(path, skeleton, state, averages)
    model = build_model(config)
    model.denoiser.load_state_dict(state)
    model.denoiser.eval()
    return model


def _check_weights(
    path: Path, model: Model, state: Mapping[str, Tensor], averages: Mapping[str, Mapping[str, Tensor]]
) -> None:
    check_weights(path, model.denoiser.state_dict(), state)
    for average in averages.values():
        check_weights(path, dict(model.denoiser.named_parameters()), average)


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
