"""Images of any source to shards, with the statistics that scores are taken against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab.app.commands import references as statistics
from denoiselab.app.config.early import check_shape
from denoiselab.app.config.overrides import choice
from denoiselab.app.config.spelling import override
from denoiselab.console import console
from denoiselab.data import ImageSource
from denoiselab.data.conversion import convert as write_shards
from denoiselab.data.reading.decoding import Decoder
from denoiselab.errors import BadInput
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct

Config = dict[str, Any]

# What references does not have.
_OWN = ("out", "images_per_shard", "references")


def check(config: Config, *, sweeping: bool = False) -> ImageSource:
    """Check all that can be checked before anything is read or written."""
    out, images_per_shard, references = (config[key] for key in _OWN)
    if out == "???":
        raise BadInput("out: is not given and has no default; pass out=<a new folder>.")
    if not isinstance(images_per_shard, int) or images_per_shard < 1:
        raise BadInput(f"images_per_shard={images_per_shard}: it must be a whole number of at least 1.")
    if not isinstance(references, bool):
        raise BadInput(f"references={references}: it must be true or false.")
    check_shape(config["data"])
    check_nodes({"data": config["data"]})
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
    """Write the shards of each split, and say where they are.

    Where the source has no held-out part, shards are split by hash in training as it is; but of images that were
    resized the hash is another, and so other images are held out.

    Returns:
        Their folders: of training images, then of those held out, if the source has some.
    """
    source, out = check(config), Path(config["out"]).expanduser()
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


def _rest(config: Config) -> Config:
    return {key: value for key, value in config.items() if key not in _OWN}
