"""Models with their weights: from run directories, checkpoint files, and models of other code bases."""

from __future__ import annotations

import re
import tempfile
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
from denoiselab.files import MANIFEST
from denoiselab.from_config import build_model, parts
from denoiselab.model import Model, device_of
from denoiselab.nodes.instantiate import MODEL, check, construct
from denoiselab.rebuilding import check_state, rebuild
from denoiselab.released import released
from denoiselab.trained import FirstStage
from denoiselab.training.checkpoint_files import CHECKPOINTS, CheckpointError, newest
from denoiselab.training.ema import RAW, Names, applied
from denoiselab.training.snapshots import Basis

if TYPE_CHECKING:
    from denoiselab.data import DataSet
    from denoiselab.interop import Imported

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
        origins: As in `Rebuilt`.
    """

    model: Model
    averages: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    images_seen: int
    basis: Basis = field(default_factory=Basis)
    origins: Mapping[str, Any] = field(default_factory=dict)

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
            of a repository of the Hugging Face hub, a released model as `model:<name>` (`denoiselab.released`), or with
            `importer` a file of that code base.
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
    if model := released(str(source), "source"):
        source, importer, options = model.path, model.importer, {**model.options, **options}
    path = Path(source).expanduser()
    ours = path.is_file() or any(True for name in (MANIFEST, CHECKPOINTS, f"*/{CHECKPOINTS}") for _ in path.glob(name))
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
    rebuilt = rebuild(path, conditioner, data)
    if isinstance(rebuilt.model, FirstStage):
        raise BadInput(
            f"ckpt={path}: it is a first stage, which draws no samples; see its reconstructions with task=reconstruct, "
            "or train a latent model with codec=autoencoder_kl or vq and codec.path=<run>/first_stage."
        )
    if not isinstance(rebuilt.model, Model):
        raise BadInput(
            f"ckpt={path}: it is a classifier, which draws no samples; it guides those of a model with "
            "classifier_guidance=trained and classifier_guidance.classifier.path."
        )
    loaded = Loaded(rebuilt.model, *rebuilt[1:6])
    if "_target_" in loaded.config["data"]:
        from denoiselab.data import supply  # imports every source of data

        supply(loaded.model.conditioner, loaded.data)
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
    check_state(imported.files[0], model, state, averages)
    return state, averages


def _imported(source: str, importer: str, options: Mapping[str, Any]) -> Loaded:
    """The model that an importer reads."""
    from denoiselab import choices
    from denoiselab.interop import InteropError

    reader = choices.build("import", importer, path=source, **options)
    with tempfile.TemporaryDirectory() as folder:  # of the parts that are in the source's own file
        try:
            imported: Imported = reader.read()
            config = imported.placed(Path(folder))
            check(parts(config), MODEL)
            model = build_model(config)
            state, averages = weights_of(imported, model)
        except (InteropError, CheckpointError) as error:
            raise BadInput(f"import.path={error}") from None
        model.denoiser.load_state_dict(state)
        model.denoiser.eval()
        try:
            model.codec.load()
            if imported.frozen:
                model.conditioner.load()
        except ValueError as error:
            raise BadInput(f"import.path={source}: {error}") from None
    return Loaded(model, averages, config, 0)
