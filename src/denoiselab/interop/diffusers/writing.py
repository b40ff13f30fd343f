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

# What an index has beside the parts that are written.
_OTHERS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {
        **dict.fromkeys(("feature_extractor", "image_encoder", "safety_checker"), (None, None)),
        "requires_safety_checker": False,
    }
}

_LENGTH = 77  # tokens of a text in LDMTextToImagePipeline


class Texts(NamedTuple):
    """A frozen text encoder.

    Attributes:
        pipeline: `StableDiffusionPipeline` or `LDMTextToImagePipeline`.
        length: Tokens of a text.
        write: Writes encoder and tokenizer into a pipeline's folder, and returns the names of their classes by part.
    """

    pipeline: str
    length: int
    write: Callable[[Path], Mapping[str, str]]


class Latent(NamedTuple):
    """The frozen parts of a latent model.

    Attributes:
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

    It is a `DDPMPipeline` of pixels, an `LDMPipeline` of latents, or one of latents with text.
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
    place = "vae" if texts is not None and texts.pipeline == "StableDiffusionPipeline" else "vqvae"
    _write_model(folder / place, *parts)
    classes[place] = ("diffusers", latent.kind.__name__)
    if texts is None:
        square = isinstance(config["sample_size"], int)
        return _write_index(folder, "LDMPipeline", classes) if square and not config["num_class_embeds"] else None
    for part, name in texts.write(folder).items():
        classes[part] = ("latent_diffusion" if part == "bert" else "transformers", name)
    read = text_conditioner(folder, config["cross_attention_dim"])["encoder"].get("length", _LENGTH)
    if read != texts.length:
        raise ValueError(f"conditioner.encoder.length={texts.length}: {texts.pipeline} would take {read}.")
    return _write_index(folder, texts.pipeline, classes | _OTHERS.get(texts.pipeline, {}))


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
