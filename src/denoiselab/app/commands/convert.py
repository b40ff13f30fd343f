"""Images of any source to shards, with statistics, or to latents; a sharded training's checkpoint to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab.app.building import stored_latents
from denoiselab.app.commands import references as statistics
from denoiselab.app.config.early import check_shape
from denoiselab.app.config.overrides import choice
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.paths import check_accelerator, device_of, newest
from denoiselab.codecs import Codec
from denoiselab.console import console
from denoiselab.data import ImageSource
from denoiselab.data.conversion import convert as write_shards
from denoiselab.data.latents_making import Making
from denoiselab.data.reading.decoding import Decoder
from denoiselab.errors import BadInput
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, CheckpointError, read_checkpoint, write_checkpoint

Config = dict[str, Any]

# What references does not have, and what of it is for latents alone.
_OWN = ("to", "out", "ckpt", "images_per_shard", "references", "flips", "crops", "dtype")
_OF_LATENTS = {"flips": True, "crops": 1, "dtype": "float32"}


def check(config: Config, *, sweeping: bool = False) -> ImageSource | None:
    """Check all that can be checked before anything is read or written; the source of images, unless for latents."""
    out, images_per_shard, references = (config[key] for key in ("out", "images_per_shard", "references"))
    if config["to"] not in ("shards", "latents", "checkpoint"):
        raise BadInput(f"to={config['to']}: it must be shards, latents or checkpoint.")
    if out == "???":
        raise BadInput("out: is not given and has no default; pass out=<a new folder>.")
    if config["to"] == "checkpoint":
        if config["ckpt"] is None:
            raise BadInput("ckpt: is not given and has no default; pass ckpt=<a run of trainer=fsdp2>.")
        return None
    if config["ckpt"] is not None:
        raise BadInput(f"ckpt={config['ckpt']}: it has no effect without to=checkpoint.")
    if not isinstance(images_per_shard, int) or images_per_shard < 1:
        raise BadInput(f"images_per_shard={images_per_shard}: it must be a whole number of at least 1.")
    if not isinstance(references, bool):
        raise BadInput(f"references={references}: it must be true or false.")
    check_shape(config["data"])
    check_nodes({"data": config["data"]})
    if config["to"] == "latents":
        _check_latents(config)
        return None
    for name, default in _OF_LATENTS.items():
        if config[name] != default:
            raise BadInput(f"{name}={str(config[name]).lower()}: it has no effect without to=latents.")
    if references:
        statistics.check(_rest(config))
    source = construct(config["data"], "data")
    if not isinstance(source, ImageSource):
        raise BadInput(f"data={config['data']['name']}: only images in files are converted.")
    if source.resize == "random_crop":
        raise BadInput("data.resize=random_crop: images are converted once; choose center_crop, stretch or pad.")
    if source.size is not None:
        raise BadInput(f"data.size={source.size}: all images are converted; leave it out.")
    return source


def run(config: Config, directory: Path | None = None) -> list[Path]:
    """Write the shards of each split, or the latents of training images, and say where they are.

    Where the source has no held-out part, shards are split by hash in training as it is; but of images that were
    resized the hash is another, and so other images are held out.

    Returns:
        Their folders: of training images, then of those held out, if the source has some.
    """
    source, out = check(config), Path(config["out"]).expanduser()
    if config["to"] == "checkpoint":
        return [_write_checkpoint(config, out)]
    if source is None:
        return [_write_latents(config, out)]
    channels, height, width = source.shape
    decoder = Decoder((channels, height, width), source.resize, source.max_pixels, source.bit_depth)
    folders = []
    try:
        if out.is_file() or (out.is_dir() and {path.name for path in out.iterdir()} - {"train", "held_out"}):
            raise BadInput(f"out={out}: it is there already, and not of a conversion; name a new folder.")
        for split, records in (("train", source.records()), ("held_out", source.held_out())):
            if records is None:
                continue
            skip = source.bad_images == "skip"
            done = write_shards(records, decoder, out / split, config["images_per_shard"], source.workers, skip=skip)
            folders.append(out / split)
            left_out = f", {done.bad:,} that cannot be read left out" if done.bad else ""
            means, stds = (", ".join(f"{value:.4f}" for value in values) for values in (done.mean, done.std))
            console().print(f"{done.n:,} images{left_out}; mean {means}, std {stds} of [0, 1]: {folders[-1]}")
    except ValueError as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise BadInput(f"out={out}: {error.strerror or error}.") from None
    options = ("data.root", "data.validation_root")[: len(folders)]
    places = [override(option, folder) for option, folder in zip(options, folders, strict=True)]
    console().print(f"train with: data=webdataset {' '.join(places)} data.shape=[{channels},{height},{width}]")
    if config["references"]:
        data = {**choice("data", "webdataset"), "root": str(folders[0]), "shape": [channels, height, width]}
        data |= {"validation_root": str(folders[1]) if len(folders) > 1 else None}
        shared = ("name", "num_classes", "validation", "memory_limit", "workers", "cache_dir")
        data |= {key: getattr(source, key) for key in shared}
        statistics.run({**_rest(config), "data": data})
    return folders


def _check_latents(config: Config) -> None:
    """Check the options of latents, and that there are some."""
    flips, crops, dtype = (config[name] for name in _OF_LATENTS)
    if not isinstance(flips, bool):
        raise BadInput(f"flips={flips}: it must be true or false.")
    if dtype not in ("float32", "float16"):
        raise BadInput(f"dtype={dtype}: it must be float32 or float16.")
    if not isinstance(crops, int) or crops < 1:
        raise BadInput(f"crops={crops}: it must be a whole number of at least 1.")
    if crops > 1 and config["data"].get("resize") != "random_crop":
        raise BadInput(f"crops={crops}: images have one crop; choose data.resize=random_crop, or leave it out.")
    if config["references"]:
        raise BadInput("references=true: it is for shards of images; python -m denoiselab.references computes them.")
    check_nodes({"codec": config["codec"]})
    check_accelerator(config["accelerator"])


def _write_checkpoint(config: Config, out: Path) -> Path:
    """Write the checkpoint of a sharded training as one file."""
    path = newest(Path(config["ckpt"]).expanduser())
    if out.exists():
        raise BadInput(f"out={out}: it is there already; name a new file.")
    if path.is_file():
        raise BadInput(f"ckpt={path}: it is one file already.")
    try:
        checkpoint = read_checkpoint(path)
        write_checkpoint(checkpoint, out)
    except CheckpointError as error:
        raise BadInput(f"ckpt={error}") from None
    except OSError as error:
        raise BadInput(f"out={out}: {error.strerror or error}.") from None
    console().print(f"checkpoint of {checkpoint[CHECKPOINT_KEY]['images_seen']:,} images seen: {out}")
    return out


def _write_latents(config: Config, out: Path) -> Path:
    """Write the latents of training images, and say how to train with them; their folder."""
    try:
        codec: Codec = construct(config["codec"], "codec")
        if not isinstance(codec, FolderCodec):
            raise BadInput(f"codec={type(codec).__name__}: it has no latents to store; choose codec=autoencoder_kl.")
        codec.load()
        data, _ = construct(config["data"], "data").load()
        of = stored_latents.origin(codec, data, "codec")
        making = Making(
            codec.encode_pixels,
            of,
            device_of(config["accelerator"]),
            flips=config["flips"],
            crops=config["crops"] if config["data"].get("resize") == "random_crop" else None,
            dtype=config["dtype"],
            images_per_shard=config["images_per_shard"],
        )
        folder = out / f"{config['data']['name']}-{of['data'][:8]}-{of['codec']['sha256'][:8]}"
        store = making.write(data, folder)
    except ValueError as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise BadInput(f"out={out}: {error.strerror or error}.") from None
    size = sum(shard["bytes"] for shard in store.facts["shards"])
    console().print(
        f"latents of {len(store):,} images{' and of their mirror images' * store.flips}, {size / 1e6:,.1f} MB"
    )
    console().print(f"train with: {override('latents', folder)} and the same data and codec")
    return folder


def _rest(config: Config) -> Config:
    return {key: value for key, value in config.items() if key not in _OWN}
