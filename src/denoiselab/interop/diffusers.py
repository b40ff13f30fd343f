"""Model folders of diffusers: a network with its scheduler, in and out."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from denoiselab.denoiser import Denoiser
from denoiselab.files import atomic, write_text
from denoiselab.interop.diffusers_autoencoders import autoencoder_kl, vq_model
from denoiselab.interop.diffusers_dit import dit
from denoiselab.interop.diffusers_unet_text import unet_condition
from denoiselab.interop.files import WEIGHTS, local, read_json, read_weights, weights_file
from denoiselab.interop.imported import Imported, named, node
from denoiselab.interop.layout import SAME, Entry, InteropError, Layout, Stacked, State, renamed
from denoiselab.interop.options import block_name
from denoiselab.interop.schedulers import from_scheduler, to_scheduler
from denoiselab.interop.unet import Halves, Names, entries
from denoiselab.networks import DDPMUNet, DiT

# The release whose files are written.
_VERSION = "0.35.0"

# Names of attention layers in files of diffusers before 0.15, and the present ones.
_OLD_NAMES = [
    (f".attentions.{n}.{old}.", f".attentions.{n}.{present}.")
    for n in range(8)
    for old, present in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
]

# What a UNet2DModel must be for a DDPMUNet to equal it, by option: the values that will do, the default first.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}
_DOWN, _UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


class Pipeline:
    """A pipeline, or a network and a scheduler in one folder, as diffusers' `save_pretrained` writes them.

    Args:
        path: The folder, or the id of a repository of the hub.
        scheduler: File or folder of the scheduler's configuration; None for the one in the folder.
        variant: Another precision or kind of the weights, such as `fp16` or `non_ema`.
        revision: Branch, tag or commit on the hub.
    """

    def __init__(
        self, path: str, scheduler: str | None = None, variant: str | None = None, revision: str | None = None
    ) -> None:
        self.path, self.scheduler, self.variant, self.revision = path, scheduler, variant, revision

    def read(self) -> Imported:
        """The network and what its output means.

        Raises:
            InteropError: A file is missing or damaged, or the network has no counterpart here.
        """
        folder = local(self.path, self.revision)
        home = next((folder / name for name in ("unet", "transformer") if (folder / name).is_dir()), folder)
        layout, state, weights = read_model(home, self.variant)
        if layout.module not in (DDPMUNet, DiT):
            raise InteropError(
                f"{home}: our {layout.module.__name__}, of which a run directory cannot be made, as no conditioner or "
                "sampler gives it what it takes; `denoiselab.interop.diffusers.read_model` loads it."
            )
        scheduler = self._scheduler_file(folder)
        meaning = from_scheduler(read_json(scheduler), scheduler, layout.options["outputs"])
        classes = layout.options["num_classes"]
        kind = node("denoiselab.conditioners.Unconditional")
        if classes is not None:
            null = layout.options.get("null_class", True)
            kind = node(
                "denoiselab.conditioners.ClassLabel", num_classes=classes, dropout=0.1 if null else 0.0, null_class=null
            )
        return Imported(
            named(self.path, folder),
            layout,
            state,
            *meaning,
            conditioner=kind,
            files=(weights, home / "config.json", scheduler),
        )

    def _scheduler_file(self, folder: Path) -> Path:
        name = "scheduler_config.json"
        if self.scheduler is not None:
            given = Path(self.scheduler).expanduser()
            return given / name if given.is_dir() else given
        for place in (folder / "scheduler" / name, folder / name):
            if place.is_file():
                return place
        raise InteropError(
            f"{folder}: has no {name}, which says what the network was trained with; name one with "
            "import.scheduler=<file>."
        )


def read_model(folder: Path, variant: str | None = None) -> tuple[Layout, State, Path]:
    """Our counterpart of one model of diffusers, a network or an autoencoder, its weights, and their file.

    `layout.module(**layout.options).load_state_dict(weights)` is the model.

    Args:
        folder: Where `save_pretrained` wrote it: `unet/`, `transformer/` or `vae/` of a pipeline.
        variant: As in `Pipeline`.

    Raises:
        InteropError: A file is missing or damaged, or the model has no counterpart here.
    """
    if not (folder / "config.json").is_file():
        raise InteropError(f"{folder}: holds no model of diffusers: there is no {folder / 'config.json'}.")
    layout = layout_of(read_json(folder / "config.json"), folder / "config.json")
    weights = weights_file(folder, variant)
    return layout, layout.to_ours(renamed(read_weights(weights), _OLD_NAMES), weights), weights


def layout_of(config: Mapping[str, Any], where: Path) -> Layout:
    """Our counterpart of a network or an autoencoder of diffusers.

    Args:
        config: Content of its `config.json`.
        where: That file, for messages.

    Raises:
        InteropError: It has none.
    """
    kind = config.get("_class_name")
    if kind not in _LAYOUTS:
        raise InteropError(f"{where}: {kind} has no counterpart here; known: {', '.join(_LAYOUTS)}.")
    try:
        return _LAYOUTS[kind](config)
    except InteropError as error:
        raise InteropError(f"{where}: {error}") from None
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise InteropError(f"{where}: not a usable configuration of a {kind}.") from None


def unet2d(config: Mapping[str, Any]) -> Layout:
    """The `DDPMUNet` that equals a `UNet2DModel` of DDPM's kind.

    Args:
        config: Its configuration.

    Raises:
        InteropError: There is none.
    """
    for option, allowed in _REQUIRED.items():
        if config.get(option, allowed[0]) not in allowed:
            raise InteropError(f"{option}={config[option]}: a DDPMUNet needs {option}={allowed[0]}.")
    widths: Sequence[int] = config["block_out_channels"]
    channels, groups, size = widths[0], config.get("norm_num_groups", 32), config.get("sample_size")
    if size is None:
        raise InteropError("sample_size=null: the size of the images must be stated.")
    if any(width % channels for width in widths):
        raise InteropError(f"block_out_channels={list(widths)}: each must be a multiple of the first.")
    if config.get("time_embedding_dim") not in (None, 4 * channels):
        raise InteropError(f"time_embedding_dim={config['time_embedding_dim']}: a DDPMUNet needs {4 * channels}.")
    if config.get("attn_norm_num_groups") not in (None, groups):
        raise InteropError(f"attn_norm_num_groups={config['attn_norm_num_groups']}: a DDPMUNet needs {groups}.")
    down, up = config["down_block_types"], config["up_block_types"][::-1]
    for option, kinds, known in (("down_block_types", down, _DOWN), ("up_block_types", up, _UP)):
        if unknown := sorted(set(kinds) - set(known)):
            raise InteropError(f"{option}: a DDPMUNet has no {unknown[0]}.")
    attention = [level for level, kind in enumerate(down) if kind == _DOWN[1]]
    if len(down) != len(widths) or attention != [level for level, kind in enumerate(up) if kind == _UP[1]]:
        raise InteropError("up_block_types: they must mirror down_block_types, one for each of block_out_channels.")
    padding, shift = config.get("downsample_padding", 1), config.get("freq_shift", 0)
    channels_in, channels_out = config.get("in_channels", 3), config.get("out_channels", 3)
    if padding not in (0, 1):
        raise InteropError(f"downsample_padding={padding}: a DDPMUNet needs 0 or 1.")
    if channels_out % channels_in:
        raise InteropError(f"out_channels={channels_out}: it must be a multiple of in_channels={channels_in}.")
    options = {
        "shape": [channels_in, *(size if isinstance(size, Sequence) else (size, size))],
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "blocks": config.get("layers_per_block", 2),
        "attention_levels": attention,
        "dropout": config.get("dropout", 0.0),
        "groups": groups,
        "num_classes": config.get("num_class_embeds"),
        "null_class": False,
        "outputs": channels_out // channels_in,
        "head_channels": config.get("attention_head_dim", 8),
        "norm_eps": config.get("norm_eps", 1e-5),
        "frequency_shift": shift,
        "symmetric": padding == 1,
        "middle_attention": config.get("add_attention", True),
    }
    return Layout(DDPMUNet, options, _unet2d_entries(options, cosine_first=config.get("flip_sin_to_cos", True)))


def unet2d_config(options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of the `UNet2DModel` that equals a `DDPMUNet`, and the list of their weights.

    Args:
        options: Of the constructor, all that differ from its defaults.

    Raises:
        ValueError: There is none.
    """
    defaults = {name: p.default for name, p in inspect.signature(DDPMUNet).parameters.items()}
    full = {**defaults, **options}
    if full["image_channels"] is not None:
        raise ValueError(f"network.image_channels={full['image_channels']}: UNet2DModel takes no image.")
    channels, height, width = full["shape"]
    levels = range(len(full["multipliers"]))
    kinds = [level in full["attention_levels"] for level in levels]
    classes = full["num_classes"]
    config = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels * full["outputs"],
        "block_out_channels": [full["channels"] * multiplier for multiplier in full["multipliers"]],
        "layers_per_block": full["blocks"],
        "down_block_types": [_DOWN[attends] for attends in kinds],
        "up_block_types": [_UP[attends] for attends in reversed(kinds)],
        "add_attention": full["middle_attention"],
        "attention_head_dim": full["head_channels"],
        "dropout": full["dropout"],
        "norm_num_groups": full["groups"],
        "norm_eps": full["norm_eps"],
        "flip_sin_to_cos": False,
        "freq_shift": full["frequency_shift"],
        "downsample_padding": int(full["symmetric"]),
        "num_class_embeds": None if classes is None else classes + full["null_class"],
    }
    return config, Layout(DDPMUNet, options, _unet2d_entries(full, cosine_first=False))


def write_pipeline(folder: Path, denoiser: Denoiser, options: Mapping[str, Any]) -> None:
    """Write a denoiser as a pipeline that `DDPMPipeline.from_pretrained` loads.

    A class-conditional network is written without the pipeline's index, as DDPMPipeline gives a network no classes:
    `UNet2DModel.from_pretrained` loads `unet/`, and `DDPMScheduler.from_pretrained` `scheduler/`.

    Args:
        folder: Empty.
        denoiser: With the weights to write.
        options: Of its network's constructor.

    Raises:
        ValueError: diffusers has no such network or scheduler.
    """
    if type(denoiser.network) is not DDPMUNet:
        raise ValueError(f"network={type(denoiser.network).__name__}: of our networks DDPMUNet is a UNet2DModel.")
    config, layout = unet2d_config(options)
    scheduler = {**to_scheduler(denoiser), "_diffusers_version": _VERSION}
    state = layout.to_theirs(denoiser.network.state_dict())
    with atomic(folder / "unet" / f"{WEIGHTS}.safetensors") as file:
        # Written in their layout: ours may have channels last.
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}, {"format": "pt"}))
    for path, content in (("unet/config.json", config), ("scheduler/scheduler_config.json", scheduler)):
        write_text(folder / path, json.dumps(content, indent=2))
    if config["num_class_embeds"] is None:
        index = {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": _VERSION,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        }
        write_text(folder / "model_index.json", json.dumps(index, indent=2))


def _unet2d_entries(options: Mapping[str, Any], *, cosine_first: bool) -> list[Entry]:
    """The list of names of a `DDPMUNet`; `cosine_first` is diffusers' `flip_sin_to_cos`."""
    last = len(options["multipliers"]) - 1
    names = Names(
        place=lambda part: block_name(part, last),
        residual=("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
        norm="group_norm",
        qkv=("to_q", "to_k", "to_v"),
        out="to_out.0",
        resample={"down": "conv", "up": "conv"},
        time=("time_embedding.linear_1", "time_embedding.linear_2"),
        ends=("conv_in", "conv_norm_out", "conv_out"),
        first=Halves() if cosine_first else SAME,
        qkv_ways=lambda part: (Stacked(3), Stacked(3)),
        out_way=SAME,
    )
    classes = [] if options["num_classes"] is None else [Entry("classes.weight", ("class_embedding.weight",))]
    return [*entries(options, names), *classes]


_LAYOUTS: dict[Any, Callable[[Mapping[str, Any]], Layout]] = {
    "UNet2DModel": unet2d,
    "UNet2DConditionModel": unet_condition,
    "DiTTransformer2DModel": dit,
    "AutoencoderKL": autoencoder_kl,
    "VQModel": vq_model,
}
