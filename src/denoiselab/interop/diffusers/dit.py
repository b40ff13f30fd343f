"""The diffusion transformer in diffusers' names, in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.interop.diffusers.config_defaults import Fields, reads
from denoiselab.interop.diffusers.config_values import image_shape, require
from denoiselab.interop.options import completed, count, positive
from denoiselab.interop.weights.layout import Entry, Layout, Stacked, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import DiT

# What a DiTTransformer2DModel must be for a DiT to equal it.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "dropout": (0.0,),
    "norm_elementwise_affine": (False,),
}


class Copies:
    """One tensor of ours that they hold once in each block.

    Args:
        count: Their number.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def ours(self, *theirs: Tensor) -> Tensor:
        """The first.

        Raises:
            InteropError: They differ.
        """
        first = theirs[0]
        if not first.is_meta and any(not torch.equal(first, other) for other in theirs[1:]):
            raise InteropError(
                "norm1.emb: its weights differ between blocks; a DiT has one embedding for all, as the paper's and all "
                "published weights do, and only freshly initialised models of diffusers do not."
            )
        return first

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """The same tensor for each."""
        return [ours] * self.count


@reads("DiTTransformer2DModel")
def dit(config: Fields) -> Layout:
    """The `DiT` that equals a `DiTTransformer2DModel`, or a `Transformer2DModel` with `norm_type` `ada_norm_zero`.

    The latter is what diffusers called it at first, and what the published folders say.

    Diffusers' port differs from the paper's code in the frequencies of the time embedding and, as published, in the
    norm before the feed-forward layers; the options say so, and the outputs are those of the port. The port holds the
    paper's one embedding of time and class once in each block; where those differ, it is another network.

    Args:
        config: Content of its `config.json`.

    Raises:
        InteropError: There is none.
    """
    if config["norm_type"] == "ada_norm_single":
        raise InteropError(
            "norm_type=ada_norm_single: this is the transformer of PixArt, whose blocks share one modulation by the "
            "time; it has no counterpart here."
        )
    require(config, _REQUIRED)
    if "interpolation_scale" in config:
        require(config, {"interpolation_scale": (None, 1)})
    heads, head_width = config["num_attention_heads"], config["attention_head_dim"]
    for option in ("in_channels", "patch_size"):  # of other kinds of Transformer2DModel they may be absent
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


def dit_config(options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of the `DiTTransformer2DModel` that equals a `DiT`, and the list of their weights.

    Args:
        options: Of the constructor, all that differ from its defaults.

    Raises:
        ValueError: There is none.
    """
    full = completed(DiT, options)
    wanted = {
        "mlp_ratio": (4.0,),
        "rotary_positions": (False,),
        "qk_norm": (False,),
        "token_features": (None,),
        "vector_features": (None,),
        "null_class": (True,),
        "frequency_shift": (1,),
    }
    for option, values in wanted.items():
        if full[option] not in values:
            raise ValueError(f"{option}={full[option]}: diffusers' DiTTransformer2DModel has {values[0]}.")
    channels, height, width = full["shape"]
    if height != width:
        raise ValueError(f"shape={list(options['shape'])}: diffusers' DiTTransformer2DModel takes squares.")
    if full["num_classes"] is None:
        raise ValueError("num_classes=null: diffusers' DiTTransformer2DModel has classes.")
    config = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": full["heads"],
        "attention_head_dim": full["width"] // full["heads"],
        "in_channels": channels,
        "out_channels": channels * full["outputs"],
        "num_layers": full["depth"],
        "sample_size": height,
        "patch_size": full["patch"],
        "num_embeds_ada_norm": full["num_classes"],
        "norm_eps": full["mlp_norm_eps"],
    }
    return config, Layout(DiT, options, _entries(full["depth"]))


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
