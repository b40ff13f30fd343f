"""First stages under CompVis' names.

Source of the names: `ldm/modules/diffusionmodules/model.py` and `ldm/models/autoencoder.py` of
CompVis/latent-diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from denoiselab.codecs import AutoencoderKL, VQModel
from denoiselab.interop.weights.autoencoder_names import AutoencoderNames, autoencoder_entries
from denoiselab.interop.weights.layout import Layout, Pointwise, layer
from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, width_of


def first_stage(state: State, where: Path, latent_shape: Sequence[int], scale: float) -> Layout:
    """The `AutoencoderKL` or `VQModel` of a state dict of theirs, from its names and shapes.

    Args:
        state: Without the prefix `first_stage_model.`.
        where: Its file.
        latent_shape: Shape (C, H, W) of the network's input.
        scale: Factor on latents.
    """
    channels = width_of(state, "encoder.conv_in.weight", where)
    levels = numbered(state, "encoder.down.{}.block.0.norm1.weight")
    widths = [width_of(state, f"encoder.down.{level}.block.0.conv1.weight", where) for level in range(levels)]
    if not widths or any(width % channels for width in widths):
        raise InteropError(f"{where}: the first stage's levels have {widths} channels, no multiples of {channels}.")
    stride = 2 ** (levels - 1)
    side = width_of(state, "encoder.conv_in.weight", where, axis=1)
    encoded = width_of(state, "encoder.conv_out.weight", where)
    latents = width_of(state, "post_quant_conv.weight", where, axis=1)
    if latents != latent_shape[0]:
        raise InteropError(
            f"{where}: its first stage's latents have {latents} channels, and the network takes {latent_shape[0]}."
        )
    options = {
        "shape": [side, *(stride * size for size in latent_shape[1:])],
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "blocks": numbered(state, "encoder.down.0.block.{}.norm1.weight"),
        "attention_levels": [n for n in range(levels) if f"encoder.down.{n}.attn.0.norm.weight" in state],
        "middle_attention": "encoder.mid.attn_1.norm.weight" in state,
        "groups": 32,
        "scale": scale,
    }
    found = autoencoder_entries(options, _NAMES)
    found += [*layer("after_encoder", "quant_conv"), *layer("before_decoder", "post_quant_conv")]
    ignored = ["loss.*", "model_ema.*"]
    if "quantize.embedding.weight" not in state:
        if encoded != 2 * latents:
            raise InteropError(f"{where}: its first stage has z_channels={encoded // 2} and embed_dim={latents}.")
        return Layout(AutoencoderKL, {**options, "latent_channels": latents}, found, ignored)
    codes = width_of(state, "quantize.embedding.weight", where)
    found += layer("quantizer.codebook", "quantize.embedding", bias=None)
    own = {"latent_channels": encoded, "code_features": latents, "codes": codes}
    return Layout(VQModel, {**options, **own}, found, ignored)


def _block(side: str, level: int | None, number: int) -> str:
    if level is None:
        return f"{side}.mid.block_{number + 1}"
    return f"{_level(side, level)}.block.{number}"


def _attention(side: str, level: int | None, number: int) -> str:
    if level is None:
        return f"{side}.mid.attn_{number + 1}"
    return f"{_level(side, level)}.attn.{number}"


def _level(side: str, level: int) -> str:
    """The decoder's levels are counted from the finest too."""
    return f"{side}.{'down' if side == 'encoder' else 'up'}.{level}"


_NAMES = AutoencoderNames(
    block=_block,
    attention=_attention,
    resample=lambda side, level: f"{_level(side, level)}.{'down' if side == 'encoder' else 'up'}sample.conv",
    norm="norm_out",
    skip="nin_shortcut",
    inside=("norm", "q", "k", "v", "proj_out"),
    qkv=Pointwise(2, 3),
    out=Pointwise(2),
)
