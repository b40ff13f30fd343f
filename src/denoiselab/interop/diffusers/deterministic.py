"""Diffusers' autoencoders that draw nothing: the small one for previews, and the deep-compression one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from denoiselab.codecs import AutoencoderDC, AutoencoderTiny
from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import require
from denoiselab.interop.weights.layout import Entry, Layout, Stacked
from denoiselab.interop.weights.state_dicts import InteropError

# Our names of layers and theirs, in the order of their replacement.
_DC_NAMES = (
    (r"coder\.stem\.", "coder.conv_in."),
    (r"coder\.head\.", "coder.conv_out."),
    (r"decoder\.norm\.", "decoder.norm_out."),
    (r"\.(down|up)\.", r".\1_blocks."),
    (r"\.first\.", ".conv1."),
    (r"\.second\.", ".conv2."),
    (r"\.attention\.scales\.(\d+)\.0\.", r".attn.to_qkv_multiscale.\1.proj_in."),
    (r"\.attention\.scales\.(\d+)\.1\.", r".attn.to_qkv_multiscale.\1.proj_out."),
    (r"\.attention\.norm\.", ".attn.norm_out."),
    (r"\.attention\.(\w+)\.", r".attn.to_\1."),
    (r"\.mix\.norm\.", ".conv_out.norm."),
    (r"\.mix\.expand\.", ".conv_out.conv_inverted."),
    (r"\.mix\.", ".conv_out.conv_"),
)

_PLAIN, _ATTENTION = "ResBlock", "EfficientViTBlock"


@reads("AutoencoderTiny")
def autoencoder_tiny(config: Fields) -> Layout:
    """Our `AutoencoderTiny` that equals diffusers' of the same name; the configuration states no size of images."""
    config.get("block_out_channels")  # diffusers writes the decoder's under this name, too
    widths = [*config["encoder_block_out_channels"], *config["decoder_block_out_channels"]]
    encoder, decoder = config["num_encoder_blocks"], config["num_decoder_blocks"]
    if len(set(widths)) != 1 or len(widths) != len(encoder) + len(decoder):
        raise InteropError(f"encoder_block_out_channels, decoder_block_out_channels: all must be {widths[:1]}.")
    options = {
        "shape": _shape(_pixels(config, config["out_channels"]), len(encoder)),
        "channels": widths[0],
        "encoder_blocks": list(encoder),
        "decoder_blocks": list(decoder),
        "latent_channels": config["latent_channels"],
        "scale": config["scaling_factor"],
        "shift": config["shift_factor"] or 0.0,
    }
    return _layout(AutoencoderTiny, options, lambda name: name.replace("coder.", "coder.layers.", 1))


@reads("AutoencoderDC")
def autoencoder_dc(config: Fields) -> Layout:
    """Our `AutoencoderDC` that equals diffusers' of the same name; the configuration states no size of images."""
    widths = _both(config, "block_out_channels")
    types = _both(config, "block_types", len(widths))
    if unknown := sorted(set(types) - {_PLAIN, _ATTENTION}):
        raise InteropError(f"encoder_block_types: {unknown[0]} is not supported; supported: {_PLAIN}, {_ATTENTION}.")
    attention = [level for level, kind in enumerate(types) if kind == _ATTENTION]
    kernels = _both(config, "qkv_multiscales")
    used = [kernels[level] for level in attention]
    if any(sizes != used[0] for sizes in used):
        raise InteropError(f"encoder_qkv_multiscales={kernels}: levels with attention must have the same.")
    require(config, {"upsample_block_type": ("pixel_shuffle", "interpolate")})
    require(config, {"downsample_block_type": ("pixel_unshuffle", "conv", "Conv")})
    shuffles = config["upsample_block_type"] == "pixel_shuffle"
    if shuffles != (config["downsample_block_type"] == "pixel_unshuffle"):
        raise InteropError("upsample_block_type: pixel_shuffle goes with downsample_block_type=pixel_unshuffle.")
    options = {
        "shape": _shape(_pixels(config, config["in_channels"]), len(widths)),
        "channels": widths,
        "encoder_blocks": list(config["encoder_layers_per_block"]),
        "decoder_blocks": list(config["decoder_layers_per_block"]),
        "attention_levels": attention,
        "attention_kernels": used[0] if used else [],
        "head_features": config["attention_head_dim"],
        "latent_channels": config["latent_channels"],
        "shuffles": shuffles,
        "batch_norm": _batch_norm(config, types),
        "scale": config["scaling_factor"],
    }
    return _layout(AutoencoderDC, options, _dc_name)


def _batch_norm(config: Fields, types: Sequence[str]) -> bool:
    """Whether the decoder's residual blocks have batch norms and ReLU; else all norms are RMS norms, with SiLU."""
    norms, activations = (_levels(config, f"decoder_{name}", len(types)) for name in ("norm_types", "act_fns"))
    levels = list(zip(types, norms, activations, strict=True))
    plain = {(norm, activation) for kind, norm, activation in levels if kind == _PLAIN}
    attention = {norm for kind, norm, _ in levels if kind == _ATTENTION}
    if not attention <= {"rms_norm"} or plain not in (set(), {("rms_norm", "silu")}, {("batch_norm", "relu")}):
        raise InteropError(
            f"decoder_norm_types={norms}, decoder_act_fns={activations}: they must be rms_norm and silu, or of all "
            f"levels of {_PLAIN} batch_norm and relu."
        )
    return plain == {("batch_norm", "relu")}


def _dc_name(name: str) -> str:
    for ours, theirs in _DC_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def _layout(
    module: type[AutoencoderTiny | AutoencoderDC], options: Mapping[str, Any], theirs: Callable[[str], str]
) -> Layout:
    """With a list of weights that differ by their names, and queries, keys and values in one."""
    with torch.device("meta"):
        names = module(**options).state_dict()
    found = []
    for name in names:
        if name.endswith(".attention.qkv.weight"):
            parts = tuple(theirs(name.replace("qkv.weight", f"{part}.weight")) for part in "qkv")
            found.append(Entry(name, parts, Stacked(3)))
        else:
            found.append(Entry(name, (theirs(name),)))
    return Layout(module, options, found, ("*.num_batches_tracked",))


def _both(config: Fields, name: str, levels: int = 0) -> list[Any]:
    """The values of each level, which must be the same in encoder and decoder."""
    first, second = (_levels(config, f"{side}_{name}", levels) for side in ("encoder", "decoder"))
    if first != second:
        raise InteropError(f"decoder_{name}={second}: it must equal encoder_{name}={first}.")
    return first


def _levels(config: Fields, option: str, levels: int) -> list[Any]:
    """The values of each level, from one for all or a list of them."""
    value = config[option]
    if isinstance(value, str):
        return [value] * levels
    return [list(one) if isinstance(one, tuple) else one for one in value]


def _pixels(config: Fields, channels_out: int) -> int:
    if config["in_channels"] != channels_out:
        raise InteropError(f"out_channels={channels_out}: it must equal in_channels={config['in_channels']}.")
    return channels_out


def _shape(channels: int, levels: int) -> list[int]:
    """The smallest images of so many levels."""
    return [channels, *[2 ** (levels - 1)] * 2]
