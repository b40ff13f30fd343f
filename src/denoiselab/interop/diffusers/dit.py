"""The diffusion transformer under diffusers' names, read and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import image_shape, require
from denoiselab.interop.options import count, positive
from denoiselab.interop.weights.layout import Entry, Layout, Stacked, Way, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import DiT

# Supported values of options; the defaults of Transformer2DModel are others.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "dropout": (0.0,),
    "norm_elementwise_affine": (False,),
}


class Copies(Way):
    """One tensor of which diffusers has a copy in each of `count` blocks."""

    def __init__(self, count: int) -> None:
        self.count = count

    def ours(self, *theirs: Tensor) -> Tensor:
        first = theirs[0]
        if not first.is_meta and any(not torch.equal(first, other) for other in theirs[1:]):
            raise InteropError(
                "norm1.emb: its weights differ between blocks; a DiT has one embedding for all, as in the paper and "
                "all published weights; only newly initialised models of diffusers differ."
            )
        return first

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return [ours] * self.count


@reads("DiTTransformer2DModel")
def dit(config: Fields) -> Layout:
    """Our `DiT` that equals a `DiTTransformer2DModel`, or a `Transformer2DModel` with `norm_type` `ada_norm_zero`.

    The latter is its first name in diffusers, which the published folders use.

    Diffusers' port differs from the paper's code in the frequencies of the time embedding and, as published, in the
    epsilon of the norm before the feed-forward layers; options reproduce the outputs of the port. It has a copy of the
    paper's embedding of time and class in each block; if those differ, it is another network.
    """
    if config["norm_type"] == "ada_norm_single":
        raise InteropError(
            "norm_type=ada_norm_single: this is PixArt's transformer, whose blocks share one modulation; it is not "
            "supported."
        )
    require(config, _REQUIRED)
    if "interpolation_scale" in config:
        require(config, {"interpolation_scale": (None, 1)})
    heads, head_width = config["num_attention_heads"], config["attention_head_dim"]
    for option in ("in_channels", "patch_size"):  # absent in other kinds of Transformer2DModel
        count(option, config[option])
    channels = config["in_channels"]
    channels_out = config["out_channels"] or channels
    if channels_out % channels:
        raise InteropError(f"out_channels={channels_out}: it must be a multiple of in_channels={channels}.")
    options = {
        "shape": image_shape(config, channels),
        "patch": config["patch_size"],
        "width": heads * head_width,
        "depth": count("num_layers", config["num_layers"]),
        "heads": heads,
        "num_classes": count("num_embeds_ada_norm", config["num_embeds_ada_norm"], most=2**31),
        "frequency_shift": 1,
        "mlp_norm_eps": positive(config, "norm_eps"),
        "outputs": channels_out // channels,
    }
    return Layout(DiT, options, _entries(options["depth"]))


def _entries(depth: int) -> list[Entry]:
    embeddings = [f"transformer_blocks.{number}.norm1.emb" for number in range(depth)]
    copies = Copies(depth)
    found = [
        *layer("patches.proj", "pos_embed.proj"),
        *layer("time.1", [f"{e}.timestep_embedder.linear_1" for e in embeddings], copies, copies),
        *layer("time.3", [f"{e}.timestep_embedder.linear_2" for e in embeddings], copies, copies),
        *layer("classes", [f"{e}.class_embedder.embedding_table" for e in embeddings], copies, None),
        *layer("modulation", "proj_out_1"),
        *layer("head", "proj_out_2"),
    ]
    for number in range(depth):
        ours, theirs = f"blocks.{number}", f"transformer_blocks.{number}"
        found += [
            *layer(f"{ours}.modulation", f"{theirs}.norm1.linear"),
            *layer(f"{ours}.attention.qkv", [f"{theirs}.attn1.to_{x}" for x in "qkv"], Stacked(3), Stacked(3)),
            *layer(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0"),
            *layer(f"{ours}.mlp.hidden", f"{theirs}.ff.net.0.proj"),
            *layer(f"{ours}.mlp.out", f"{theirs}.ff.net.2"),
        ]
    return found
