"""Records of cells: which can be compared, and by what."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

Record = dict[str, Any]

# Cells that agree in all of these, in the number of samples or the rule by which it was decided, and in the versions of
# other packages, have comparable scores. The code of this package has a digest of its own.
_MEASURED = ("data", "split", "metric", "metrics", "seed", "first", "extractor_sha256", "reference_sha256")


# What is said of guidance that depends on the number of steps.
STRENGTH = "its strength grows with the number of steps, so that cells at different NFE sample different distributions."


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


def evaluations(record: Mapping[str, Any]) -> float:
    """Network evaluations a sample, of the model and of a guide, whatever the guide's size: the cost of a cell."""
    spent: float = record["network_evaluations"] + (record.get("guide_evaluations") or 0)
    return spent


def guidance_text(record: Mapping[str, Any], *, always: bool = False) -> str:
    """The guidance of a cell in short, `scale=3 apg interval (0.19, 1.61]`; nothing for the conditional model.

    Args:
        record: Of the cell, or another mapping with its `guidance` and `guider`.
        always: Whether a scale of 1 is said too.
    """
    scale, guider = record.get("guidance"), record.get("guider") or {}
    words = [f"scale={1 if scale is None else scale:g}"] if always or guider or scale not in (None, 1) else []
    options = {key: value for key, value in guider.items() if key not in ("name", "depends_on_nfe")}
    words += [str(guider["name"])] if guider.get("name", "cfg") != "cfg" else []
    return " ".join([*words, *(_option_text(key, value) for key, value in options.items())])


def depends_on_nfe(record: Mapping[str, Any]) -> bool:
    """Whether guidance of the cell grows stronger with the number of steps; `STRENGTH` says so."""
    return bool((record.get("guider") or {}).get("depends_on_nfe"))


def _option_text(key: str, value: Any) -> str:
    if key == "interval" and isinstance(value, list) and len(value) == 2:
        low, high = (end if isinstance(end, str) else f"{end:g}" for end in value)
        return f"interval ({low}, {high}]"
    if isinstance(value, Mapping):
        words = (value.get("name"), str(value.get("weights_sha256", ""))[:8], value.get("weights"))
        return " ".join([key, *(str(word) for word in words if word)])
    return f"{key}={f'{value:g}' if isinstance(value, float) else value}"


def beside(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores that are computed beside the metrics of a guided cell, by name, those that have a value."""
    scores = {name: (record.get("scores") or {}).get(name) for name in record.get("beside") or {}}
    return {name: score for name, score in scores.items() if score and score["value"] is not None}


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


def in_json(tree: Any) -> Any:
    """A copy of a tree of plain containers, in which infinite numbers, which JSON has not, are words."""
    if isinstance(tree, list):
        return [in_json(value) for value in tree]
    if isinstance(tree, Mapping):
        return {key: in_json(value) for key, value in tree.items()}
    return str(tree) if isinstance(tree, float) and math.isinf(tree) else tree
