"""Statistics of the data that samples are scored against, in files that say how they were made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from denoiselab import progress
from denoiselab.data import DataSet
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.metrics.of_features import FEATURES, SPATIAL, Layer
from denoiselab.evaluation.metrics.statistics import Moments
from denoiselab.evaluation.references.arrays import check_features, check_images, check_moments, protocol_of
from denoiselab.evaluation.scorer import Given
from denoiselab.files import check_member, drop_sum, matches_sum, replacing, sha256_of, write_sum

if TYPE_CHECKING:
    from denoiselab.evaluation.features.extractors import FeatureScorer

_BATCH, _MOST = 64, 2**28  # images at a time, and bytes of an array of moments

# The arrays of an .npz, by layer: ADM's evaluator writes all four, EDM, pytorch-fid and clean-fid the first two.
_NPZ = {FEATURES: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
_NPZ_EXTRACTOR = "inception_v3"


@dataclass(frozen=True)
class Reference:
    """Statistics of the data, as the metrics read them.

    Args:
        n: Number of images.
        fingerprint: sha256 of the file they come from.
        path: Of the file.
        layers: What is known of each layer of the extractor.
        of: The data that it is of, as far as the file says; an .npz says nothing.
    """

    n: int
    fingerprint: str
    path: Path
    layers: Mapping[str, Layer]
    of: Mapping[str, Any]

    def layer(self, name: str) -> Layer:
        """What is known of a layer; nothing where no metric reads it."""
        return self.layers.get(name, Layer(None, None))


def cached(
    scorer: FeatureScorer,
    data: DataSet,
    identity: Mapping[str, Any],
    cache: Path,
    device: torch.device,
    *,
    shown: bool,
) -> Reference:
    """The reference that the scorer's metrics read, computed over every image of `data` once and kept in `cache`.

    The file is named by the hash of its protocol. Several processes that want one file wait for the first.

    Args:
        scorer: Has the extractor and the metrics.
        data: Images, as they are stored; each is read once, in order.
        identity: Names data set and split.
        cache: Folder of the file.
        device: Of the extractor.
        shown: Show the progress.

    Raises:
        ValueError: Too few images for a metric, or features that are not finite.
    """
    for metric in scorer.metrics:
        if metric.reads_reference:
            metric.check(len(data), "the number of reference images")
    collected = Collected(scorer.extractor, scorer.metrics, scorer.extractor.dimensions, reference=True)
    protocol = {
        "format": 1,
        **identity,
        "data_sha256": data.fingerprint,
        "n": len(data),
        **_made_by(scorer, data.shape),
        "moments": [*collected.moments],
        "features": [*collected.features],
    }
    key = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    path = cache / f"reference-{scorer.name}-{key[:16]}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError, ValueError):  # what is damaged is made anew
            return _open(path)[1]
        drop_sum(path)
        with progress.bar("reference", len(data), shown=shown) as bar:
            for index in torch.arange(len(data)).split(_BATCH):
                batch = data.stored(index)
                collected.update(batch.to(device))
                bar.update(len(batch))
        tensors: dict[str, Tensor] = {}
        for layer, moments in collected.moments.items():
            tensors |= {f"{layer}.mean": moments.mean, f"{layer}.covariance": moments.covariance}
        tensors |= {f"{layer}.features": file.features for layer, file in collected.features.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"protocol": json.dumps(protocol)})
        write_sum(path)
        return _open(path)[1]


def read(given: Given, scorer: FeatureScorer, data: DataSet, device: torch.device) -> Reference:
    """The reference in a file that the user names.

    Args:
        given: The file: ours, or the `.npz` of ADM, EDM, pytorch-fid or clean-fid. What such a file says nothing of
            (data, resize, weights) is the user's word.
        scorer: Has the extractor and the metrics.
        data: That the run is scored against.
        device: Of the extractor.

    Raises:
        ValueError: The file is of another protocol or other data, lacks what a metric reads, or holds arrays that are
            no statistics.
    """
    shape = data.shape
    check(given, scorer.name, scorer.fingerprint, shape)
    check_data(given, data)
    if given.path.suffix == ".npz":
        reference = _read_npz(given, scorer, shape, device)
    else:
        try:
            protocol, reference = _open(given.path)
        except ValueError as error:
            raise ValueError(f"{_option(given)}: {error}.") from None
        for option, value in _made_by(scorer, shape).items():
            if protocol.get(option) != value:
                raise ValueError(f"{_option(given)}: its {option} is {protocol.get(option)}, here it is {value}.")
    for metric in scorer.metrics:
        layer = reference.layer(metric.layer)
        moments, features = layer.moments, layer.features
        if not metric.reads_reference:
            continue
        lacking = [
            what
            for what, reads, held in (
                ("moments", metric.reads_moments, moments),
                ("whole features", metric.reads_features, features),
            )
            if reads and held is None
        ]
        if lacking:
            raise ValueError(
                f"{_option(given)}: it has no {lacking[0]} of {metric.layer}, which {type(metric).__name__} reads; "
                "leave that metric out, or the reference, which is then computed from the data set."
            )
        wanted = scorer.extractor.dimensions[metric.layer]
        if metric.reads_moments and moments is not None:
            has = moments.mean.shape[-1] if moments.mean.ndim else 1
            if has != wanted:
                raise ValueError(f"{_option(given)}: {metric.layer} has {has} dimensions there, and {wanted} here.")
            npz = given.path.suffix == ".npz"
            names = _NPZ[metric.layer] if npz else (f"{metric.layer}.mean", f"{metric.layer}.covariance")
            check_moments(
                *(moments.mean, moments.covariance, reference.n, names, _option(given)),
                "evaluation.reference_n" if npz else "n",
            )
        if metric.reads_features and features is not None:
            check_features(features, wanted, f"{metric.layer}.features", _option(given))
        metric.check(len(features) if features is not None else reference.n, f"{_option(given)}: its n")
    return reference


def check(given: Given, extractor: str, sha256: str | None, shape: Sequence[int]) -> None:
    """Refuse a file of another protocol, as far as its header and the names tell.

    Args:
        given: The file.
        extractor: Name.
        sha256: Of the extractor's weights; None where they are not known yet.
        shape: Of a sample.

    Raises:
        ValueError: It cannot be read, or is of another protocol.
    """
    option = _option(given)
    if given.path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{option}: it must be an .npz or a .safetensors file.")
    if not given.path.is_file():
        raise ValueError(f"{option}: there is no such file.")
    if given.path.suffix == ".npz":
        if extractor != _NPZ_EXTRACTOR:
            raise ValueError(
                f"{option}: an .npz holds statistics of {_NPZ_EXTRACTOR}, and the extractor is {extractor}."
            )
        if given.n is None:
            raise ValueError(
                f"{option}: an .npz does not say of how many images it is; pass evaluation.reference_n=..."
            )
        return
    try:
        protocol = protocol_of(given.path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}.") from None
    wanted = {"shape": list(shape), "extractor": extractor, "extractor_sha256": sha256, "n": given.n}
    for name, value in wanted.items():
        if value is not None and protocol[name] != value:
            raise ValueError(f"{option}: its {name} is {protocol[name]}, here it is {value}.")


def check_data(given: Given, data: DataSet) -> None:
    """Refuse a file that says it is of other data, unless the user allows that.

    Raises:
        ValueError: It is.
    """
    if given.any_data or given.path.suffix == ".npz":
        return
    of = _of(protocol_of(given.path))
    if of["data_sha256"] != data.fingerprint:
        raise ValueError(
            f"{_option(given)}: it is of {of['data']} ({of['split']}), with data_sha256 {of['data_sha256'][:16]}, and "
            f"the training images have {data.fingerprint[:16]}; pass evaluation.reference_data=any to allow it."
        )


def _of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {name: protocol.get(name, "") for name in ("data", "split", "data_sha256")}


def _made_by(scorer: FeatureScorer, shape: Sequence[int]) -> dict[str, Any]:
    """The part of a protocol that samples and reference must share."""
    return {
        "shape": list(shape),
        "extractor": scorer.name,
        "extractor_sha256": scorer.fingerprint,
        "extractor_facts": json.loads(json.dumps(scorer.extractor.facts)),
    }


def _open(path: Path) -> tuple[dict[str, Any], Reference]:
    """The protocol and the statistics, known to be as they were written; raises as `protocol_of` does."""
    protocol = protocol_of(path)
    n = protocol["n"]
    if not matches_sum(path):
        raise ValueError("it is damaged: its sha256 is not the one beside it")
    try:
        with safe_open(path, framework="pt") as file:
            moments = {
                layer: Moments(n, file.get_tensor(f"{layer}.mean"), file.get_tensor(f"{layer}.covariance"))
                for layer in protocol["moments"]
            }
            features = {layer: file.get_tensor(f"{layer}.features") for layer in protocol["features"]}
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"it lacks what its protocol names ({error})") from None
    layers = {layer: Layer(moments.get(layer), features.get(layer)) for layer in {*moments, *features}}
    return protocol, Reference(n, sha256_of(path), path, layers, _of(protocol))


def _read_npz(given: Given, scorer: FeatureScorer, shape: Sequence[int], device: torch.device) -> Reference:
    """Moments, and features of the images that ADM's files hold for precision and recall."""
    assert given.n is not None
    try:
        with np.load(given.path, allow_pickle=False) as arrays:
            for name in {name for names in _NPZ.values() for name in names} & {*arrays.files}:
                check_member(arrays.zip, f"{name}.npy", _MOST)
            found = {
                layer: Moments(given.n, *(torch.from_numpy(np.asarray(arrays[name], np.float64)) for name in names))
                for layer, names in _NPZ.items()
                if set(names) <= set(arrays.files)
            }
            wants_images = any(metric.reads_features and metric.reads_reference for metric in scorer.metrics)
            images = arrays["arr_0"] if wants_images and "arr_0" in arrays.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError):
        raise ValueError(f"{_option(given)}: it is damaged, or cannot be read as an .npz.") from None
    if not found:
        raise ValueError(f"{_option(given)}: it has no arrays mu and sigma.")
    layers = {layer: Layer(moments, None) for layer, moments in found.items()}
    if images is not None:
        check_images(torch.from_numpy(images), shape, "arr_0", _option(given))
        collected = Collected(scorer.extractor, scorer.metrics, scorer.extractor.dimensions, reference=True)
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(_BATCH):
            collected.update(batch.to(device))
        for name in collected.features:
            layers[name] = Layer(layers[name].moments if name in layers else None, collected.layer(name).features)
    return Reference(given.n, sha256_of(given.path), given.path, layers, {})


def _option(given: Given) -> str:
    return f"evaluation.reference={given.path}"
