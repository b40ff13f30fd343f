"""Autoencoders from folders, as codecs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import save
from torch import nn

from denoiselab.codecs import Autoencoder, AutoencoderDC, AutoencoderKL, AutoencoderTiny, VQModel
from denoiselab.files import atomic, write_text
from denoiselab.frozen.folders import check_sha256, configuration, folder_of
from denoiselab.frozen.representations import RepresentationAutoencoder
from denoiselab.interop import InteropError
from denoiselab.interop.diffusers.pipelines import layout_of, read_model
from denoiselab.interop.weights.files import read_safetensors
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import checked_state, making

# Our own format: the class and its options in `config.json`, and these weights.
_WEIGHTS = "model.safetensors"
_KINDS = (AutoencoderKL, VQModel, AutoencoderTiny, AutoencoderDC, RepresentationAutoencoder)


def _name(kind: type[nn.Module]) -> str:
    """As YAMLs name it."""
    return f"denoiselab.{kind.__module__.split('.')[1]}.{kind.__name__}"


_CLASSES: dict[Any, type[nn.Module]] = {_name(kind): kind for kind in _KINDS}


class FolderCodec(Autoencoder):
    """An autoencoder from a folder: of diffusers (a pipeline's `vae` or `vqvae`), or in our own format.

    Args:
        path: The folder.
        shape: Shape (C, H, W) of an image; the autoencoder takes any that its stride divides.
        scale: Factor on latents, one number or one a channel; None for the folder's own.
        sha256: Of the folder's files; None for any.
        batch_size: Images at a time.

    Raises:
        ValueError: If there is no such folder, it holds no such autoencoder, or `shape` does not fit it.
    """

    kind: ClassVar[type[nn.Module]]
    draws: ClassVar[bool]
    choice: ClassVar[str]

    def __init__(
        self,
        path: str,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = None,
        sha256: str | None = None,
        batch_size: int = 16,
    ) -> None:
        self.folder, self.sha256 = folder_of(path), sha256
        kind, options = described(self.folder)
        if kind is not self.kind:
            raise ValueError(f"path={path}: is of the kind {kind.__name__}; choose codec={_CODECS[kind].choice}.")
        channels = options["shape"][0]
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(
                f"path={path}: its images have {channels} channels; those of data.shape={list(shape)} do not."
            )
        self.options = {**options, "shape": list(shape), **({} if scale is None else {"scale": scale})}
        try:
            with torch.device("meta"):
                latent_shape: Sequence[int] = kind(**self.options).latent_shape  # type: ignore[assignment]
        except ValueError as error:
            raise ValueError(f"path={path}: {error}") from None
        super().__init__(shape, latent_shape, self.draws, batch_size)

    def read(self) -> nn.Module:
        """The autoencoder, in evaluation mode.

        Raises:
            ValueError: If its weights are missing, damaged or changed, or do not fit.
        """
        check_sha256(self.folder, self.sha256)
        with torch.device("cpu"):
            module = self.kind(**self.options)
            try:
                module.load_state_dict(_weights(self.folder, module))
            except InteropError as error:
                raise ValueError(f"codec.path={error}") from None
        return module.eval()

    def write(self, folder: Path) -> None:
        """Write it to a new folder, in our own format."""
        self.load()
        assert self._module is not None
        write(folder, self.kind, self.options, self._module.state_dict())


class KLCodec(FolderCodec):
    """An `AutoencoderKL`.

    Args:
        posterior: "draw": latents are drawn from the posterior of their image; "mean": they are its mean.

    Further options and errors are those of `FolderCodec`.
    """

    kind, draws, choice = AutoencoderKL, True, "autoencoder_kl"

    def __init__(
        self,
        path: str,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = None,
        sha256: str | None = None,
        batch_size: int = 16,
        posterior: Literal["draw", "mean"] = "draw",
    ) -> None:
        if posterior not in ("draw", "mean"):
            raise ValueError(f"posterior={posterior}: it must be draw or mean.")
        super().__init__(path, shape, scale, sha256, batch_size)
        self._draws = posterior == "draw"


class VQCodec(FolderCodec):
    """A `VQModel`; latents are the vectors before quantisation."""

    kind, draws, choice = VQModel, False, "vq"


class TinyCodec(FolderCodec):
    """An `AutoencoderTiny`, cheap to decode with."""

    kind, draws, choice = AutoencoderTiny, False, "autoencoder_tiny"


class DCCodec(FolderCodec):
    """An `AutoencoderDC`."""

    kind, draws, choice = AutoencoderDC, False, "autoencoder_dc"


class RAECodec(FolderCodec):
    """A `RepresentationAutoencoder`, of images of the size with which it was trained."""

    kind, draws, choice = RepresentationAutoencoder, False, "rae"

    def __init__(
        self,
        path: str,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = None,
        sha256: str | None = None,
        batch_size: int = 16,
    ) -> None:
        kind, options = described(folder_of(path))
        if kind is self.kind and list(shape) != list(options["shape"]):
            raise ValueError(f"path={path}: its images are {list(options['shape'])}; data.shape={list(shape)} is not.")
        super().__init__(path, shape, scale, sha256, batch_size)


_CODECS: dict[type[nn.Module], type[FolderCodec]] = {
    codec.kind: codec for codec in (KLCodec, VQCodec, TinyCodec, DCCodec, RAECodec)
}


def described(folder: Path) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class and the options of the autoencoder in a folder."""
    config = configuration(folder)
    kind = _CLASSES.get(str(config.get("_target_")))
    if kind is None and str(config.get("_class_name")) not in {kind.__name__ for kind in _KINDS}:
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise ValueError(f"path={folder}: holds no autoencoder; it must be one of {names}.")
    file = folder / "config.json"
    try:
        if kind is None:
            layout = layout_of(config, file)
        else:
            layout = Layout(kind, {key: value for key, value in config.items() if key != "_target_"}, ())
            with making(kind.__name__, file):
                layout.skeleton()
    except InteropError as error:
        raise ValueError(f"path={error}") from None
    return layout.module, dict(layout.options)


def latent_shape(path: str, shape: Sequence[int]) -> list[int]:
    """The shape of the latents of images of `shape`."""
    kind, _ = described(folder_of(path))
    return list(_CODECS[kind](path, shape).latent_shape)


def can_write(kind: type[nn.Module]) -> bool:
    """Whether `write` takes autoencoders of a class."""
    return kind in _CLASSES.values()


def write(folder: Path, kind: type[nn.Module], options: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Write an autoencoder in our own format.

    Args:
        folder: A new folder.
        kind: A class that `can_write` knows.
        options: Arguments of its constructor, plain containers.
        state: Its weights.
    """
    write_text(folder / "config.json", json.dumps({"_target_": _name(kind), **options}))
    with atomic(folder / _WEIGHTS) as file:
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))


def _weights(folder: Path, module: nn.Module) -> Mapping[str, torch.Tensor]:
    if "_target_" not in configuration(folder):
        return read_model(folder)[1]
    state = read_safetensors(folder / _WEIGHTS)
    return checked_state(module.state_dict(), state, folder / _WEIGHTS)
