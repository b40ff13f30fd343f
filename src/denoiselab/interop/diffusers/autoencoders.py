"""The autoencoders of latent diffusion under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from denoiselab.codecs import AutoencoderKL, VQModel
from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import attention_levels, image_shape, multiples, require
from denoiselab.interop.options import completed, count
from denoiselab.interop.weights.autoencoder_names import AutoencoderNames, autoencoder_entries
from denoiselab.interop.weights.layout import SAME, Layout, Stacked, layer
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
    found = autoencoder_entries(full, _names(len(full["multipliers"]) - 1))
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


def _names(last: int) -> AutoencoderNames:
    """Diffusers' names; `last` is the number of the coarsest level."""

    def inside(kind: str) -> Callable[[str, int | None, int], str]:
        return lambda side, level, number: f"{place(side, level)}.{kind}.{number}"

    def place(side: str, level: int | None) -> str:
        if level is None:
            return f"{side}.mid_block"
        return f"encoder.down_blocks.{level}" if side == "encoder" else f"decoder.up_blocks.{last - level}"

    samplers = {"encoder": "downsamplers", "decoder": "upsamplers"}
    return AutoencoderNames(
        block=inside("resnets"),
        attention=inside("attentions"),
        resample=lambda side, level: f"{place(side, level)}.{samplers[side]}.0.conv",
        norm="conv_norm_out",
        skip="conv_shortcut",
        inside=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
        qkv=Stacked(3),
        out=SAME,
    )
