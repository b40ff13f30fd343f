"""The autoencoder and the text encoder of a pipeline of latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from denoiselab.interop.config_nodes import Node, node
from denoiselab.interop.diffusers.autoencoders import autoencoder_kl, vq_model
from denoiselab.interop.diffusers.deterministic import autoencoder_dc, autoencoder_tiny
from denoiselab.interop.weights.files import read_json
from denoiselab.interop.weights.state_dicts import InteropError, making

_KINDS = {
    "AutoencoderKL": (autoencoder_kl, "KLCodec"),
    "VQModel": (vq_model, "VQCodec"),
    "AutoencoderTiny": (autoencoder_tiny, "TinyCodec"),
    "AutoencoderDC": (autoencoder_dc, "DCCodec"),
}

# Folders of text encoders in pipelines; LDM's is the second.
TEXT_ENCODERS = ("text_encoder", "bert")


def codec(folder: Path, latent_shape: Sequence[int]) -> tuple[Node, list[int]]:
    """The node of the autoencoder in a folder of diffusers, and the shape of images with this `latent_shape`."""
    file = folder / "config.json"
    config = read_json(file)
    kind = str(config.get("_class_name"))
    if kind not in _KINDS:
        raise InteropError(f"{file}: {kind} is not a supported autoencoder; supported: {', '.join(_KINDS)}.")
    layout_of, name = _KINDS[kind]
    with making(kind, file):
        layout = layout_of(config)
        with torch.device("meta"):
            own: Any = layout.module(**layout.options)
    (channels, height, _), pixels = own.latent_shape, own.shape
    if channels != latent_shape[0]:
        raise InteropError(f"{file}: its latents have {channels} channels, and the network takes {latent_shape[0]}.")
    shape = [pixels[0], *(pixels[1] // height * size for size in latent_shape[1:])]
    return node(f"denoiselab.frozen.{name}", path=str(folder), shape=shape), shape


def text_conditioner(folder: Path, features: int) -> Node:
    """The node of the text encoder in a pipeline's folder, whose tokens must have so many `features`."""
    encoder = next((folder / name for name in TEXT_ENCODERS if (folder / name).is_dir()), folder / TEXT_ENCODERS[0])
    tokenizer = folder / "tokenizer"
    for part in (encoder, tokenizer):
        if not part.is_dir():
            raise InteropError(f"{folder}: its network needs the tokens of a text, but it has no {part.name}.")
    config, words = read_json(encoder / "config.json"), read_json(tokenizer / "tokenizer_config.json")
    if config.get("use_attention_mask"):
        raise InteropError(f"{encoder}: use_attention_mask=true is not supported.")
    ldm = config.get("model_type") == "ldmbert"
    width = config.get("d_model" if ldm else "hidden_size")
    if width != features:
        raise InteropError(f"{encoder}: its tokens have {width} features, and the network takes {features}.")
    if ldm:
        return node("denoiselab.conditioners.Text", encoder=node("denoiselab.frozen.LDMTextEncoder", path=str(encoder)))
    with making("tokenizer", tokenizer / "tokenizer_config.json"):
        longest = int(words.get("model_max_length", 10**9))
    with making("text encoder", encoder / "config.json"):
        longest = min(longest, int(config.get("max_position_embeddings", 77)))
    return node(
        "denoiselab.conditioners.Text",
        encoder=node("denoiselab.frozen.TextEncoder", path=str(encoder), length=longest, masked=False),
    )
