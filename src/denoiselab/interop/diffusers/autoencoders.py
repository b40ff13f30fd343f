"""The autoencoders of latent diffusion under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.codecs import AutoencoderKL, VQModel
from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import (
    attention_levels,
    image_shape,
    multiples,
    require,
    written_blocks,
    written_sizes,
)
from denoiselab.interop.options import completed, count
from denoiselab.interop.weights.autoencoder_names import AutoencoderNames, autoencoder_entries
from denoiselab.interop.weights.layout import SAME, Layout, Stacked, layer
from denoiselab.interop.weights.state_dicts import InteropError, State

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


def autoencoder_config(
    module: type[Any], options: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Layout, Mapping[str, Tensor]]:
    """The configuration of diffusers' model that equals one of ours, its layout, and the state to write.

    Their pipelines of latent diffusion divide latents by `scaling_factor` and ignore `shift_factor`, `latents_mean` and
    `latents_std`. So a shift, and a scale of each channel, go into the convolutions next to the latents.
    """
    if module not in (AutoencoderKL, VQModel):
        raise ValueError(f"codec={module.__name__}: only AutoencoderKL and VQModel can be written.")
    full = completed(module, options)
    if module is VQModel:
        allowed = {"normalised": False, "shift": 0.0}
        wrong = [name for name, value in allowed.items() if full[name] != value]
        if wrong or not isinstance(full["scale"], int | float):
            name = wrong[0] if wrong else "scale"
            raise ValueError(
                f"codec.{name}={full[name]}: diffusers' VQModel has one factor on all channels and the nearest entries."
            )
    elif not isinstance(full["scale"], int | float) or full["shift"] != 0.0:
        full, state = _folded(full, state)
    names = _VQ if module is VQModel else _KL
    config = {
        "_class_name": module.__name__,
        **written_sizes(full, module.__name__, "codec"),
        **written_blocks(full["attention_levels"], _KINDS, len(full["multipliers"])),
        **dict.fromkeys(("in_channels", "out_channels"), full["shape"][0]),
        **{theirs: full[ours] for ours, theirs in names.items()},
    }
    if module is AutoencoderKL:
        config["use_post_quant_conv"] = full["quantization_convs"]
    return config, _layout(module, full), state


def _folded(full: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], State]:
    """The `AutoencoderKL` of scale 1 and shift 0 with the same latents and images: its options and its state."""
    z, state = full["latent_channels"], dict(state)
    scale, shift = (torch.tensor(full[name], dtype=torch.float64).expand(z) for name in ("scale", "shift"))
    if not full["quantization_convs"]:
        for name, width in (("after_encoder", 2 * z), ("before_decoder", z)):
            state |= {f"{name}.weight": torch.eye(width)[..., None, None], f"{name}.bias": torch.zeros(width)}
    # The mean is shifted and scaled; twice the logarithm of the scale is added to the log-variance.
    factor = torch.cat([scale, torch.ones_like(scale)])
    weight, bias = (state[f"after_encoder.{name}"].double() for name in ("weight", "bias"))
    after = weight * factor[:, None, None, None], bias * factor + torch.cat([-shift * scale, 2 * scale.log()])
    weight, bias = (state[f"before_decoder.{name}"].double() for name in ("weight", "bias"))
    before = weight / scale[:, None, None], bias + weight[:, :, 0, 0] @ shift
    for name, tensors in (("after_encoder", after), ("before_decoder", before)):
        state |= {f"{name}.{part}": tensor.float() for part, tensor in zip(("weight", "bias"), tensors, strict=True)}
    return {**full, "scale": 1.0, "shift": 0.0, "quantization_convs": True}, state


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
