"""Pipelines of diffusers, written: a network with its scheduler, autoencoder and text encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from denoiselab.denoiser import Denoiser
from denoiselab.files import atomic, write_text
from denoiselab.interop.diffusers.autoencoders import autoencoder_config
from denoiselab.interop.diffusers.pipeline_parts import text_conditioner
from denoiselab.interop.diffusers.pipelines import layout_of
from denoiselab.interop.diffusers.schedulers import to_scheduler
from denoiselab.interop.diffusers.unet import unet2d_config
from denoiselab.interop.diffusers.unet_text import unet_condition_config
from denoiselab.interop.weights.files import WEIGHTS
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import checked_state
from denoiselab.networks import TextUNet

_VERSION = "0.35.0"  # release of the written files

# Parts of StableDiffusionPipeline that are not written.
_NONE = dict.fromkeys(("feature_extractor", "image_encoder", "safety_checker"), (None, None))


class Texts(NamedTuple):
    """A frozen text encoder.

    Args:
        length: Tokens of a text.
        write: Writes `text_encoder` and `tokenizer` into a folder, and returns the names of their classes of
            transformers.
    """

    length: int
    write: Callable[[Path], Mapping[str, str]]


class Latent(NamedTuple):
    """The frozen parts of a latent model.

    Args:
        kind: Class of the autoencoder, of `denoiselab.codecs`.
        options: Of its constructor.
        state: Its weights.
        texts: The text encoder; None for none.
    """

    kind: type[Any]
    options: Mapping[str, Any]
    state: Mapping[str, Tensor]
    texts: Texts | None = None


def write_pipeline(
    folder: Path, denoiser: Denoiser, options: Mapping[str, Any], latent: Latent | None = None
) -> str | None:
    """Write a denoiser as a pipeline, which `DiffusionPipeline.from_pretrained` loads; returns its class.

    It is a `DDPMPipeline` of pixels, an `LDMPipeline` of latents, or a `StableDiffusionPipeline` of latents with text.
    A class-conditional network is written without the pipeline's index, since none of these takes classes:
    `UNet2DModel.from_pretrained` loads `unet/`, and `from_pretrained` of the other classes their folders.

    Args:
        folder: An empty one.
        denoiser: With the weights to write.
        options: Of its network's constructor.
        latent: The frozen parts of a latent model; None for pixels.

    Raises:
        ValueError: If diffusers has no such network, scheduler, autoencoder or pipeline.
    """
    texts = None if latent is None else latent.texts
    network = denoiser.network
    if latent is not None and type(network) is TextUNet:
        config, layout = unet_condition_config(options)
        if texts is None:
            raise ValueError("conditioner: StableDiffusionPipeline needs a text encoder, and there is none.")
    else:
        config, layout = unet2d_config(type(network), options)
    scheduler, state = to_scheduler(denoiser), network.state_dict()
    if latent is not None:
        if config["out_channels"] != config["in_channels"]:
            raise ValueError("network.outputs=2: diffusers' pipelines of latents have no learned variance.")
        scheduler = _of_latents(scheduler)
        parts = autoencoder_config(latent.kind, latent.options, latent.state)
    _write_model(folder / "unet", config, layout, state)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    classes = {"scheduler": ("diffusers", scheduler["_class_name"]), "unet": ("diffusers", config["_class_name"])}
    if latent is None:
        return None if config["num_class_embeds"] else _write_index(folder, "DDPMPipeline", classes)
    place = "vqvae" if texts is None else "vae"
    _write_model(folder / place, *parts)
    classes[place] = ("diffusers", latent.kind.__name__)
    if texts is not None:
        classes |= {part: ("transformers", kind) for part, kind in texts.write(folder).items()}
        read = text_conditioner(folder, config["cross_attention_dim"])["encoder"]["length"]
        if read != texts.length:
            raise ValueError(f"conditioner.encoder.length={texts.length}: StableDiffusionPipeline would take {read}.")
        return _write_index(folder, "StableDiffusionPipeline", {**classes, **_NONE, "requires_safety_checker": False})
    square = isinstance(config["sample_size"], int)
    return _write_index(folder, "LDMPipeline", classes) if square and not config["num_class_embeds"] else None


def _of_latents(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `DDIMScheduler` on the chain of a `DDPMScheduler`: it does not clip, and ends at clean latents."""
    chain = {key: value for key, value in config.items() if key not in ("variance_type", "clip_sample_range")}
    # StableDiffusionPipeline replaces another offset, and warns.
    own = {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}
    return {**chain, "_class_name": "DDIMScheduler", **own}


def _write_model(folder: Path, config: Mapping[str, Any], layout: Layout, ours: Mapping[str, Tensor]) -> None:
    """Write a network or an autoencoder, of which `ours` is the state."""
    state = layout.to_theirs(ours)
    # Check that the written files can be read back.
    back = layout_of(config, folder / "config.json")
    checked_state(back.to_theirs(back.skeleton()), state, folder / f"{WEIGHTS}.safetensors")
    with atomic(folder / f"{WEIGHTS}.safetensors") as file:
        # Ours may have channels last.
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}, {"format": "pt"}))
    _write_json(folder / "config.json", config)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_text(file, json.dumps({**content, "_diffusers_version": _VERSION}, indent=2))


def _write_index(folder: Path, kind: str, classes: Mapping[str, Any]) -> str:
    _write_json(folder / "model_index.json", {"_class_name": kind, **classes})
    return kind
