"""What has been drawn of a cell, which may need more samples, and its file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Influences
from denoiselab.files import atomic, zip_is_whole


class Drawn(NamedTuple):
    """A cell at n samples, those of index 0 to n - 1.

    Attributes:
        n: Number of samples.
        record: Its measurements.
        counts: Of `Tally`, summed over samples.
        influences: Of its scores, by metric.
        first: Its first samples, on the first rank.
        statistics: A state of `Growing`, on the first rank, by which more samples are added; empty if it was not asked.
    """

    n: int = 0
    record: Mapping[str, Any] = {}
    counts: Mapping[str, int] = {}
    influences: Mapping[str, Influences] = {}
    first: Tensor = torch.empty(0)
    statistics: Mapping[str, Tensor] = {}


def write(path: Path, drawn: Drawn) -> None:
    """Write a cell, atomically.

    Raises:
        OSError: If it cannot be written.
    """
    influences = {metric: dict(vars(one)) for metric, one in drawn.influences.items()}
    content = {**drawn._asdict(), "record": json.dumps(drawn.record), "influences": influences}
    with atomic(path) as file:
        torch.save(content, file)


def read(path: Path) -> Drawn:
    """A cell from its file, its tensors mapped; nothing drawn if the file is missing or, with a warning, damaged."""
    if not path.is_file():
        return Drawn()
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if zip_is_whole(path) else {}
        influences = {metric: Influences(**one) for metric, one in content["influences"].items()}
        return Drawn(**{**content, "record": json.loads(content["record"]), "influences": influences})
    except Exception:  # a hostile pickle fails with any error
        warnings.warn(f"{path}: damaged, or no cell of a frontier; its samples are drawn again", stacklevel=2)
        return Drawn()
