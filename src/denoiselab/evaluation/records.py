"""Records of cells: which can be compared, and by what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Record = dict[str, Any]

# Cells that agree in all of these, in the number of samples or the rule by which it was decided, and in the versions of
# other packages, have comparable scores. The code of this package has a digest of its own.
_MEASURED = ("data", "split", "metric", "metrics", "seed", "first", "extractor_sha256", "reference_sha256")


def comparable(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for scores that can be compared: `measured`, and the length of training."""
    return (json.dumps(record.get("images_seen")), *measured(record))


def measured(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Equal for scores on the same scale."""
    versions = {name: version for name, version in record.get("versions", {}).items() if name != "denoiselab"}
    samples = record.get("stop") or record.get("n")
    return tuple(json.dumps(value, sort_keys=True) for value in (*map(record.get, _MEASURED), samples, versions))


def rule(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for all cells of a line in the chart: the model, and the sampler's settings except steps."""
    settings = json.dumps({**record.get("settings", {}), "steps": None}, sort_keys=True)
    keys = ("model_sha256", "weights_sha256", "classifier_sha256")
    return *(record.get(key) for key in keys), settings


def finished(records: Iterable[Record]) -> list[Record]:
    """The records that have a score."""
    return [record for record in records if record["score"] is not None]


def loss(record: Record) -> float:
    """The score of a finished record, its sign changed where more is better."""
    return float(record["score"] if lower_is_better(record) else -record["score"])


def lower_is_better(record: Record) -> bool:
    """Of the primary metric."""
    primary = (record.get("scores") or {}).get(record.get("metric"), {})
    return bool(primary.get("lower_is_better", True))
