"""`UNet2DModel` of diffusers as our `DDPMUNet`, or as our `ADMUNet` if it has ADM's blocks."""

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
    written_blocks,
    written_sizes,
)
from denoiselab.interop.diffusers.unet_text import names
from denoiselab.interop.options import completed, count, positive, require_only
from denoiselab.interop.weights.layout import SAME, Entry, Layout
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import Halves, Part, entries
from denoiselab.networks import ADMUNet, DDPMUNet

# Block types without and with attention, of encoder and decoder: resampling by convolutions, and by blocks.
_CONV = (("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D"))
_BLOCK = (("ResnetDownsampleBlock2D", "AttnDownBlock2D"), ("ResnetUpsampleBlock2D", "AttnUpBlock2D"))


@reads("UNet2DModel")
def unet2d(config: Fields) -> Layout:
    """Our network that equals a `UNet2DModel`."""
    require(config, {"act_fn": ("silu", "swish"), "flip_sin_to_cos": (True, False)})
    scale_shift = config["resnet_time_scale_shift"]
    require(config, {"resnet_time_scale_shift": ("default", "scale_shift")})
    resampling = config["downsample_type"]
    require(config, {"downsample_type": ("conv", "resnet"), "upsample_type": (resampling,)})
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    require(config, {"time_embedding_dim": (None, 4 * widths[0])})
    # With scale and shift the middle attention has a norm only if this is set.
    in_middle = config["attn_norm_num_groups"]
    if in_middle not in ((groups,) if scale_shift == "scale_shift" else (None, groups)):
        raise InteropError(f"attn_norm_num_groups={in_middle}: it must be {groups}.")
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
    """The configuration of the `UNet2DModel` that equals a `DDPMUNet` or `ADMUNet` of these options, and its layout."""
    if module not in (DDPMUNet, ADMUNet):
        raise ValueError(
            f"network={module.__name__}: only DDPMUNet, ADMUNet and, on latents, TextUNet can be written as a UNet."
        )
    full = completed(module, options)
    require_only(full, {"image_channels": None, "vector_features": None, "patch": 1}, "UNet2DModel")
    if full["head_channels"] is None:
        if full.get("heads", 1) != 1:
            raise ValueError(f"network.heads={full['heads']}: UNet2DModel needs heads of equal width, head_channels.")
        if full.get("heads_up") is not None:
            raise ValueError(f"network.heads_up={full['heads_up']}: UNet2DModel has equal heads in both halves.")
    blocks = full.get("block_resampling", False)
    classes = full["num_classes"]
    config = {
        "_class_name": "UNet2DModel",
        **written_sizes(full, "UNet2DModel"),
        **written_blocks(full["attention_levels"], _BLOCK if blocks else _CONV, len(full["multipliers"])),
        "in_channels": full["shape"][0],
        "out_channels": full["shape"][0] * full["outputs"],
        "layers_per_block": full["blocks"],
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
    """The layout; `cosine_first` is `flip_sin_to_cos`."""
    full = completed(module, options)
    last, blocks = len(full["multipliers"]) - 1, full["blocks"]

    def place(part: Part) -> str:
        # A residual block that resamples comes after the level's other blocks, of which the decoder has one more.
        if part.kind == "residual" and part.side != "middle" and part.number == blocks + (part.side == "up"):
            part = part._replace(kind=part.side, number=0)
        return block_name(part, last)

    own = names(place)._replace(first=SAME if cosine_first == (module is ADMUNet) else Halves())
    classes = [] if full["num_classes"] is None else [Entry("classes.weight", ("class_embedding.weight",))]
    return Layout(module, options, [*entries(full, own), *classes])
