"""Checkpoints of ermongroup/ddim and pesser/pytorch_diffusion: Ho et al.'s UNet, under the names that both use.

Source of the names: `models/diffusion.py` of the first, `pytorch_diffusion/model.py` of the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from denoiselab.interop import config_nodes
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.weights.files import as_state, read_torch
from denoiselab.interop.weights.layout import SAME, Layout, Pointwise, Stacked
from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, width_of
from denoiselab.interop.weights.unet_names import Names, Part, entries
from denoiselab.networks import DDPMUNet

# Their names of beta schedules to ours.
_BETAS = {"linear": "linear", "quad": "scaled_linear", "sigmoid": "sigmoid"}


@dataclass
class Checkpoint(Source):
    """A `.ckpt` of weights only (pesser), or a `ckpt.pth` of weights, optimizer, counters and average (ermongroup).

    The file has no configuration; options give what does not follow from the shapes of the weights.

    Args:
        path: The file.
        resolution: Height and width of the images; None: that with the attention at 16x16, as in all released models.
        variance: Of the reverse steps; None: large at 32x32, otherwise small, as released.
        beta_schedule: Under their name.
        beta_start: The first beta.
        beta_end: The last beta.
        steps: Number of betas.
        dropout: Of training.
    """

    path: str
    resolution: int | None = None
    variance: Literal["fixed_large", "fixed_small"] | None = None
    beta_schedule: Literal["linear", "quad", "sigmoid"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000
    dropout: float = 0.0

    def read(self) -> Imported:
        path = Path(self.path).expanduser()
        content = read_torch(path)
        states = content if isinstance(content, list) else [content]
        weights = as_state(states[0] if states else None, path)
        # A list contains weights, optimizer, epoch, step and optionally the average.
        averages = {"ema": as_state(states[4], path)} if len(states) > 4 else {}
        layout = layout_of(weights, path, self.resolution, self.dropout)
        ends = {"start": self.beta_start, "end": self.beta_end}
        table = config_nodes.betas(_BETAS[self.beta_schedule], steps=self.steps, **ends, per=self.steps)
        large = layout.options["shape"][1] == 32 if self.variance is None else self.variance == "fixed_large"
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(weights, path),
            config_nodes.chain(table),
            config_nodes.parameterization("eps"),
            config_nodes.denoiser(config_nodes.step_index(), "FixedLarge" if large else "FixedSmall"),
            averages={name: layout.to_ours(average, path) for name, average in averages.items()},
            files=(path,),
        )


def layout_of(state: State, where: Path, resolution: int | None = None, dropout: float = 0.0) -> Layout:
    """The `DDPMUNet` of a state dict of theirs, from its names and shapes; arguments as in `Checkpoint`."""
    channels, outputs = width_of(state, "conv_in.weight", where), width_of(state, "conv_out.weight", where)
    inputs = width_of(state, "conv_in.weight", where, axis=1)
    levels = numbered(state, "down.{}.block.0.conv1.weight")
    attention = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in state]
    if resolution is None:
        if len(attention) != 1:
            raise InteropError(f"{where}: it has attention at {len(attention)} resolutions; set import.resolution.")
        resolution = 16 * 2 ** attention[0]
    options = {
        "shape": [inputs, resolution, resolution],
        "channels": channels,
        "multipliers": [
            width_of(state, f"down.{level}.block.0.conv1.weight", where) // channels for level in range(levels)
        ],
        "blocks": numbered(state, "down.0.block.{}.conv1.weight"),
        "attention_levels": attention,
        "dropout": dropout,
        "outputs": outputs // inputs,
    }
    return Layout(DDPMUNet, options, entries(options, NAMES))


def _place(part: Part) -> str:
    if part.side == "middle":
        return f"mid.attn_{part.number + 1}" if part.kind == "attention" else f"mid.block_{part.number + 1}"
    inside = {
        "residual": f"block.{part.number}",
        "attention": f"attn.{part.number}",
        "down": "downsample",
        "up": "upsample",
    }
    return f"{part.side}.{part.level}.{inside[part.kind]}"


NAMES = Names(
    place=_place,
    residual=("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"),
    norm="norm",
    qkv=("q", "k", "v"),
    out="proj_out",
    resample={"down": "conv", "up": "conv"},
    time=("temb.dense.0", "temb.dense.1"),
    ends=("conv_in", "norm_out", "conv_out"),
    first=SAME,
    qkv_ways=lambda part: (Pointwise(2, 3), Stacked(3)),
    out_way=Pointwise(2),
)
