"""Checkpoints of openai's improved-diffusion and guided-diffusion: UNets, in and out.

Source of the names: `unet.py` of both. The files have no configuration; options give what does not follow from the
shapes of the weights, under the names of the repositories' flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from denoiselab.interop import config_nodes
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.options import completed, require_only
from denoiselab.interop.weights.files import read_tensors
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Pointwise, Regrouped, Way
from denoiselab.interop.weights.state_dicts import InteropError, State, width_of
from denoiselab.interop.weights.unet_names import Names, Part, entries
from denoiselab.networks import ADMUNet

# Options of their beta schedules.
_BETAS: dict[str, dict[str, float]] = {
    "linear": {"start": 1e-4, "end": 0.02, "per": 1000},
    "cosine": {"s": 0.008, "maximum": 0.999},
}

# Resolution of the released models, by the multipliers of their channels.
_SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}


@dataclass
class UNet(Source):
    """A `.pt` of a diffusion model. Options are the repositories' flags of the same names.

    Args:
        path: The file.
        noise_schedule: The beta schedule.
        num_heads: If `num_head_channels` is None.
        num_head_channels: If `num_heads` is None.
        num_heads_upsample: Heads in the decoder, if `num_head_channels` is None.
        use_new_attention_order: Queries, keys and values are each in one block, not head by head.
        image_size: None for that of the released models with these multipliers.
        diffusion_steps: Number of betas.
        rescale_timesteps: The time label is from 0 to 1000 for any number of steps.
        predict_xstart: The output is x0, not eps.
        sigma_small: Use the small fixed variance, for models without a learned one.
        dropout: Of training.

    Raises:
        ValueError: If neither or both of `num_heads` and `num_head_channels` are given, `num_heads_upsample` is given
            with the latter, or diffusion_steps < 2.
    """

    path: str
    noise_schedule: Literal["linear", "cosine"]
    num_heads: int | None = None
    num_head_channels: int | None = None
    num_heads_upsample: int | None = None
    use_new_attention_order: bool = False
    image_size: int | None = None
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False
    predict_xstart: bool = False
    sigma_small: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for flag in ("num_head_channels", "num_heads_upsample"):  # -1 means unused, as in the flags
            if getattr(self, flag) == -1:
                setattr(self, flag, None)
        heads, channels, upsample = self.num_heads, self.num_head_channels, self.num_heads_upsample
        if (heads is None) == (channels is None):
            raise ValueError(
                f"num_heads={heads} and num_head_channels={channels}: set one of them, as in the flags of the model; "
                "it does not follow from the weights."
            )
        if upsample is not None and channels is not None:
            raise ValueError(
                f"num_heads_upsample={upsample}: num_head_channels={channels} sets the heads of the decoder too, and "
                "the original ignores this flag; set it to null."
            )
        if self.diffusion_steps < 2:
            raise ValueError(f"diffusion_steps={self.diffusion_steps}: it must be at least 2.")

    def read(self) -> Imported:
        path = Path(self.path).expanduser()
        state = read_tensors(path)
        heads = {"heads": self.num_heads or 1, "head_channels": self.num_head_channels}
        heads["heads_up"] = self.num_heads_upsample
        layout = unet_layout(state, path, heads, self.use_new_attention_order, self.image_size, self.dropout)
        if layout.options["image_channels"]:
            raise InteropError(f"{path}: a super-resolution network, conditioned on an image, is not supported.")
        learned = (
            "LearnedRange" if layout.options["outputs"] == 2 else "FixedSmall" if self.sigma_small else "FixedLarge"
        )
        label = config_nodes.step_index(scale=1000 / self.diffusion_steps if self.rescale_timesteps else 1.0)
        table = config_nodes.betas(self.noise_schedule, steps=self.diffusion_steps, **_BETAS[self.noise_schedule])
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(state, path),
            config_nodes.chain(table),
            config_nodes.parameterization("x0" if self.predict_xstart else "eps"),
            config_nodes.denoiser(label, learned),
            conditioner=config_nodes.conditioner(layout.options["num_classes"], dropout=0.0, null_class=False),
            files=(path,),
        )


def unet_layout(
    state: State,
    where: Path,
    heads: Mapping[str, int | None],
    new_order: bool = False,
    image_size: int | None = None,
    dropout: float = 0.0,
    channels: int = 3,
) -> Layout:
    """The `ADMUNet` of a state dict of theirs, from its names and shapes.

    `heads` are our options `heads`, `head_channels` and `heads_up`; the others are as in `UNet`. Inputs beyond
    `channels` are those of an image that it is conditioned on.
    """
    inputs = width_of(state, "input_blocks.0.0.weight", where, axis=1)
    outputs = width_of(state, "out.2.weight", where)
    channels = min(inputs, channels)
    options = {
        **encoder_options(state, where, decoder_blocks(state), channels, image_size),
        "dropout": dropout,
        "num_classes": width_of(state, "label_emb.weight", where) if "label_emb.weight" in state else None,
        "null_class": False,
        "image_channels": inputs - channels or None,
        "outputs": outputs // channels,
        **heads,
    }
    classes = [] if options["num_classes"] is None else [Entry("classes.weight", ("label_emb.weight",))]
    return Layout(ADMUNet, options, [*entries(options, names(options, new_order)), *classes])


def decoder_blocks(state: State) -> int:
    """The residual blocks of a level, but one, by the decoder: the last of its level ends in a change of resolution."""
    last = 0
    while f"output_blocks.{last + 1}.0.in_layers.0.weight" in state:
        last += 1
    ends = (
        place
        for place in range(last + 1)
        if any(f"output_blocks.{place}.{k}.{what}.weight" in state for k in (1, 2) for what in ("conv", "in_layers.0"))
    )
    return next(ends, last)


def to_official(options: Mapping[str, Any], weights: State, meaning: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """The weights of an `ADMUNet` under their names, and the flags of guided-diffusion that create the model.

    Args:
        options: Of our constructor; those left out have their defaults.
        weights: Our state dict.
        meaning: Nodes `schedule`, `parameterization` and `denoiser` of a run.

    Raises:
        ValueError: If guided-diffusion has no such option, schedule, parameterization or label.
    """
    full = completed(ADMUNet, options)
    (channels, height, width), classes = full["shape"], full["num_classes"]
    supported = {"groups": 32, "image_channels": None, "vector_features": None}
    require_only(full, {**supported, **({} if classes is None else {"null_class": False})}, "guided-diffusion")
    if channels != 3 or height != width:
        raise ValueError(f"network.shape={list(full['shape'])}: guided-diffusion needs square images of 3 channels.")
    chain = chain_flags(meaning)
    flags = {
        "image_size": height,
        "num_channels": full["channels"],
        "channel_mult": ",".join(map(str, full["multipliers"])),
        "num_res_blocks": full["blocks"],
        "attention_resolutions": ",".join(str(height // 2**level) for level in full["attention_levels"]),
        "num_heads": full["heads"],
        "num_heads_upsample": full["heads_up"] or -1,
        "num_head_channels": full["head_channels"] or -1,
        "use_new_attention_order": False,
        "use_scale_shift_norm": full["scale_shift"],
        "resblock_updown": full["block_resampling"],
        "dropout": full["dropout"],
        "class_cond": classes is not None,
        "learn_sigma": full["outputs"] == 2,
        **chain,
    }
    table = [] if classes is None else [Entry("classes.weight", ("label_emb.weight",))]
    layout = Layout(ADMUNet, full, [*entries(full, names(full, new_order=False)), *table])
    return layout.to_theirs(weights), flags


def chain_flags(meaning: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of schedule, output and time label; arguments and errors as in `to_official`."""
    betas = dict(meaning["schedule"].get("betas", {}))
    kind = str(betas.pop("_target_", "")).rpartition(".")[2]
    steps = betas.pop("steps", 1000)
    if kind not in _BETAS or {**_BETAS[kind], **betas} != _BETAS[kind] or meaning["schedule"].get("zero_terminal_snr"):
        raise ValueError("schedule: guided-diffusion supports schedule=ddpm and schedule=iddpm.")
    output = meaning["parameterization"]["_target_"].rpartition(".")[2]
    if output not in ("eps", "x0"):
        raise ValueError(f"parameterization={output}: guided-diffusion supports eps and x0.")
    label = meaning["denoiser"]["time_label"]
    index = label["_target_"].endswith(".StepIndex") and not label.get("descending", False)
    if not index or label.get("scale", 1.0) not in (1.0, 1000 / steps) or meaning["denoiser"].get("input_scale"):
        raise ValueError("denoiser: guided-diffusion's networks take the step index; export needs denoiser=discrete.")
    return {
        "noise_schedule": kind,
        "diffusion_steps": steps,
        "predict_xstart": output == "x0",
        "rescale_timesteps": label.get("scale", 1.0) != 1.0,
    }


def encoder_options(
    state: State, where: Path, blocks: int, channels_in: int, image_size: int | None, pooled: int | None = None
) -> dict[str, Any]:
    """Options that follow from the encoder, given the blocks per level and optionally the side of the last level."""
    channels = width_of(state, "time_embed.0.weight", where, axis=1)
    widths, attention, place = [], [], 1
    while f"input_blocks.{place}.0.out_layers.3.weight" in state:
        widths.append(width_of(state, f"input_blocks.{place}.0.out_layers.3.weight", where))
        if f"input_blocks.{place}.1.norm.weight" in state:
            attention.append(len(widths) - 1)
        place += blocks + 1
    multipliers = [width // channels if width % channels == 0 else width / channels for width in widths]
    size = image_size or _SIZES.get(tuple(multipliers)) if pooled is None else pooled * 2 ** (len(widths) - 1)
    if size is None:
        raise InteropError(f"{where}: no released model has the multipliers {multipliers}; set import.image_size.")
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


def names(options: Mapping[str, Any], new_order: bool) -> Names:
    """Their names of the layers of a network with `options`; `new_order` as in `unet_layout`."""
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
        asked = "heads_up" if part.side == "up" and options.get("heads_up") else "heads"
        heads = width // options["head_channels"] if options["head_channels"] else options[asked]
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
