"""Latents of a data set, or pairs of noise and samples, in a folder: what they are of, and whether they suit a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoiselab.codecs import Codec
from denoiselab.data import DataSet
from denoiselab.data.augmentation import Augmentation, HorizontalFlip
from denoiselab.data.latents import LatentStore, StoredLatents
from denoiselab.data.pairs import PairStore
from denoiselab.errors import BadInput
from denoiselab.from_config import with_hashes
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.frozen.folders import sha256_of
from denoiselab.nodes.options import completed

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
) -> StoredLatents | PairStore | None:
    """The latents that `latents` names, once they are known to be those of the codec and of the data; None for none.

    Or the pairs that `pairs` names, as of `read_pairs`.

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
        return None if config.get("pairs") is None else read_pairs(config, codec, users, verify=verify)
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


def read_pairs(config: Config, codec: Codec, users: Sequence[Any], *, verify: bool) -> PairStore:
    """The pairs that `pairs` names, once they are known to suit a run; arguments as of `read`.

    Raises:
        BadInput: If they are damaged, or are of another shape, codec or data, or do not have what the run needs.
    """
    folder = Path(config["pairs"]).expanduser()
    option = f"pairs={folder}"
    store = PairStore.open(folder, verify=verify)
    of, shape, (conditioner, _) = store.facts["of"], list(codec.latent_shape), users
    if store.facts["shape"] != shape:
        raise BadInput(f"{option}: are of shape {store.facts['shape']}, and this run's denoiser takes {shape}.")
    for name, theirs, ours in (
        ("codec", of["codec"], with_hashes(completed(config["codec"]))),
        ("data.name", of["data"], config["data"]["name"]),
    ):
        if theirs != ours:
            raise BadInput(f"{option}: were made by a model with {name} {theirs}, and this run has {ours}.")
    if any(getattr(user, "uses_images", False) for user in users):
        raise BadInput(f"{option}: have no images, of which conditions or features of this run are made.")
    if conditioner.names and store.facts["classes"] is None:
        raise BadInput(f"{option}: have no classes, on which this run conditions; choose conditioner=none.")
    if of["seed"] == config["evaluation"]["seed"]:
        raise BadInput(
            f"{option}: are of the noise of evaluation.seed={of['seed']}, from which samples are scored; "
            "choose another evaluation.seed."
        )
    return store


def sha256(data: DataSet, latents: StoredLatents | PairStore | None) -> str:
    """The fingerprint of what is trained on."""
    return latents.fingerprint if isinstance(latents, PairStore) else data.fingerprint


def check_augmentation(config: Config, augmentation: Augmentation | None) -> None:
    """Refuse an augmentation that changes images in a way in which latents cannot be changed."""
    if config.get("latents") is not None and augmentation is not None and type(augmentation) is not HorizontalFlip:
        raise BadInput(
            f"augmentation={type(augmentation).__name__}: latents={config['latents']} are of images without it, and "
            "latents cannot be changed so; choose augmentation=flip or null, or leave out latents."
        )
    if config.get("pairs") is not None:
        for name in ("latents", "augmentation"):
            if config.get(name) is not None:
                raise BadInput(f"pairs={config['pairs']}: they are read in place of data, so give {name}=null.")


def _short(digest: str) -> str:
    return digest[:12]
