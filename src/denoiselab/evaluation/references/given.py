"""A reference file that the user names: this package's, or the .npz of ADM, EDM, pytorch-fid or clean-fid."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Given
from denoiselab.evaluation.feature_contracts import FEATURES, SPATIAL, FeatureExtractor, Layer, Metric
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.metrics.statistics import Moments
from denoiselab.evaluation.references.arrays import check_features, check_images, check_moments
from denoiselab.evaluation.references.files import BATCH, FileReference, data_of, made_by, protocol_of, read_file
from denoiselab.files import check_member, sha256_of

_MOST = 2**28  # bytes of an array of moments

# The arrays of an .npz, by layer: ADM's evaluator writes all four, EDM, pytorch-fid and clean-fid the first two.
_NPZ = {FEATURES: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
_NPZ_EXTRACTOR = "inception_v3"


def read(
    given: Given, extractor: FeatureExtractor, metrics: Sequence[Metric], data: DataSet, device: torch.device
) -> FileReference:
    """The reference in a file.

    Args:
        given: The file. An .npz does not say of which data, resize and weights it is; this is not checked.
        extractor: Of the features.
        metrics: Of the scores.
        data: What the run is scored against.
        device: Of the extractor.

    Raises:
        ValueError: If the file is of another protocol or other data, lacks what a metric reads, or holds arrays that
            are not statistics.
    """
    option, shape = option_of(given), data.shape
    check(given, extractor.name, extractor.fingerprint, shape)
    check_data(given, data)
    if given.path.suffix == ".npz":
        reference = _read_npz(given, extractor, metrics, shape, device)
    else:
        try:
            protocol, reference = read_file(given.path)
        except ValueError as error:
            raise ValueError(f"{option}: {error}.") from None
        for name, value in made_by(extractor, shape).items():
            _check_same(option, name, protocol.get(name), value)
    for metric in metrics:
        if metric.reads_reference:
            _check_layer(given, reference, metric, extractor.dimensions[metric.layer])
    return reference


def check(given: Given, extractor: str, sha256: str | None, shape: Sequence[int]) -> None:
    """Check by its name and header that a file is of the protocol of a run.

    Args:
        given: The file.
        extractor: Name.
        sha256: Of the extractor's weights, if known.
        shape: Of a sample.

    Raises:
        ValueError: If it is not, or cannot be read.
    """
    option = option_of(given)
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
        if value is not None:
            _check_same(option, name, protocol[name], value)


def check_data(given: Given, data: DataSet) -> None:
    """Check that a file that names its data is of these, unless the user allows others.

    Raises:
        ValueError: If it is not.
    """
    if given.any_data or given.path.suffix == ".npz":
        return
    of = data_of(protocol_of(given.path))
    if of["data_sha256"] != data.fingerprint:
        raise ValueError(
            f"{option_of(given)}: it is of {of['data']} ({of['split']}), with data_sha256 {of['data_sha256'][:16]}; "
            f"the training images have {data.fingerprint[:16]}; pass evaluation.reference_data=any to allow it."
        )


def option_of(given: Given) -> str:
    """The option that names a file, for messages."""
    return f"evaluation.reference={given.path}"


def _check_same(option: str, name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"{option}: its {name} is {found}, here it is {wanted}.")


def _check_layer(given: Given, reference: FileReference, metric: Metric, dimension: int) -> None:
    """Check that a reference has the statistics that a metric reads.

    Raises:
        ValueError: If it lacks some, or they are not statistics of features of this dimension.
    """
    option, npz = option_of(given), given.path.suffix == ".npz"
    layer = reference.layer(metric.layer)
    for statistics, reads, what in (
        (layer.moments, metric.reads_moments, "moments"),
        (layer.features, metric.reads_features, "whole features"),
    ):
        if reads and statistics is None:
            raise ValueError(
                f"{option}: it has no {what} of {metric.layer}, which {type(metric).__name__} reads; "
                "leave that metric out, or the reference, which is then computed from the data set."
            )
    if metric.reads_moments:
        mean, covariance = layer.moments.mean, layer.moments.covariance
        has = mean.shape[-1] if mean.ndim else 1
        if has != dimension:
            raise ValueError(f"{option}: {metric.layer} has {has} dimensions there, and {dimension} here.")
        names = _NPZ[metric.layer] if npz else (f"{metric.layer}.mean", f"{metric.layer}.covariance")
        check_moments(mean, covariance, reference.n, names, option, "evaluation.reference_n" if npz else "n")
    if metric.reads_features:
        check_features(layer.outputs, dimension, f"{metric.layer}.features", option)
    metric.check(reference.n if layer.features is None else len(layer.features), f"{option}: its n")


def _read_npz(
    given: Given, extractor: FeatureExtractor, metrics: Sequence[Metric], shape: Sequence[int], device: torch.device
) -> FileReference:
    """Moments, and features of the images that ADM's files hold for precision and recall."""
    assert given.n is not None
    option = option_of(given)
    try:
        with np.load(given.path, allow_pickle=False) as arrays:
            for name in {name for names in _NPZ.values() for name in names} & {*arrays.files}:
                check_member(arrays.zip, f"{name}.npy", _MOST)
            found = {
                layer: Moments(given.n, *(torch.from_numpy(np.asarray(arrays[name], np.float64)) for name in names))
                for layer, names in _NPZ.items()
                if set(names) <= set(arrays.files)
            }
            wants_images = any(metric.reads_features and metric.reads_reference for metric in metrics)
            images = torch.from_numpy(arrays["arr_0"]) if wants_images and "arr_0" in arrays.files else None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError):
        raise ValueError(f"{option}: it is damaged, or cannot be read as an .npz.") from None
    if not found:
        raise ValueError(f"{option}: it has no arrays mu and sigma.")
    layers = {layer: Layer(moments, None) for layer, moments in found.items()}
    if images is not None:
        check_images(images, shape, "arr_0", option)
        collected = Collected(extractor, metrics, reference=True)
        for batch in images.permute(0, 3, 1, 2).split(BATCH):
            collected.update(batch.to(device))
        for name in collected.features:
            layers[name] = Layer(layers[name].moments if name in layers else None, collected.layer(name).features)
    return FileReference(given.n, sha256_of(given.path), given.path, layers, {})
