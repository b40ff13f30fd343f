"""What was spent on a model before it is sampled, in network calls of single images: training and teachers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denoiselab.evaluation.records import Record

# Names of extractors and of timm's models with the same word are taken for the same features.
_FAMILIES = ("dinov2", "inception", "vgg16", "efficientnet_lite0", "clip")


def training_of(directory: Path) -> dict[str, Any]:
    """What `run.json` says of a run's training and of the models that it uses; empty if it cannot be read."""
    try:
        info = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(info, dict):
        return {}
    return {key: info[key] for key in ("data_sha256", "training", "initial", "teacher") if info.get(key)}


def spent(info: Mapping[str, Any], images_seen: int | None) -> dict[str, Any]:
    """Images and network calls of a training up to some images; empty without images.

    `training_images` are its own; `training_calls` those images times the forward calls of the objective;
    `teacher_calls` those of a frozen teacher in this training, or in its pairs; `models_before` what trained the
    teacher and the model that this one started from, and what these learned and started from: their images and their
    teachers' calls, each model once; `before_sampling` the sum, an image counting as a call where it is not known
    better. Of a run that did not record the objective's calls, its own and the sum are None.

    Args:
        info: As of `training_of`.
        images_seen: By the run.
    """
    if not images_seen:
        return {}
    before: dict[str, int] = {}
    left = [info.get("initial"), info.get("teacher")]
    while left:
        if one := left.pop():
            images = int(one.get("images_seen") or 0)
            before[str(one.get("checkpoint_sha256"))] = images + _asked(one.get("teacher"), images)
            left += [one.get("initial"), one.get("teacher")]
    own = info.get("training", {}).get("calls_per_image")
    calls = None if own is None else round(images_seen * own)
    asked, models = _asked(info.get("teacher"), images_seen), sum(before.values())
    return {
        "training_images": images_seen,
        "training_calls": calls,
        "teacher_calls": asked,
        "models_before": models,
        "before_sampling": None if calls is None else calls + asked + models,
    }


def _asked(teacher: Mapping[str, Any] | None, images: int) -> int:
    """Calls of a teacher by what learned from it in so many images."""
    return int((teacher or {}).get("calls", images * (teacher or {}).get("calls_per_image", 0)))


def circular(info: Mapping[str, Any], record: Record) -> str | None:
    """Why a score must not be compared with others: its training saw the extractor's features; else None."""
    scored = str(record.get("extractor")).replace("-", "_").lower()
    for name in info.get("training", {}).get("features", ()):
        if any(word in scored and word in name.replace("-", "_").lower() for word in _FAMILIES):
            return f"trained on features of {name}, by which {record.get('extractor')} scores"
    return None
