"""Pipelines of diffusers, read: a network with its scheduler, autoencoder and text encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node
from denoiselab.interop.diffusers.autoencoders import autoencoder_kl, vq_model
from denoiselab.interop.diffusers.deterministic import autoencoder_dc, autoencoder_tiny
from denoiselab.interop.diffusers.dit import dit
from denoiselab.interop.diffusers.pipeline_parts import TEXT_ENCODERS, codec, text_conditioner
from denoiselab.interop.diffusers.scheduler_samplers import sampling
from denoiselab.interop.diffusers.schedulers import from_scheduler
from denoiselab.interop.diffusers.unet import unet2d
from denoiselab.interop.diffusers.unet_text import unet_condition
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.weights.files import local, read_json, read_weights, weights_file
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import InteropError, State, making, renamed
from denoiselab.networks import ADMUNet, DDPMUNet, DiT, TextUNet

# Names of attention layers before diffusers 0.15, and the current ones.
_OLD_NAMES = [
    (f".attentions.{n}.{old}.", f".attentions.{n}.{present}.")
    for n in range(8)
    for old, present in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
]


# Folders of checkpoints of diffusers' training scripts.
_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass
class Pipeline(Source):
    """A pipeline, or a network and a scheduler in one folder, as written by diffusers' `save_pretrained`.

    Of a latent model, `vae` or `vqvae` is read too, and `text_encoder` and `tokenizer`.

    Of a `checkpoint-N` of diffusers' training scripts, the network and its moving average (`unet_ema`), as the weights
    `ema`, are read; other parts of the pipeline are taken from the folder above.

    Args:
        path: The folder, or the id of a repository of the hub.
        scheduler: File or folder of the scheduler's configuration; None for the one in the folder.
        variant: Of the weights, such as `fp16` or `non_ema`.
        revision: Branch, tag or commit on the hub.
        vae: Folder of the autoencoder; None for the one in the folder, if there is one.
    """

    path: str
    scheduler: str | None = None
    variant: str | None = None
    revision: str | None = None
    vae: str | None = None

    def read(self) -> Imported:
        folder = local(self.path, self.revision)
        home, layout, state, averages, files = self._network(folder)
        options = layout.options
        above = folder.resolve().parent if _CHECKPOINT.fullmatch(folder.resolve().name) else folder
        if layout.module not in (DDPMUNet, ADMUNet, DiT, TextUNet):
            raise InteropError(f"{home}: {layout.module.__name__} is not a network; import a pipeline or its network.")
        places = [place / name for place in (folder, above) for name in ("vae", "vqvae") if home != folder]
        found = next((place for place in places if place.is_dir()), None)
        vae = found if self.vae is None else Path(self.vae).expanduser()
        codec_node, shape = (None, None) if vae is None else codec(vae, options["shape"])
        scheduler = self._scheduler_file(folder, above)
        stated = read_json(scheduler)
        meaning = from_scheduler(stated, scheduler, layout.options["outputs"])
        parts = {}
        if layout.module is TextUNet:
            has_text = any((folder / name).is_dir() for name in TEXT_ENCODERS)
            parts["text"] = text_conditioner(folder if has_text else above, options["token_features"])
        if options["num_classes"] is not None:
            null = options.get("null_class", True)
            parts["label"] = config_nodes.conditioner(
                options["num_classes"], dropout=0.1 if null else 0.0, null_class=null
            )
        if options.get("image_channels") is not None:
            parts["image"] = _image(options, home, shape)
        return Imported(
            named(self.path, folder),
            layout,
            state,
            *meaning,
            conditioner=config_nodes.combined(parts),
            codec=codec_node,
            shape=shape,
            averages=averages,
            files=(*files, scheduler),
            sampling=sampling(stated),
        )

    def _network(self, folder: Path) -> tuple[Path, Layout, State, dict[str, State], list[Path]]:
        """The network's folder, layout and weights, their averages, and the files read."""
        home = next((folder / name for name in ("unet", "transformer") if (folder / name).is_dir()), folder)
        if home == folder and not (folder / "config.json").is_file() and (saved := _checkpoints(folder)):
            raise InteropError(
                f"{folder}: has no network, but training checkpoints: {', '.join(saved)}; choose one, such as "
                f"import.path={folder / saved[-1]}."
            )
        layout, state, weights = read_model(home, self.variant)
        averages, files = dict[str, State](), [weights, home / "config.json"]
        average = home.with_name(f"{home.name}_ema")
        if home != folder and average.is_dir():
            other, averages["ema"], file = read_model(average, self.variant)
            if (other.module, other.options) != (layout.module, layout.options):
                raise InteropError(f"{average}: its configuration differs from that of {home}.")
            files.append(file)
        return home, layout, state, averages, files

    def _scheduler_file(self, folder: Path, above: Path) -> Path:
        name = "scheduler_config.json"
        if self.scheduler is not None:
            given = Path(self.scheduler).expanduser()
            return given / name if given.is_dir() else given
        for place in (folder / "scheduler" / name, folder / name, above / "scheduler" / name):
            if place.is_file():
                return place
        raise InteropError(
            f"{folder}: has no {name}, which states the noise schedule of the training; set import.scheduler=<file>."
        )


def _image(options: Mapping[str, Any], home: Path, shape: Sequence[int] | None) -> Node:
    """The node of what is concatenated to the latents."""
    if shape is not None and options["image_channels"] == options["shape"][0] + 1:
        return config_nodes.inpainting(shape)
    raise InteropError(
        f"{home}: beside the latents it takes {options['image_channels']} channels, for which there is no conditioner; "
        "`denoiselab.interop.diffusers.pipelines.read_model` loads it."
    )


def _checkpoints(folder: Path) -> list[str]:
    """The names of the training scripts' checkpoints in a folder, the latest last."""
    found = (path.name for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name)) if folder.is_dir() else ()
    return sorted(found, key=lambda name: int(name.rpartition("-")[2]))


def read_model(folder: Path, variant: str | None = None) -> tuple[Layout, State, Path]:
    """The layout of one model of diffusers, a network or an autoencoder, its weights, and their file.

    `layout.built(weights)` is the model, in evaluation mode.

    Args:
        folder: Written by `save_pretrained`: `unet/`, `transformer/` or `vae/` of a pipeline.
        variant: As in `Pipeline`.

    Raises:
        InteropError: If a file is missing or damaged, or the model is not supported.
    """
    if not (folder / "config.json").is_file():
        raise InteropError(f"{folder}: has no model of diffusers: there is no {folder / 'config.json'}.")
    layout = layout_of(read_json(folder / "config.json"), folder / "config.json")
    weights = weights_file(folder, variant)
    return layout, layout.to_ours(renamed(read_weights(weights), _OLD_NAMES), weights), weights


def layout_of(config: Mapping[str, Any], where: Path) -> Layout:
    """The layout of a network or an autoencoder of diffusers."""
    kind = str(config.get("_class_name"))
    if kind not in _LAYOUTS:
        raise InteropError(f"{where}: {kind} is not supported; supported: {', '.join(_LAYOUTS)}.")
    with making(kind, where):
        layout = _LAYOUTS[kind](config)
        layout.skeleton()
    return layout


_LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Layout]] = {
    "UNet2DModel": unet2d,
    "UNet2DConditionModel": unet_condition,
    "DiTTransformer2DModel": dit,
    "Transformer2DModel": dit,
    "AutoencoderKL": autoencoder_kl,
    "VQModel": vq_model,
    "AutoencoderTiny": autoencoder_tiny,
    "AutoencoderDC": autoencoder_dc,
}
