"""The UNet of Stable Diffusion under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import (
    attention_levels,
    block_name,
    image_shape,
    multiples,
    per_level,
    require,
    written_blocks,
    written_sizes,
)
from denoiselab.interop.options import completed, count, require_only
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Pointwise, Stacked, Way, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import Names, Part, entries
from denoiselab.networks import TextUNet

_KINDS = (("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D"))


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


def unet_condition_config(options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of the `UNet2DConditionModel` that equals a `TextUNet` of these options, and its layout.

    It has one output and takes a text's tokens alone, as `StableDiffusionPipeline` needs.
    """
    full = completed(TextUNet, options)
    others = dict.fromkeys(("num_classes", "vector_features", "image_channels"))
    require_only(full, {"class_token": False, **others, "outputs": 1}, "StableDiffusionPipeline")
    levels = len(full["multipliers"])
    full |= {name: per_level(name, full[name], levels) for name in ("depth", "heads")}
    config = {
        "_class_name": "UNet2DConditionModel",
        **written_sizes(full, "UNet2DConditionModel"),
        **written_blocks(full["attention_levels"], _KINDS, levels),
        **dict.fromkeys(("in_channels", "out_channels"), full["shape"][0]),
        "layers_per_block": full["blocks"],
        "transformer_layers_per_block": full["depth"],
        "attention_head_dim": full["heads"],  # the number of heads, by a mistake that diffusers keeps
        "dropout": full["dropout"],
        "norm_num_groups": full["groups"],
        "cross_attention_dim": full["token_features"],
        "num_class_embeds": None,
    }
    return config, Layout(TextUNet, full, _entries(full, Pointwise(2)))


def _entries(options: Mapping[str, Any], projection: Way) -> list[Entry]:
    """The list of weights; `projection` converts those of the layers before and after a transformer."""
    last = len(options["multipliers"]) - 1
    classes = [] if options["num_classes"] is None else layer("classes", "class_embedding", bias=None)
    return [*entries(options, names(lambda part: block_name(part, last), projection)), *classes]


def names(place: Callable[[Part], str], projection: Way | None = None) -> Names:
    """Diffusers' names in a UNet, whose layers are at `place`."""
    return Names(
        place=place,
        residual=("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
        norm="group_norm",
        qkv=("to_q", "to_k", "to_v"),
        out="to_out.0",
        resample={"down": "conv", "up": "conv"},
        time=("time_embedding.linear_1", "time_embedding.linear_2"),
        ends=("conv_in", "conv_norm_out", "conv_out"),
        first=SAME,
        qkv_ways=lambda part: (Stacked(3), Stacked(3)),
        out_way=SAME,
        projection=projection,
    )
