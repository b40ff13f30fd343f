"""Checkpoints of openai's improved-diffusion and guided-diffusion: UNets and the classifier.

Source of the names: `unet.py` of both. The files have no configuration; what the shapes of the weights do not tell are
options, under the names of the repositories' flags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from denoiselab.denoiser import StepIndex
from denoiselab.guidance import NoisyClassifier
from denoiselab.interop.files import read_tensors
from denoiselab.interop.imported import Imported, named, node
from denoiselab.interop.layout import (
    SAME,
    Entry,
    InteropError,
    Layout,
    Pointwise,
    Regrouped,
    State,
    Transposed,
    Way,
    layer,
    width_of,
)
from denoiselab.interop.unet import Names, Part, entries
from denoiselab.networks import ADMClassifier, ADMUNet
from denoiselab.schedules import DiscreteVP
from denoiselab.schedules.betas import cosine, linear

# The resolution of the released models, by the multipliers of their channels.
_SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}


class UNet:
    """A `.pt` of a diffusion model.

    Args:
        path: The file.
        noise_schedule: Flag of that name.
        num_heads: Flag of that name, where `num_head_channels` is None.
        num_head_channels: Flag of that name.
        use_new_attention_order: Flag of that name.
        image_size: Flag of that name; None: the one that the released models with these multipliers have.
        diffusion_steps: Flag of that name.
        rescale_timesteps: Flag of that name.
        predict_xstart: Flag of that name.
        sigma_small: Flag of that name, for models without a learned variance.
        dropout: Flag of that name.

    Raises:
        ValueError: Neither or both of `num_heads` and `num_head_channels` are given.
    """

    def __init__(
        self,
        path: str,
        noise_schedule: Literal["linear", "cosine"],
        num_heads: int | None = None,
        num_head_channels: int | None = None,
        use_new_attention_order: bool = False,
        image_size: int | None = None,
        diffusion_steps: int = 1000,
        rescale_timesteps: bool = False,
        predict_xstart: bool = False,
        sigma_small: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if (num_heads is None) == (num_head_channels is None):
            raise ValueError(
                f"num_heads={num_heads} and num_head_channels={num_head_channels}: give one of them, as in the flags "
                "of the model; the weights do not tell."
            )
        self.path, self.image_size, self.dropout = path, image_size, dropout
        self.heads, self.head_channels, self.new_order = num_heads, num_head_channels, use_new_attention_order
        self.noise_schedule, self.steps = noise_schedule, diffusion_steps
        self.rescale, self.predict_x0, self.small = rescale_timesteps, predict_xstart, sigma_small

    def read(self) -> Imported:
        """The network and its chain.

        Raises:
            InteropError: The file cannot be read, or holds another network.
        """
        path = Path(self.path).expanduser()
        state = read_tensors(path)
        heads = {"heads": self.heads or 1, "head_channels": self.head_channels}
        layout = unet_layout(state, path, heads, self.new_order, self.image_size, self.dropout)
        if layout.options["image_channels"]:
            raise InteropError(f"{path}: a super-resolution network, which is given an image; it has no run directory.")
        kinds = {"linear": {"start": 1e-4, "end": 0.02, "per": 1000}, "cosine": {"s": 0.008, "maximum": 0.999}}
        betas = f"denoiselab.schedules.betas.{self.noise_schedule}"
        learned = "LearnedRange" if layout.options["outputs"] == 2 else "FixedSmall" if self.small else "FixedLarge"
        label = node("denoiselab.denoiser.StepIndex", scale=1000 / self.steps if self.rescale else 1.0)
        classes = layout.options["num_classes"]
        conditioner = node("denoiselab.conditioners.Unconditional")
        if classes is not None:
            conditioner = node("denoiselab.conditioners.ClassLabel", num_classes=classes, dropout=0.0, null_class=False)
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(state, path),
            node(
                "denoiselab.schedules.DiscreteVP",
                betas={**node(betas), "steps": self.steps, **kinds[self.noise_schedule]},
                zero_terminal_snr=False,
            ),
            node(f"denoiselab.parameterizations.{'x0' if self.predict_x0 else 'eps'}", partial=True),
            node(
                "denoiselab.denoiser.Denoiser",
                time_label=label,
                input_scale=None,
                variance=node(f"denoiselab.variances.{learned}"),
            ),
            conditioner=conditioner,
            files=(path,),
        )


class Classifier:
    """A `.pt` of guided-diffusion's classifier with attention pooling.

    Args:
        path: The file.
        classifier_depth: Flag of that name: 4 for the released one at 64x64, 2 for the others.
        num_head_channels: 64 in all released classifiers.
        use_new_attention_order: Flag of that name; off in all released classifiers.
        noise_schedule: Flag of that name, of the chain that made its images noisy.
        diffusion_steps: Flag of that name.
        rescale_timesteps: Flag of that name.
    """

    def __init__(
        self,
        path: str,
        classifier_depth: int = 2,
        num_head_channels: int = 64,
        use_new_attention_order: bool = False,
        noise_schedule: Literal["linear", "cosine"] = "linear",
        diffusion_steps: int = 1000,
        rescale_timesteps: bool = False,
    ) -> None:
        self.path, self.depth, self.head_channels = path, classifier_depth, num_head_channels
        self.new_order = use_new_attention_order
        self.schedule = DiscreteVP((linear if noise_schedule == "linear" else cosine)(diffusion_steps))
        self.label = StepIndex(scale=1000 / diffusion_steps if rescale_timesteps else 1.0)

    def read(self) -> NoisyClassifier:
        """The classifier, with its schedule.

        Raises:
            InteropError: The file cannot be read, or holds another network.
        """
        layout, state = read_classifier(self.path, self.depth, self.head_channels, self.new_order)
        network = ADMClassifier(**layout.options)
        network.load_state_dict(state)
        return NoisyClassifier(
            network, self.schedule, self.label, layout.options["num_classes"], layout.options["shape"]
        )


def read_classifier(
    path: str, depth: int, num_head_channels: int = 64, new_order: bool = False
) -> tuple[Layout, State]:
    """guided-diffusion's classifier with attention pooling, as our `ADMClassifier` and its state.

    Args:
        path: The `.pt` file.
        depth: `classifier_depth`: 4 for the released one at 64x64, 2 for the others.
        num_head_channels: 64 in all released classifiers.
        new_order: `use_new_attention_order`; off in all released classifiers.

    Raises:
        InteropError: The file cannot be read, or holds another network.
    """
    file = Path(path).expanduser()
    state = read_tensors(file)
    layout = classifier_layout(state, file, depth, num_head_channels, new_order)
    return layout, layout.to_ours(state, file)


def unet_layout(
    state: State,
    where: Path,
    heads: Mapping[str, int | None],
    new_order: bool = False,
    image_size: int | None = None,
    dropout: float = 0.0,
    image_channels: int = 3,
) -> Layout:
    """The `ADMUNet` that a state of theirs belongs to, by its names and shapes.

    Args:
        state: Names to tensors.
        where: The file, for messages.
        heads: Our options `heads` and `head_channels`.
        new_order: Rows of queries, keys and values stand in this order, else head by head.
        image_size: As in `UNet`.
        dropout: Of training.
        image_channels: Of an image: what a super-resolution network has beyond them belongs to the small image.

    Raises:
        InteropError: It is no such state, or the resolution does not follow from it.
    """
    inputs = width_of(state, "input_blocks.0.0.weight", where, axis=1)
    outputs = width_of(state, "out.2.weight", where)
    channels = min(inputs, image_channels)
    last = 0
    while f"output_blocks.{last + 1}.0.in_layers.0.weight" in state:
        last += 1
    # The first stage of the way up that ends in a change of resolution is the last of its level.
    ends = (
        place
        for place in range(last + 1)
        if any(f"output_blocks.{place}.{k}.{what}.weight" in state for k in (1, 2) for what in ("conv", "in_layers.0"))
    )
    blocks = next(ends, last)
    options = {
        **_encoder_options(state, where, blocks, channels, image_size),
        "dropout": dropout,
        "num_classes": width_of(state, "label_emb.weight", where) if "label_emb.weight" in state else None,
        "null_class": False,
        "image_channels": inputs - channels or None,
        "outputs": outputs // channels,
        **heads,
    }
    classes = [] if options["num_classes"] is None else [Entry("classes.weight", ("label_emb.weight",))]
    return Layout(ADMUNet, options, [*entries(options, _names(options, new_order)), *classes])


def classifier_layout(
    state: State, where: Path, depth: int, head_channels: int = 64, new_order: bool = False
) -> Layout:
    """The `ADMClassifier` that a state of theirs belongs to; arguments and errors as of `read_classifier`."""
    positions = width_of(state, "out.2.positional_embedding", where, axis=1) - 1
    inputs = width_of(state, "input_blocks.0.0.weight", where, axis=1)
    options = {
        **_encoder_options(state, where, depth, inputs, None, pooled=math.isqrt(positions)),
        "num_classes": width_of(state, "out.2.c_proj.weight", where),
        "head_channels": head_channels,
    }
    pool = [
        Entry("pool.position", ("out.2.positional_embedding",), Transposed()),
        *layer("pool.qkv", "out.2.qkv_proj", Pointwise(1)),
        *layer("pool.out", "out.2.c_proj", Pointwise(1)),
    ]
    return Layout(ADMClassifier, options, [*entries(options, _names(options, new_order), encoder_only=True), *pool])


def _encoder_options(
    state: State, where: Path, blocks: int, channels_in: int, image_size: int | None, pooled: int | None = None
) -> dict[str, Any]:
    """What the way down tells, where the blocks of a level are known, and maybe the size of the last level."""
    channels = width_of(state, "time_embed.0.weight", where, axis=1)
    widths, attention, place = [], [], 1
    while f"input_blocks.{place}.0.out_layers.3.weight" in state:
        widths.append(width_of(state, f"input_blocks.{place}.0.out_layers.3.weight", where))
        if f"input_blocks.{place}.1.qkv.weight" in state:
            attention.append(len(widths) - 1)
        place += blocks + 1
    multipliers = [width // channels if width % channels == 0 else width / channels for width in widths]
    size = image_size or _SIZES.get(tuple(multipliers)) if pooled is None else pooled * 2 ** (len(widths) - 1)
    if size is None:
        raise InteropError(f"{where}: channels of multiples {multipliers} tell no resolution; give import.image_size.")
    embedding = width_of(state, "input_blocks.1.0.emb_layers.1.weight", where)
    return {
        "shape": [channels_in, size, size],
        "channels": channels,
        "multipliers": multipliers,
        "blocks": blocks,
        "attention_levels": attention,
        "scale_shift": embedding == 2 * widths[0],
        "block_resampling": f"input_blocks.{blocks + 1}.0.in_layers.0.weight" in state,
    }


def _names(options: Mapping[str, Any], new_order: bool) -> Names:
    sides = {"down": "input_blocks", "middle": "middle_block", "up": "output_blocks"}

    def place(part: Part) -> str:
        side, *rest = part.ours.split(".")
        if side == "down":
            rest[0] = str(int(rest[0]) + 1)  # the first is the stem
        return ".".join((sides[side], *rest))

    def qkv_ways(part: Part) -> tuple[Way, Way]:
        if new_order:
            return Pointwise(1), SAME
        width = int(options["channels"] * options["multipliers"][part.level])
        heads = width // options["head_channels"] if options["head_channels"] else options["heads"]
        return Regrouped(heads, 3, Pointwise(1)), Regrouped(heads, 3)

    return Names(
        place=place,
        residual=("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"),
        norm="norm",
        qkv=("qkv",),
        out="proj_out",
        resample={"down": "op", "up": "conv"},
        time=("time_embed.0", "time_embed.2"),
        ends=("input_blocks.0.0", "out.0", "out.2"),
        first=SAME,
        qkv_ways=qkv_ways,
        out_way=Pointwise(1),
    )
