"""Our models as releases, and in the formats of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from denoiselab.app.config.settings import Config, SampleSettings
from denoiselab.app.runs.paths import new_folder
from denoiselab.app.tasks import release
from denoiselab.app.tasks.task import Opened, Task, open_checkpoint
from denoiselab.codecs import Identity
from denoiselab.conditioners import Text
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.files import atomic, write_text
from denoiselab.frozen import KLCodec, LDMTextEncoder, TextEncoder
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.interop import dit
from denoiselab.interop.diffusers.writing import Latent, Texts, write_pipeline
from denoiselab.interop.openai import unets
from denoiselab.networks import ADMUNet, DiT
from denoiselab.pretrained import Loaded

# The factor on latents in DiT's own code.
_SCALE = 0.18215


@dataclass(kw_only=True)
class Export(Task):
    """Write the model to a new folder as a release, or in the format of another code base.

    Args:
        format: `diffusers`: a pipeline; `openai`: guided-diffusion's .pt and its flags; `dit`: DiT's .pt; `release`:
            safetensors with all that `ckpt=<folder>` and `denoiselab.load` need, and a card.
        dtype: Of the weights of a release; they are read as float32.
    """

    format: Literal["diffusers", "openai", "dit", "release"] = "diffusers"
    dtype: Literal["float32", "float16"] = "float32"

    less_memory: ClassVar[str] = "close other programs"

    def __post_init__(self) -> None:
        if self.dtype != "float32" and self.format != "release":
            raise ValueError(f"dtype={self.dtype}: it has no effect without task.format=release.")

    def run(self, asked: SampleSettings) -> Path:
        """Write it; returns the folder."""
        opened = open_checkpoint(asked)
        if self.format == "release":
            return self._write(asked, opened, lambda folder: release.write(folder, opened, self.dtype))
        codec = opened.model.codec
        # The networks of DiT's own code are of latents, and its files never hold the autoencoder.
        if not isinstance(codec, (Identity, *_CODECS.get(self.format, ()))):
            raise BadInput(f"task.format={self.format}: it has no place for what {type(codec).__name__} does.")
        options = {key: value for key, value in opened.loaded.config["network"].items() if key != "_target_"}
        return self._write(asked, opened, lambda folder: _WRITERS[self.format](folder, opened.loaded, options))

    def _write(self, asked: SampleSettings, opened: Opened, writer: Callable[[Path], str]) -> Path:
        """A new folder with what `writer` puts there; it returns what that is."""
        out = opened.new_path(asked, "export", f"{self.format}_{opened.weights}_{opened.sha256[:8]}")
        with new_folder(out) as partial:
            try:
                what = writer(partial)
            except ValueError as error:
                raise BadInput(f"task.format={self.format}: {error}") from None
        console().print(f"{what}, weights {opened.weights}: {out}")
        return out


def _diffusers(folder: Path, loaded: Loaded, options: Config) -> str:
    model, latent = loaded.model, None
    if isinstance(model.codec, FolderCodec):
        texts = texts_of(model.conditioner) if isinstance(model.conditioner, Text) else None
        latent = Latent(model.codec.kind, model.codec.options, model.codec.read().state_dict(), texts)
    kind = write_pipeline(folder, model.denoiser, options, latent)
    if kind is None:
        parts = "unet and scheduler" if latent is None else "unet, scheduler and autoencoder"
        return f"{parts} of diffusers (none of its pipelines samples such a network)"
    return f"{kind} of diffusers"


def texts_of(conditioner: Text) -> Texts:
    """The text encoder, which must be one that a pipeline uses as we do."""
    encoder: Any = conditioner.encoder
    if isinstance(encoder, LDMTextEncoder):
        return Texts("LDMTextToImagePipeline", encoder.length, encoder.write_parts)
    if not isinstance(encoder, TextEncoder):
        why = "it was trained with the denoiser, and " if conditioner.module is not None else ""
        raise ValueError(
            f"conditioner.encoder={type(encoder).__name__}: {why}diffusers and transformers have no class for it; "
            "a TextEncoder or an LDMTextEncoder is exported."
        )
    for option, value, why in (
        ("masked", False, "passes no mask to the network"),
        ("layer", -1, "takes the encoder's output"),
        ("pooled", False, "takes the features of tokens alone"),
    ):
        if (given := getattr(encoder, option)) != value:
            raise ValueError(f"conditioner.encoder.{option}={str(given).lower()}: StableDiffusionPipeline {why}.")
    return Texts("StableDiffusionPipeline", encoder.length, encoder.write_parts)


def _openai(folder: Path, loaded: Loaded, options: Config) -> str:
    network = _network(loaded, ADMUNet)
    state, flags = unets.to_official(options, network.state_dict(), loaded.config)
    _save(folder, state)
    write_text(folder / "flags.json", json.dumps(flags, indent=2))
    return "model.pt of guided-diffusion, and its flags"


def _dit(folder: Path, loaded: Loaded, options: Config) -> str:
    network = _network(loaded, DiT)
    wanted = {"noise_schedule": "linear", "diffusion_steps": 1000, "predict_xstart": False, "rescale_timesteps": False}
    if unets.chain_flags(loaded.config) != wanted:
        raise ValueError("DiT's own code has schedule=ddpm and parameterization=eps alone.")
    codec = loaded.model.codec
    if isinstance(codec, KLCodec) and codec.options.get("scale") != _SCALE:
        raise ValueError(f"codec.scale={codec.options.get('scale')}: DiT's own code has {_SCALE}.")
    _save(folder, dit.to_official(options, network.state_dict()))
    return "model.pt of facebookresearch/DiT"


def _network(loaded: Loaded, kind: type[nn.Module]) -> nn.Module:
    """The network, which must be of a kind."""
    network: nn.Module = loaded.model.denoiser.network
    if not isinstance(network, kind):
        raise ValueError(f"it writes {kind.__name__}, and the network is {type(network).__name__}.")
    return network


def _save(folder: Path, state: dict[str, Tensor]) -> None:
    with atomic(folder / "model.pt") as file:
        # Written in their layout: ours may have channels last.
        torch.save({name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}, file)


# Autoencoders that a format has a place for, or leaves out.
_CODECS: dict[str, tuple[type, ...]] = {"diffusers": (FolderCodec,), "dit": (KLCodec,)}

_WRITERS: dict[str, Callable[[Path, Loaded, Config], str]] = {
    "diffusers": _diffusers,
    "openai": _openai,
    "dit": _dit,
}
