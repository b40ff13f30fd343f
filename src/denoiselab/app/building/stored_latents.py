"""The latents of a data set in a folder: what they are of, and whether a training can read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoiselab.codecs import Codec
from denoiselab.data import DataSet
from denoiselab.data.augmentation import Augmentation, HorizontalFlip
from denoiselab.data.latents import LatentStore, StoredLatents
from denoiselab.errors import BadInput
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.frozen.folders import sha256_of

Config = dict[str, Any]


def origin(codec: Codec, data: DataSet, option: str) -> Config:
    """What latents depend on, plain containers: of the codec its files and its normalisation, of the data all.

    Args:
        codec: That encodes.
        data: Training images.
        option: That asks for them, for messages.

    Raises:
        BadInput: If the codec is no autoencoder in a folder.
    """
    if not isinstance(codec, FolderCodec):
        raise BadInput(f"{option}: there are no latents of codec={type(codec).__name__}; choose codec=autoencoder_kl.")
    normalisation = {name: codec.options.get(name) for name in ("scale", "shift")}
    return {
        "codec": {"kind": type(codec).__name__, "sha256": codec.sha256 or sha256_of(codec.folder)},
        "normalisation": {k: [*map(float, v)] if isinstance(v, list | tuple) else v for k, v in normalisation.items()},
        "data": data.fingerprint,
        "images": list(data.shape),
    }


def read(
    config: Config,
    codec: Codec,
    users: Sequence[Any],
    data: DataSet,
    augmentation: Augmentation | None,
    *,
    verify: bool,
) -> StoredLatents | None:
    """The latents that `latents` names, once they are known to be those of the codec and of the data; None for none.

    Args:
        config: Of a run.
        codec: Its codec.
        users: Its conditioner and its objective, each of which may need the images too (`uses_images`).
        data: Training images.
        augmentation: Of the training, which `check_augmentation` accepts.
        verify: Compare checksums, not only sizes.

    Raises:
        BadInput: If they are of something else, or damaged, or do not have what the run needs.
    """
    if config.get("latents") is None:
        return None
    folder = Path(config["latents"]).expanduser()
    option = f"latents={folder}"
    ours = origin(codec, data, option)
    store = LatentStore.open(folder, verify=verify)
    theirs = store.facts["of"]
    again = "make them with python -m denoiselab.convert to=latents and this run's data and codec."
    if theirs["data"] != ours["data"]:
        what = f"{_short(theirs['data'])}, {len(store):,} of them; data={config['data']['name']} are"
        here = f"{_short(ours['data'])}, {len(data):,}"
        raise BadInput(f"{option}: they are of other images ({what} {here}); {again}")
    if theirs["codec"] != ours["codec"]:
        what = f"{theirs['codec']['kind']} {_short(theirs['codec']['sha256'])}"
        raise BadInput(
            f"{option}: they are of another codec ({what}; codec.path is {ours['codec']['kind']} "
            f"{_short(ours['codec']['sha256'])}); {again}"
        )
    if theirs["normalisation"] != ours["normalisation"]:
        was, now = (" ".join(f"{k}={v}" for k, v in of["normalisation"].items()) for of in (theirs, ours))
        raise BadInput(f"{option}: they were made with {was}, and the codec has {now}; {again}")
    uses_images = any(getattr(user, "uses_images", False) for user in users)
    cropped = config["data"].get("resize") == "random_crop"
    if cropped != (store.crops is not None):
        has, needs = ("random", "fixed") if store.crops is not None else ("no random", "random")
        raise BadInput(f"{option}: they are of images with {has} crops, and data.resize asks for {needs} ones; {again}")
    if cropped and uses_images:
        raise BadInput(f"{option}: conditions or features are of images, whose crops are not those of the latents.")
    if augmentation is not None and not store.flips:
        raise BadInput(
            f"augmentation=flip: {option} are not of mirrored images; make them with flips=true, or choose "
            "augmentation=null."
        )
    assert augmentation is None or isinstance(augmentation, HorizontalFlip)
    return StoredLatents(store, config["seed"], augmentation, uses_images)


def check_augmentation(config: Config, augmentation: Augmentation | None) -> None:
    """Refuse an augmentation that changes images in a way in which latents cannot be changed."""
    if config.get("latents") is not None and augmentation is not None and type(augmentation) is not HorizontalFlip:
        raise BadInput(
            f"augmentation={type(augmentation).__name__}: latents={config['latents']} are of images without it, and "
            "latents cannot be changed so; choose augmentation=flip or null, or leave out latents."
        )


def _short(digest: str) -> str:
    return digest[:12]
