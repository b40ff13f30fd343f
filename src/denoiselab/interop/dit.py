"""Checkpoints of facebookresearch/DiT, the diffusion transformer's own code.

Source of the names: `models.py` there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from denoiselab.interop import config_nodes
from denoiselab.interop.diffusers.pipeline_parts import codec
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.options import completed, require_only
from denoiselab.interop.weights.files import as_state, read_safetensors, read_torch
from denoiselab.interop.weights.layout import Entry, Layout, layer
from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, numbers, width_of
from denoiselab.networks import DiT
from denoiselab.networks.checks import check_dropout, check_sizes
from denoiselab.networks.transformer import sincos_positions

# Attention heads of the published sizes, by width.
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}


@dataclass
class Checkpoint(Source):
    """A `.pt` of DiT: a released model (the average of its weights), or a checkpoint of its `train.py`.

    Args:
        path: The file.
        num_heads: Attention heads; None for those of the published size of this width.
        diffusion_steps: Number of linear betas of its training.
        vae: Folder of the autoencoder of its training, in diffusers' format; None gives samples as latents.
        class_dropout_prob: The original's option: with 0 the class table has no row for the null class. If the file
            contains the command line of `train.py`, the number of classes there decides.
        guided_channels: Number of first channels that guidance changes; None for all. The original's
            `forward_with_cfg` uses 3.

    Raises:
        ValueError: If a number is out of range.
    """

    path: str
    num_heads: int | None = None
    diffusion_steps: int = 1000
    vae: str | None = None
    class_dropout_prob: float = 0.1
    guided_channels: int | None = 3

    def __post_init__(self) -> None:
        check_dropout(self.class_dropout_prob, "class_dropout_prob")
        check_sizes({"guided_channels": self.guided_channels})

    def read(self) -> Imported:
        path = Path(self.path).expanduser()
        # A checkpoint of `train.py` contains the parsed command line, a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
        in_training = isinstance(content, Mapping) and {"model", "ema"} <= content.keys()
        state = as_state(content["model"] if in_training else content, path)
        null_class = _null_class(content.get("args") if in_training else None, state, self.class_dropout_prob > 0)
        layout = dit_layout(state, path, self.num_heads, null_class=null_class)
        guided = None if self.guided_channels is None else min(self.guided_channels, layout.options["shape"][0])
        averages = {"ema": as_state(content["ema"], path)} if in_training else {}
        options = layout.options
        vae = None if self.vae is None else Path(self.vae).expanduser()
        codec_node, shape = (None, None) if vae is None else codec(vae, options["shape"])
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(state, path),
            config_nodes.chain(
                config_nodes.betas("linear", steps=self.diffusion_steps, start=1e-4, end=0.02, per=1000)
            ),
            config_nodes.parameterization("eps"),
            config_nodes.denoiser(
                config_nodes.step_index(scale=1.0), "LearnedRange" if options["outputs"] == 2 else "FixedLarge"
            ),
            conditioner=config_nodes.conditioner(
                options["num_classes"],
                dropout=(self.class_dropout_prob or 0.1) if null_class else 0.0,
                null_class=null_class,
                guided_channels=guided,
            ),
            codec=codec_node,
            shape=shape,
            averages={name: layout.to_ours(average, path) for name, average in averages.items()},
            files=(path,),
        )


def _null_class(args: Any, state: State, dropped: bool) -> bool:
    """Whether the last row of the class table is the null class: by the command line in the file, else `dropped`."""
    classes, table = getattr(args, "num_classes", None), state.get("y_embedder.embedding_table.weight")
    if type(classes) is int and isinstance(table, torch.Tensor) and table.ndim and len(table) - classes in (0, 1):
        return len(table) > classes
    return dropped


def dit_layout(state: State, where: Path, heads: int | None = None, *, null_class: bool = True) -> Layout:
    """The `DiT` of a state dict of theirs, from its names and shapes; the last class may be the null class."""
    width, channels, patch = (width_of(state, "x_embedder.proj.weight", where, axis) for axis in range(3))
    side = math.isqrt(width_of(state, "pos_embed", where, axis=1))
    positions, given = sincos_positions(width, (side, side))[None], numbers(state["pos_embed"], "pos_embed", where)
    rounding = max(1e-4, torch.finfo(given.dtype).eps)
    if given.shape != positions.shape or not torch.allclose(given.to(positions), positions, atol=rounding):
        raise InteropError(f"{where}: 'pos_embed' is not the sines and cosines of a square grid.")
    heads = _HEADS.get(width) if heads is None else heads
    if heads is None:
        raise InteropError(f"{where}: no published size has width {width}; set import.num_heads.")
    depth = numbered(state, "blocks.{}.attn.qkv.weight")
    options = {
        "shape": [channels, side * patch, side * patch],
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": width_of(state, "blocks.0.mlp.fc1.weight", where) / width,
        "num_classes": width_of(state, "y_embedder.embedding_table.weight", where) - null_class,
        "null_class": null_class,
        "outputs": width_of(state, "final_layer.linear.weight", where) // (patch * patch * channels),
    }
    return Layout(DiT, options, _entries(depth), ignored=("pos_embed",))


def to_official(options: Mapping[str, Any], weights: State) -> State:
    """The weights of our `DiT` for `load_state_dict` of theirs.

    Args:
        options: Of our constructor; those left out have their defaults.
        weights: Our state dict.

    Raises:
        ValueError: If theirs has no such option.
    """
    full = completed(DiT, options)
    supported = {"rotary_positions": False, "qk_norm": False, "mlp_norm_eps": 1e-6, "frequency_shift": 0}
    require_only(full, {**supported, "token_features": None, "vector_features": None}, "facebookresearch/DiT")
    channels, height, width = full["shape"]
    if height != width or full["num_classes"] is None:
        raise ValueError(
            f"network: shape={[channels, height, width]}, num_classes={full['num_classes']}: facebookresearch/DiT "
            "needs square images and classes."
        )
    grid = (height // full["patch"], width // full["patch"])
    positions = sincos_positions(full["width"], grid)[None]
    return {"pos_embed": positions, **Layout(DiT, options, _entries(full["depth"])).to_theirs(weights)}


def _entries(depth: int) -> list[Entry]:
    names = {
        "patches.proj": "x_embedder.proj",
        "time.1": "t_embedder.mlp.0",
        "time.3": "t_embedder.mlp.2",
        "modulation": "final_layer.adaLN_modulation.1",
        "head": "final_layer.linear",
    }
    inside = {
        "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
        "mlp.hidden": "mlp.fc1",
        "mlp.out": "mlp.fc2",
        "modulation": "adaLN_modulation.1",
    }
    for number in range(depth):
        names |= {f"blocks.{number}.{ours}": f"blocks.{number}.{theirs}" for ours, theirs in inside.items()}
    classes = layer("classes", "y_embedder.embedding_table", bias=None)
    return [*classes, *(entry for ours, theirs in names.items() for entry in layer(ours, theirs))]
