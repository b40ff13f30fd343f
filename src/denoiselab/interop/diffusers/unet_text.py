"""The UNet of Stable Diffusion under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import (
    attention_levels,
    block_name,
    image_shape,
    multiples,
    per_level,
    require,
)
from denoiselab.interop.options import count
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Pointwise, Stacked, Way, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import parts
from denoiselab.networks import TextUNet

_KINDS = (("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D"))

# Layers of a residual block, our names to theirs.
_RESIDUAL = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "embedding": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
}


@reads("UNet2DConditionModel")
def unet_condition(config: Fields) -> Layout:
    """Our `TextUNet` that equals a `UNet2DConditionModel` of Stable Diffusion's first two versions.

    If it has more input than output channels, the last ones are `image`, as for inpainting.
    """
    require(config, {"act_fn": ("silu", "swish"), "mid_block_only_cross_attention": (None, False)})
    widths: Sequence[int] = config["block_out_channels"]
    levels, channels = len(widths), widths[0]
    require(config, {"time_embedding_dim": (None, 4 * channels)})
    channels_in, channels_out = config["in_channels"], config["out_channels"]
    if channels_in <= channels_out and channels_out % channels_in:
        raise InteropError(f"out_channels={channels_out}: it must be a multiple of in_channels={channels_in}, or less.")
    blocks = per_level("layers_per_block", config["layers_per_block"], levels)
    context = per_level("cross_attention_dim", config["cross_attention_dim"], levels)
    depths = per_level("transformer_layers_per_block", config["transformer_layers_per_block"], levels)
    for option, values in (("layers_per_block", blocks), ("cross_attention_dim", context)):
        if len(set(values)) > 1:
            raise InteropError(f"{option}={values}: it must be the same at all levels.")
    options = {
        "shape": image_shape(config, min(channels_in, channels_out)),
        "channels": channels,
        "multipliers": multiples(widths),
        "blocks": count("layers_per_block", blocks[0]),
        "attention_levels": attention_levels(config["down_block_types"], config["up_block_types"], _KINDS, levels),
        "depth": [count("transformer_layers_per_block", number) for number in depths],
        "heads": per_level("attention_head_dim", config["attention_head_dim"], levels),
        "dropout": config["dropout"],
        "groups": config["norm_num_groups"],
        "token_features": context[0],
        "num_classes": config["num_class_embeds"],
        "null_class": False,
        "image_channels": channels_in - channels_out if channels_in > channels_out else None,
        "outputs": max(channels_out // channels_in, 1),
    }
    projection = SAME if config["use_linear_projection"] else Pointwise(2)
    return Layout(TextUNet, options, _entries(options, projection))


def _entries(options: Mapping[str, Any], projection: Way) -> list[Entry]:
    """The list of weights; `projection` converts those of the layers before and after a transformer."""
    last = len(options["multipliers"]) - 1
    found = [
        *layer("time.1", "time_embedding.linear_1"),
        *layer("time.3", "time_embedding.linear_2"),
        *layer("stem", "conv_in"),
        *layer("norm", "conv_norm_out"),
        *layer("head", "conv_out"),
    ]
    if options["num_classes"] is not None:
        found += layer("classes", "class_embedding", bias=None)
    for part in parts(options):
        theirs = block_name(part, last)
        if part.kind == "residual":
            names = {**_RESIDUAL, **({"skip": "conv_shortcut"} if part.skip else {})}
            found += [entry for a, b in names.items() for entry in layer(f"{part.ours}.{a}", f"{theirs}.{b}")]
        elif part.kind == "attention":
            found += _transformer(part.ours, theirs, options["depth"][part.level], projection)
        else:
            found += layer(f"{part.ours}.conv", f"{theirs}.conv")
    return found


def _transformer(ours: str, theirs: str, depth: int, projection: Way) -> list[Entry]:
    found = [
        *layer(f"{ours}.norm", f"{theirs}.norm"),
        *layer(f"{ours}.before", f"{theirs}.proj_in", projection),
        *layer(f"{ours}.after", f"{theirs}.proj_out", projection),
    ]
    for number in range(depth):
        a, b = f"{ours}.blocks.{number}", f"{theirs}.transformer_blocks.{number}"
        found += [
            *layer(f"{a}.norm_attention", f"{b}.norm1"),
            *layer(f"{a}.attention.qkv", [f"{b}.attn1.to_{x}" for x in "qkv"], Stacked(3), None),
            *layer(f"{a}.attention.out", f"{b}.attn1.to_out.0"),
            *layer(f"{a}.norm_cross", f"{b}.norm2"),
            *layer(f"{a}.cross.q", f"{b}.attn2.to_q", bias=None),
            *layer(f"{a}.cross.kv", [f"{b}.attn2.to_{x}" for x in "kv"], Stacked(2), None),
            *layer(f"{a}.cross.out", f"{b}.attn2.to_out.0"),
            *layer(f"{a}.norm_mlp", f"{b}.norm3"),
            *layer(f"{a}.mlp.hidden", f"{b}.ff.net.0.proj"),
            *layer(f"{a}.mlp.out", f"{b}.ff.net.2"),
        ]
    return found
