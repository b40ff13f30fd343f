"""The UNets of latent diffusion under CompVis' names, which are those of guided-diffusion with transformers.

Source of the names: `ldm/modules/diffusionmodules/openaimodel.py` and `ldm/modules/attention.py` of
CompVis/latent-diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denoiselab.interop.openai.unets import decoder_blocks, encoder_options, names, unet_layout
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Pointwise
from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, width_of
from denoiselab.interop.weights.unet_names import entries
from denoiselab.networks import TextUNet

# The name here of the table of classes of a model that attends to the token of a class.
CLASS_TOKENS = "class_tokens.weight"


def unet(
    state: State, where: Path, image_size: int, heads: int | None, head_channels: int | None, null_class: bool = True
) -> Layout:
    """The `ADMUNet` or, if it has transformers, the `TextUNet` of a state dict of theirs, from its names and shapes.

    Args:
        state: Without the prefix `model.diffusion_model.`; with `CLASS_TOKENS`, the class is a token.
        where: Its file.
        image_size: Side of the latents.
        heads: Of each attention; None if `head_channels` is given.
        head_channels: Channels of each head.
        null_class: Whether the last row of `CLASS_TOKENS` is the null class.
    """
    outputs = width_of(state, "out.2.weight", where)
    if not any(".transformer_blocks." in name for name in state):
        asked = {"heads": heads or 1, "head_channels": head_channels, "heads_up": None}
        return unet_layout(state, where, asked, image_size=image_size, channels=outputs)
    inputs = width_of(state, "input_blocks.0.0.weight", where, axis=1)
    blocks = decoder_blocks(state)
    options = encoder_options(state, where, blocks, outputs, image_size)
    if options.pop("scale_shift") | options.pop("block_resampling"):
        raise InteropError(f"{where}: transformers together with use_scale_shift_norm or resblock_updown.")
    widths = [int(options["channels"] * multiplier) for multiplier in options["multipliers"]]
    if head_channels is not None and any(width % head_channels for width in widths):
        raise InteropError(f"{where}: num_head_channels={head_channels} does not divide its channels {widths}.")
    tokens = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    table = next((name for name in (CLASS_TOKENS, "label_emb.weight") if name in state), None)
    options |= {
        "depth": _depths(state, blocks, len(widths)),
        "heads": [heads or 1] * len(widths) if head_channels is None else [width // head_channels for width in widths],
        "token_features": width_of(state, tokens, where, axis=1),
        "num_classes": None if table is None else width_of(state, table, where),
        "null_class": False,
        "image_channels": inputs - outputs or None,
        **({"class_token": True} if table == CLASS_TOKENS else {}),
    }
    if table == CLASS_TOKENS and null_class:
        options |= {"num_classes": options["num_classes"] - 1, "null_class": True}
    linear = state["middle_block.1.proj_in.weight"].ndim == 2 if "middle_block.1.proj_in.weight" in state else False
    projection = SAME if linear else Pointwise(2)
    own = names({**options, "head_channels": None}, new_order=False)._replace(projection=projection)
    classes = [] if table is None else [Entry("classes.weight", (table,))]
    return Layout(TextUNet, options, [*entries(options, own), *classes])


def _depths(state: Mapping[str, Any], blocks: int, levels: int) -> list[int]:
    """Blocks of the transformers of each level; that of the middle for the last, 1 where there is none."""
    places = [f"input_blocks.{1 + level * (blocks + 1)}.1" for level in range(levels - 1)]
    found = [numbered(state, f"{place}.transformer_blocks.{{}}.norm1.weight") for place in (*places, "middle_block.1")]
    return [max(1, depth) for depth in found]
