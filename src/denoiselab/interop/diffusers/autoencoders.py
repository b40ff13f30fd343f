"""The autoencoders of latent diffusion under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from denoiselab.codecs import AutoencoderKL, VQModel
from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import attention_levels, image_shape, multiples, require
from denoiselab.interop.options import completed, count
from denoiselab.interop.weights.layout import Entry, Layout, Stacked, layer
from denoiselab.interop.weights.state_dicts import InteropError

_KINDS = (("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"))

# Supported values of options, besides their defaults.
_SUPPORTED = {"act_fn": ("silu", "swish"), "mid_block_add_attention": (True, False)}


# Our names of options that have the same values there, to theirs.
_SHARED = {
    "blocks": "layers_per_block",
    "middle_attention": "mid_block_add_attention",
    "groups": "norm_num_groups",
    "scale": "scaling_factor",
}
_KL = {**_SHARED, "latent_channels": "latent_channels", "quantization_convs": "use_quant_conv"}
_VQ = {**_SHARED, "latent_channels": "latent_channels", "code_features": "vq_embed_dim", "codes": "num_vq_embeddings"}


@reads("AutoencoderKL")
def autoencoder_kl(config: Fields) -> Layout:
    """Our `AutoencoderKL` that equals diffusers' of the same name."""
    require(config, {**_SUPPORTED, "use_quant_conv": (True, False)})
    quantization = config["use_quant_conv"]
    if config["use_post_quant_conv"] != quantization:
        raise InteropError(f"use_post_quant_conv: it must equal use_quant_conv={quantization}.")
    return _layout(AutoencoderKL, {**_options(config, _KL), **_normalisation(config)})


@reads("VQModel")
def vq_model(config: Fields) -> Layout:
    """Our `VQModel` that equals diffusers' of the same name."""
    require(config, _SUPPORTED)
    return _layout(VQModel, _options(config, _VQ))


def _normalisation(config: Fields) -> dict[str, Any]:
    """Scale and shift; with `latents_mean` and `latents_std`, z is (latent - mean) / std * scaling_factor."""
    mean, std, factor = config["latents_mean"], config["latents_std"], config["scaling_factor"]
    if mean is None and std is None:
        return {"shift": config["shift_factor"] or 0.0}
    if not all(isinstance(given, list | tuple) and len(given) == config["latent_channels"] for given in (mean, std)):
        raise InteropError("latents_mean, latents_std: each must have one number a channel of the latent.")
    if config["shift_factor"]:
        raise InteropError(f"shift_factor={config['shift_factor']}: it must be null or 0 where latents_mean is given.")
    return {"scale": [factor / value for value in std], "shift": list(mean)}


def _layout(module: type[AutoencoderKL] | type[VQModel], options: Mapping[str, Any]) -> Layout:
    full = completed(module, options)
    found = _entries(full)
    if full.get("quantization_convs", True):
        found += [*layer("after_encoder", "quant_conv"), *layer("before_decoder", "post_quant_conv")]
    if module is VQModel:
        found += layer("quantizer.codebook", "quantize.embedding", bias=None)
    return Layout(module, full, found)


def _options(config: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    widths: Sequence[int] = config["block_out_channels"]
    channels, channels_out = config["in_channels"], config["out_channels"]
    if channels != channels_out:
        raise InteropError(f"out_channels={channels_out}: it must equal in_channels={channels}.")
    count("layers_per_block", config["layers_per_block"])
    return {
        "shape": image_shape(config, channels),
        "channels": widths[0],
        "multipliers": multiples(widths),
        "attention_levels": attention_levels(config["down_block_types"], config["up_block_types"], _KINDS, len(widths)),
        **{ours: config[theirs] for ours, theirs in names.items()},
    }


def _entries(options: Mapping[str, Any]) -> list[Entry]:
    multipliers, blocks = options["multipliers"], options["blocks"]
    last, attention = len(multipliers) - 1, options["attention_levels"]
    found: list[Entry] = []
    for side in ("encoder", "decoder"):
        for ours, theirs in (("stem", "conv_in"), ("norm", "conv_norm_out"), ("head", "conv_out")):
            found += layer(f"{side}.{ours}", f"{side}.{theirs}")
        for number in range(2):
            with_attention = options["middle_attention"] and number == 0
            found += _stage(f"{side}.middle.{number}", f"{side}.mid_block", number, False, with_attention)
    width = 1
    for level, multiplier in enumerate(multipliers):
        theirs = f"encoder.down_blocks.{level}"
        for number in range(blocks):
            found += _stage(f"encoder.down.{level}.{number}", theirs, number, width != multiplier, level in attention)
            width = multiplier
        if level < last:
            found += layer(f"encoder.down.{level}.{blocks}.conv", f"{theirs}.downsamplers.0.conv")
    for place, level in enumerate(range(last, -1, -1)):
        ours, theirs = f"decoder.up.{place}", f"decoder.up_blocks.{place}"
        for number in range(blocks + 1):
            found += _stage(f"{ours}.{number}", theirs, number, width != multipliers[level], level in attention)
            width = multipliers[level]
        if level:
            found += layer(f"{ours}.{blocks + 1}.conv", f"{theirs}.upsamplers.0.conv")
    return found


def _stage(ours: str, theirs: str, number: int, skip: bool, attention: bool) -> list[Entry]:
    names = {"norm_in": "norm1", "conv_in": "conv1", "norm_out": "norm2", "conv_out": "conv2"}
    names |= {"skip": "conv_shortcut"} if skip else {}
    found = [entry for a, b in names.items() for entry in layer(f"{ours}.{a}", f"{theirs}.resnets.{number}.{b}")]
    if attention:
        a, b = f"{ours}.attention", f"{theirs}.attentions.{number}"
        found += layer(f"{a}.norm", f"{b}.group_norm")
        found += layer(f"{a}.qkv", [f"{b}.to_{x}" for x in "qkv"], Stacked(3), Stacked(3))
        found += layer(f"{a}.out", f"{b}.to_out.0")
    return found
