"""What metrics of captions give for the pictures of these captions, which no sample can be expected to exceed."""

from __future__ import annotations

import math
from typing import Any

import torch

from denoiselab.codecs import Identity
from denoiselab.console import console
from denoiselab.data import DataSet, rows_of
from denoiselab.evaluation import Measure
from denoiselab.model import Model
from denoiselab.stored import to_stored

_BATCH = 64  # images at a time
_SHOWN = 16  # samples of a cell's picture

Controls = dict[str, dict[str, float]]


@torch.no_grad()
def controls(model: Model, measure: Measure, data: DataSet, number: int) -> Controls:
    """Scores of pictures of the data, as `data`, and of what the codec makes of them, as `reconstructed`.

    Args:
        model: Whose samples have the captions of the data, in turn.
        measure: Its metrics read classes, pictures or texts of samples; else there are no controls.
        data: The data.
        number: Of samples of a cell.
    """
    scorer, reference, split = measure.scorer, measure.reference, model.conditioner.pictures
    if split is None or not len(data):
        return {}
    of: dict[str, Any] = {}
    if getattr(scorer, "reads_classes", False):
        of["classes"] = lambda index: data.labels[rows_of(index, len(data), split)]
    if getattr(scorer, "reads_pictures", False):
        of["pictures"] = split
    if getattr(scorer, "reads_texts", False) and (captions := data.captions) is not None:
        of["texts"] = lambda index: [captions[row] for row in rows_of(index, len(data), split).tolist()]
    if not of:
        return {}
    out, index = {}, torch.arange(min(number, len(data)))
    for name in ("data",) if isinstance(model.codec, Identity) else ("data", "reconstructed"):
        statistics = scorer.statistics(0, 1, **of)
        for rows in rows_of(index, len(data), split).split(_BATCH):
            images = data.stored(rows)
            if name == "reconstructed":
                kept = model.codec.encode_pixels(data.inputs(rows).to(model.device))
                images = to_stored(model.codec.decode(model.codec.encode_latents(kept, torch.zeros)))
            statistics.update(images.to(model.device))
        found = {title: score.value for title, score in scorer.scores(statistics, reference).items()}
        out[name] = {title: value for title, value in found.items() if math.isfinite(value)}
    return out


def tell(found: Controls, split: str | None, number: int) -> None:
    """Say what the pictures themselves have."""
    words = {
        "data": f"{number:,} {str(split).replace('_', '-')} pictures",
        "reconstructed": "the same through the codec",
    }
    for name, scores in found.items():
        told = ", ".join(f"{title} {value:.3f}" for title, value in scores.items())
        console(stderr=True).print(f"{words[name]}: {told}")


def columns(model: Model) -> dict[str, list[str]]:
    """The prompts that samples have in turn, the columns of pictures on the page; empty without, or if many."""
    strata = model.conditioner.strata
    if getattr(model.conditioner, "prompts", None) is None or not 1 < strata <= _SHOWN:
        return {}
    return {"columns": model.conditioner.described(torch.arange(strata)) or []}
