"""Scores of images in arrays and folders, without a model."""

from __future__ import annotations

import functools
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from denoiselab import choices
from denoiselab.data import DataSet, ImageFolder, ImageSet, PointSet
from denoiselab.data.reading.records import Strings
from denoiselab.data.sources.image_folder import FileRecords
from denoiselab.errors import BadInput, whole
from denoiselab.evaluation import Extractor, Given, Workspace
from denoiselab.model import device_of

Samples = str | Path | np.ndarray[Any, Any] | Tensor

# How reading a damaged file fails.
_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)

_NO_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

# What sample.py writes beside samples.
_GRID = "grid.png"


class Scored(NamedTuple):
    """A score with all that it depends on.

    Attributes:
        metric: Its name, such as `fid` or `fd_classifier`.
        value: NaN where there is none.
        standard_error: Of drawing the samples; None where it has no estimate.
        n: Number of samples.
        lower_is_better: Whether it is.
        extractor: Name of the extractor of features.
        extractor_sha256: Of its weights.
        reference: What the samples were compared with.
        reference_n: Number of its images.
        reference_sha256: Of what was kept of them.
        reason: Why there is no value; None where there is one.
    """

    metric: str
    value: float
    standard_error: float | None
    n: int
    lower_is_better: bool
    extractor: str
    extractor_sha256: str
    reference: str
    reference_n: int
    reference_sha256: str
    reason: str | None


@contextmanager
def _parameters() -> Iterator[None]:
    """Errors within it call the options of the command line by the parameters of `score`."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"\bevaluation[./]", "", str(error))
        text = re.sub(r"\bnum_samples=(\d+)", r"\1 images", re.sub(r"^metric=", "metrics=", text))
        text = re.sub(r"metric_options\.(\w+)\.(\w+)=\.\.\.", r'metric_options={"\1": {"\2": ...}}', text)
        text = re.sub(r" \(--help [^)]*\)", "", text)
        raise BadInput(text) from error


@_parameters()
def score(
    images: Samples,
    reference: Samples,
    *,
    extractor: str | Extractor | None = None,
    metrics: str | Sequence[str] | None = None,
    metric_options: Mapping[str, Mapping[str, Any]] = _NO_OPTIONS,
    reference_n: int | None = None,
    cache: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> list[Scored]:
    """Score samples against a reference: a record for each number that the metrics give, the primary one first.

    Args:
        images: A folder of image files or of `sample.py`, an `.npy` or `.npz` file `(N, H, W, C)`, or an array or a
            tensor: uint8 images `(N, H, W, C)` or `(N, C, H, W)`, else floats, points `(N, D)` or waveforms
            `(N, C, L)`.
        reference: The same; or a file of statistics, ours or the `.npz` of ADM, EDM, pytorch-fid or clean-fid; or the
            name of a data set of `conf/data` that needs no further options, such as "digits", or one that
            `denoiselab.build("data", ...)` made.
        extractor: A name of `conf/evaluation/extractor`; None for "inception", and for points and waveforms for
            "sliced_wasserstein".
        metrics: Names of `conf/metric`; None for the Fréchet distance.
        metric_options: Options of metrics by name, such as `{"kernel": {"block_size": 100}}`.
        reference_n: Number of images of a file of statistics that does not say it.
        cache: Folder of statistics and classifiers, which are computed once; None for `denoiselab` in the user's own
            cache folder.
        device: Of the extractor.

    Raises:
        ValueError: If something cannot be read or does not fit, or weights are not there: it says how to get them.
    """
    kept, where = _cache(cache), device_of(device)
    samples = _data_set(images, "images", kept)
    given = _given(reference, reference_n)
    train, held_out = _reference_set(reference, samples, given, kept)
    if tuple(train.shape) != tuple(samples.shape):
        raise BadInput(f"reference: its samples have shape {list(train.shape)}, and images {list(samples.shape)}.")
    of_images = len(samples.shape) == 3
    maker = _extractor(extractor or ("inception" if of_images else "sliced_wasserstein"))
    names = _names(metrics, "frechet" if of_images else None, metric_options)
    nodes = {metric: {**choices.node("metric", metric), **metric_options.get(metric, {})} for metric in names}
    measures = {metric: _measure(metric, metric_options.get(metric, {})) for metric in names}
    maker.check(samples.shape, measures, len(samples), given)
    if given is None:
        maker.check_data(train)
    work = Workspace(kept, shown=False)
    scorer = maker.fit(train, held_out, measures, nodes, work)
    against = {"train": train, "held_out": held_out}[scorer.split]
    shown = str(reference) if isinstance(reference, str | Path) else f"array, {against.fingerprint[:16]}"
    compared = scorer.reference(against, {"data": shown, "split": scorer.split}, work, where, given)
    statistics = scorer.statistics()
    for index in torch.arange(len(samples)).split(256):
        statistics.update(samples.stored(index).to(where))
    facts = (scorer.name, scorer.fingerprint, shown, compared.n, compared.fingerprint)
    n, lower = len(samples), scorer.lower_is_better
    return [
        Scored(metric, found.value, found.standard_error, n, lower[metric], *facts, found.reason)
        for metric, found in scorer.scores(statistics, compared).items()
    ]


def _extractor(asked: Any) -> Extractor:
    """The extractor of that name, or the one that is given."""
    if not isinstance(asked, str) and not hasattr(asked, "fit"):
        raise BadInput(f"extractor={asked!r}: it must be a name of conf/evaluation/extractor, or an extractor.")
    found: Extractor = choices.build("evaluation/extractor", asked) if isinstance(asked, str) else asked
    return found


def _names(metrics: object, default: str | None, options: Mapping[str, object]) -> list[str]:
    """The names of metrics, to which options may be given."""
    names = [default] if metrics is None and default else [metrics] if isinstance(metrics, str) else metrics or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"metrics={metrics!r}: it must be a name of conf/metric, or a list of names.")
    if unused := [name for name in options if name not in names]:
        raise BadInput(f"metric_options: {unused[0]!r} is none of metrics={names}.")
    return [*names]


def _measure(name: str, options: Mapping[str, Any]) -> Any:
    """The metric of that name."""
    try:
        return choices.build("metric", name, **options)
    except BadInput as error:
        raise BadInput(re.sub(r"\bmetric\.", f"metric_options.{name}.", str(error))) from None


def _reference_set(reference: Any, samples: DataSet, given: Given | None, cache: Path) -> tuple[DataSet, DataSet]:
    """What is compared with, as data to learn from and data held out; the samples stand for those in a file."""
    if given is not None:
        return samples, samples
    if isinstance(reference, str) and reference in choices.names("data"):
        out: tuple[DataSet, DataSet] = choices.build("data", reference).load()
        return out
    if hasattr(reference, "load"):
        train, held_out = reference.load()
        return train, held_out
    one = _data_set(reference, "reference", cache)
    return one, one


def _given(reference: Samples, n: int | None) -> Given | None:
    """The file of statistics, if it is one."""
    if n is not None:
        n = whole("reference_n", n, 1)
    if not isinstance(reference, str | Path):
        return None
    path = Path(reference).expanduser()
    if path.suffix == ".npz" and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if {"images", "points", "waveforms"} & {*arrays.files}:
                    return None
        except _DAMAGED:
            raise BadInput(f"reference={reference}: it is damaged, or no .npz file.") from None
    return Given(path, n, any_data=True) if path.suffix in (".npz", ".safetensors") else None


def _data_set(samples: Samples, option: str, cache: Path) -> DataSet:
    """Samples as a data set."""
    if isinstance(samples, str | Path):
        path = Path(samples).expanduser()
        if path.is_dir() and (path / "samples.npz").is_file():
            path = path / "samples.npz"
        if path.is_dir():
            return _folder(path, option, cache)
        if not path.is_file():
            known = ", and no data set of conf/data" if option == "reference" else ""
            raise BadInput(f"{option}={samples}: no such folder or file{known}.")
        samples = _array(path, option)
    try:
        array = torch.as_tensor(samples).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        kind = (
            f"an array of {samples.dtype}" if isinstance(samples, np.ndarray) else f"of type {type(samples).__name__}"
        )
        raise BadInput(f"{option}: it is {kind}; allowed are folders, files, and arrays of numbers.") from None
    labels = torch.zeros(len(array) if array.ndim else 0, dtype=torch.int64)
    if array.ndim in (2, 3) and array.is_floating_point() and len(array):
        if not bool(array.isfinite().all()):
            raise BadInput(f"{option}: the array holds values that are not finite.")
        return PointSet(array.float(), labels)
    if array.ndim != 4 or array.dtype != torch.uint8 or not len(array):
        kind = str(array.dtype).removeprefix("torch.")
        raise BadInput(
            f"{option}: an array of shape {list(array.shape)} of {kind}; allowed are uint8 images (N, H, W, C) or "
            "(N, C, H, W), and floats (N, D) or (N, C, L)."
        )
    if array.shape[1] not in (1, 3):
        array = array.permute(0, 3, 1, 2)
    return ImageSet(array.contiguous(), labels)


def _array(path: Path, option: str) -> Any:
    """The array in a file."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            for name in ("images", "points", "waveforms", "arr_0"):
                if name in content.files:
                    return content[name]
    except _DAMAGED:
        raise BadInput(f"{option}={path}: it is damaged, or no .npy or .npz file.") from None
    raise BadInput(f"{option}={path}: it has no array images, points, waveforms or arr_0.")


@dataclass(kw_only=True)
class _Folder(ImageFolder):
    """Image files, of a folder of `sample.py` without the picture of all of them."""

    def records(self) -> FileRecords:
        """The image files."""
        found = super().records()
        if not (found.root / "samples.json").is_file() or _GRID not in found.names:
            return found
        kept = [name for name in found.names if name != _GRID]
        return replace(found, names=Strings(kept), labels=found.labels[: len(kept)], identity=f"{found.identity} -")


def _folder(path: Path, option: str, cache: Path) -> DataSet:
    """The images of a folder, of the size and the colours of the first of them."""
    made = functools.partial(
        _Folder, name=path.name, num_classes=None, validation=0.0, root=str(path), labels="none", cache_dir=str(cache)
    )
    try:
        with made(shape=[3, 1, 1]).records().image(0) as first:
            shape = [1 if first.mode in ("1", "L", "LA", "I;16") else 3, first.height, first.width]
        return made(shape=shape).load()[0]
    except (ValueError, OSError) as error:
        raise BadInput(f"{option}={path}: {str(error).removeprefix(f'data.root={path}: ')}") from None


def _cache(given: str | Path | None) -> Path:
    """The folder of what is computed once."""
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denoiselab"
