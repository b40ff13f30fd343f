"""Statistics of the data that samples are scored against, in files that record how they were made."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from denoiselab import progress
from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Workspace
from denoiselab.evaluation.feature_contracts import FeatureExtractor, Layer, Metric
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.metrics.statistics import Moments
from denoiselab.files import drop_sum, matches_sum, replacing, sha256_of, write_sum

BATCH = 64  # images at a time


@dataclass(frozen=True)
class FileReference:
    """Statistics of the data, as the metrics read them.

    Args:
        n: Number of images.
        fingerprint: sha256 of the file.
        path: Of the file.
        layers: Statistics by layer of the extractor.
        of: Data set, split and fingerprint of the data; empty for an .npz.
        held_out: The same of held-out data; None if no metric reads them.
    """

    n: int
    fingerprint: str
    path: Path
    layers: Mapping[str, Layer]
    of: Mapping[str, Any]
    held_out: FileReference | None = None

    def layer(self, name: str) -> Layer:
        """Statistics of a layer; empty if no metric reads it."""
        own = self.layers.get(name, Layer(None, None))
        return own if self.held_out is None else replace(own, held_out=self.held_out.layer(name))

    def beside(self, held_out: FileReference) -> FileReference:
        """With the statistics of held-out data, and the hash of both fingerprints."""
        both = hashlib.sha256(f"{self.fingerprint} {held_out.fingerprint}".encode()).hexdigest()
        return replace(self, held_out=held_out, fingerprint=both)


def cached(
    extractor: FeatureExtractor,
    metrics: Sequence[Metric],
    data: DataSet,
    identity: Mapping[str, Any],
    work: Workspace,
    device: torch.device,
) -> FileReference:
    """The statistics that metrics read, computed over every image of `data` once and kept in `work.cache`.

    The file is named by the hash of its protocol. Of several processes, one computes it and the others wait.

    Args:
        extractor: Of the features.
        metrics: Of the scores.
        data: Images, as they are stored; each is read once, in order.
        identity: Names data set and split.
        work: Where the file is kept.
        device: Of the extractor.

    Raises:
        ValueError: If there are too few images for a metric, or features are not finite.
    """
    for metric in metrics:
        if metric.reads_reference:
            metric.check(len(data), "the number of reference images")
    collected = Collected(extractor, metrics, reference=True)
    protocol = {
        "format": 1,
        **identity,
        "data_sha256": data.fingerprint,
        "n": len(data),
        **made_by(extractor, data.shape),
        "moments": [*collected.moments],
        "features": [*collected.features],
    }
    key = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    path = work.cache / f"reference-{extractor.name}-{key[:16]}.safetensors"
    work.cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged file is replaced
            return read_file(path)[1]
        drop_sum(path)
        with progress.bar("reference", len(data), shown=work.shown) as bar:
            for index in torch.arange(len(data)).split(BATCH):
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
        return read_file(path)[1]


def made_by(extractor: FeatureExtractor, shape: Sequence[int]) -> dict[str, Any]:
    """The part of a protocol in which samples and reference must agree."""
    return {
        "shape": list(shape),
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
        "extractor_facts": json.loads(json.dumps(extractor.facts)),
    }


def data_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that names the data."""
    return {name: protocol.get(name, "") for name in ("data", "split", "data_sha256")}


def protocol_of(path: Path) -> dict[str, Any]:
    """The protocol in a file's header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file of reference statistics; the message does not name the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            protocol = json.loads((file.metadata() or {})["protocol"])
        kinds = {"n": int, "shape": list, "extractor": str, "extractor_sha256": str, "moments": list, "features": list}
        if all(type(protocol[name]) is kind for name, kind in kinds.items()) and protocol["n"] > 0:
            return dict(protocol)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ValueError("not a file of reference statistics")


def read_file(path: Path) -> tuple[dict[str, Any], FileReference]:
    """The protocol and the statistics of a file whose checksum is right.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file of reference statistics, or damaged; the message does not name the file.
    """
    protocol = protocol_of(path)
    n = protocol["n"]
    if not matches_sum(path):
        raise ValueError("damaged: its sha256 differs from the one in the .sha256 file")
    try:
        with safe_open(path, framework="pt") as file:
            moments = {
                layer: Moments(n, file.get_tensor(f"{layer}.mean"), file.get_tensor(f"{layer}.covariance"))
                for layer in protocol["moments"]
            }
            features = {layer: file.get_tensor(f"{layer}.features") for layer in protocol["features"]}
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"a tensor of its metadata is missing from the file ({error})") from None
    layers = {layer: Layer(moments.get(layer), features.get(layer)) for layer in {*moments, *features}}
    return protocol, FileReference(n, sha256_of(path), path, layers, data_of(protocol))
