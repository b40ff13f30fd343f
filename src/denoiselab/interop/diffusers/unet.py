"""`UNet2DModel` of diffusers: as our `DDPMUNet`, or as our `ADMUNet` where it has ADM's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import (
    attention_levels,
    block_name,
    image_shape,
    multiples,
    require,
    sample_size,
)
from denoiselab.interop.options import completed, count, positive
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Stacked
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import Halves, Names, Part, entries
from denoiselab.networks import ADMUNet, DDPMUNet

# What both must be, by option: the values that will do.
_BOTH: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "flip_sin_to_cos": (True, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "time_embedding_type": ("positional",),
}
_ADM: dict[str, tuple[Any, ...]] = {
    "add_attention": (True,),
    "downsample_padding": (1,),
    "freq_shift": (0,),
    "norm_eps": (1e-5,),
}

# Types of blocks without and with attention, on the way down and up: resampling by convolutions, and by blocks.
_CONV = (("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D"))
_BLOCK = (("ResnetDownsampleBlock2D", "AttnDownBlock2D"), ("ResnetUpsampleBlock2D", "AttnUpBlock2D"))


@reads("UNet2DModel")
def unet2d(config: Fields) -> Layout:
    """The network of ours that equals a `UNet2DModel`.

    Args:
        config: Its configuration.

    Raises:
        InteropError: There is none.
    """
    require(config, _BOTH)
    scale_shift = config["resnet_time_scale_shift"]
    require(config, {"resnet_time_scale_shift": ("default", "scale_shift")})
    resampling = config["downsample_type"]
    require(config, {"downsample_type": ("conv", "resnet"), "upsample_type": (resampling,)})
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    require(config, {"time_embedding_dim": (None, 4 * widths[0])})
    # With scale and shift the middle's attention has a norm only if this says so.
    in_middle = config["attn_norm_num_groups"]
    if in_middle not in ((groups,) if scale_shift == "scale_shift" else (None, groups)):
        raise InteropError(f"attn_norm_num_groups={in_middle}: it must be {groups} to have a counterpart.")
    inputs, outputs = config["in_channels"], config["out_channels"]
    if outputs % inputs:
        raise InteropError(f"out_channels={outputs}: it must be a multiple of in_channels={inputs}.")
    blocks = resampling == "resnet" or _BLOCK[0][0] in config["down_block_types"]
    kinds = _BLOCK if blocks else _CONV
    options = {
        "shape": image_shape(config, inputs),
        "channels": widths[0],
        "multipliers": multiples(widths),
        "blocks": count("layers_per_block", config["layers_per_block"]),
        "attention_levels": attention_levels(config["down_block_types"], config["up_block_types"], kinds, len(widths)),
        "dropout": config["dropout"],
        "groups": groups,
        "num_classes": config["num_class_embeds"],
        "null_class": False,
        "outputs": outputs // inputs,
        "head_channels": config["attention_head_dim"],
    }
    cosine_first = config["flip_sin_to_cos"]
    if blocks or scale_shift == "scale_shift":
        require(config, _ADM)
        own = {"scale_shift": scale_shift == "scale_shift", "block_resampling": blocks}
        return _layout(ADMUNet, {**options, **own}, cosine_first=cosine_first)
    require(config, {"downsample_padding": (1, 0), "freq_shift": (0, 1)})
    own = {
        "norm_eps": positive(config, "norm_eps"),
        "frequency_shift": config["freq_shift"],
        "symmetric": config["downsample_padding"] == 1,
        "middle_attention": config["add_attention"],
    }
    return _layout(DDPMUNet, {**options, **own}, cosine_first=cosine_first)


def unet2d_config(module: type[nn.Module], options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of the `UNet2DModel` that equals a network of ours, and the list of their weights.

    Args:
        module: `DDPMUNet` or `ADMUNet`.
        options: Of its constructor, all that differ from its defaults.

    Raises:
        ValueError: There is none.
    """
    if module not in (DDPMUNet, ADMUNet):
        raise ValueError(f"network={module.__name__}: of our networks DDPMUNet and ADMUNet are a UNet2DModel.")
    full = completed(module, options)
    for option, what in (("image_channels", "image"), ("vector_features", "vector")):
        if full[option] is not None:
            raise ValueError(f"network.{option}={full[option]}: UNet2DModel takes no {what}.")
    if full.get("patch", 1) != 1:
        raise ValueError(f"network.patch={full['patch']}: UNet2DModel has no patches.")
    if full.get("heads", 1) != 1 and full["head_channels"] is None:
        raise ValueError(f"network.heads={full['heads']}: UNet2DModel has heads of equal channels, head_channels.")
    if full.get("heads_up") is not None and full["head_channels"] is None:
        raise ValueError(f"network.heads_up={full['heads_up']}: UNet2DModel has as many heads on both ways.")
    widths = [full["channels"] * multiplier for multiplier in full["multipliers"]]
    if widths[0] != full["channels"] or any(width != int(width) for width in widths):
        raise ValueError(
            f"network.multipliers={list(full['multipliers'])}: those of UNet2DModel are whole, the first 1."
        )
    blocks = full.get("block_resampling", False)
    (down, attn_down), (up, attn_up) = _BLOCK if blocks else _CONV
    attends = [level in full["attention_levels"] for level in range(len(widths))]
    classes = full["num_classes"]
    config = {
        "_class_name": "UNet2DModel",
        "sample_size": sample_size(full["shape"]),
        "in_channels": full["shape"][0],
        "out_channels": full["shape"][0] * full["outputs"],
        "block_out_channels": [int(width) for width in widths],
        "layers_per_block": full["blocks"],
        "down_block_types": [attn_down if attention else down for attention in attends],
        "up_block_types": [attn_up if attention else up for attention in reversed(attends)],
        "add_attention": full.get("middle_attention", True),
        "attention_head_dim": full["head_channels"],
        "attn_norm_num_groups": full["groups"],
        "dropout": full["dropout"],
        "norm_num_groups": full["groups"],
        "norm_eps": full.get("norm_eps", 1e-5),
        "flip_sin_to_cos": module is ADMUNet,
        "freq_shift": full.get("frequency_shift", 0),
        "downsample_padding": int(full.get("symmetric", True)),
        "downsample_type": "resnet" if blocks else "conv",
        "upsample_type": "resnet" if blocks else "conv",
        "resnet_time_scale_shift": "scale_shift" if full.get("scale_shift", False) else "default",
        "num_class_embeds": None if classes is None else classes + full["null_class"],
    }
    return config, _layout(module, options, cosine_first=module is ADMUNet)


def _layout(module: type[nn.Module], options: Mapping[str, Any], *, cosine_first: bool) -> Layout:
    """The list of names; `cosine_first` is theirs, `flip_sin_to_cos`."""
    full = completed(module, options)
    last, blocks = len(full["multipliers"]) - 1, full["blocks"]

    def place(part: Part) -> str:
        # Residual blocks that change the resolution come after a level's own: one more of them on the way up.
        if part.kind == "residual" and part.side != "middle" and part.number == blocks + (part.side == "up"):
            part = part._replace(kind=part.side, number=0)
        return block_name(part, last)

    names = Names(
        place=place,
        residual=("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
        norm="group_norm",
        qkv=("to_q", "to_k", "to_v"),
        out="to_out.0",
        resample={"down": "conv", "up": "conv"},
        time=("time_embedding.linear_1", "time_embedding.linear_2"),
        ends=("conv_in", "conv_norm_out", "conv_out"),
        first=SAME if cosine_first == (module is ADMUNet) else Halves(),
        qkv_ways=lambda part: (Stacked(3), Stacked(3)),
        out_way=SAME,
    )
    classes = [] if full["num_classes"] is None else [Entry("classes.weight", ("class_embedding.weight",))]
    return Layout(module, options, [*entries(full, names), *classes])
