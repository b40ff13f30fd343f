"""The score of a codec's reconstructions, which no sampler of its latents can be expected to beat."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from denoiselab import progress
from denoiselab.app.runs.devices import is_leader
from denoiselab.codecs import Autoencoder, Codec
from denoiselab.data import DataSet
from denoiselab.evaluation import Measure
from denoiselab.evaluation.ranks import REFUSALS
from denoiselab.files import read_json, write_json
from denoiselab.frozen.autoencoders import FolderCodec
from denoiselab.frozen.folders import sha256_of
from denoiselab.model import Model
from denoiselab.stored import to_stored

NAME = "codec_score.json"

_BATCH = 64


@torch.no_grad()
def codec_score(model: Model, held_out: DataSet, measure: Measure, num_samples: int, folder: Path) -> dict[str, Any]:
    """The primary score of as many reconstructed held-out images as a cell has samples, or of all if they are fewer.

    Latents are means of the posterior. A Frechet distance is the larger the fewer images there are, so a value of
    fewer images than a cell's is a bound of nothing; `codec_n` says of how many it is.

    Args:
        model: Whose codec is scored.
        held_out: Held-out images.
        measure: As of the cells.
        num_samples: Of a cell.
        folder: Where the value is kept in a file; it is computed once for each codec, measure and number.

    Returns:
        `codec_score` and `codec_n`, for records; empty without an autoencoder, held-out images, or a finite score.
    """
    codec: Codec = model.codec
    n = min(num_samples, len(held_out))
    if not isinstance(codec, Autoencoder) or n < 2:
        return {}
    scorer, reference = measure.scorer, measure.reference
    asked = {
        "codec": sha256_of(codec.folder) if isinstance(codec, FolderCodec) else type(codec).__name__,
        "options": {key: repr(value) for key, value in sorted(getattr(codec, "options", {}).items())},
        "tile": codec.tile,
        "held_out": held_out.fingerprint,
        "metric": scorer.metric,
        "extractor": scorer.fingerprint,
        "reference": reference.fingerprint,
        "n": n,
    }
    path = folder / NAME
    try:
        kept = read_json(path)
    except (OSError, ValueError):
        kept = {}
    key = json.dumps(asked, sort_keys=True)
    if key not in kept:
        statistics = scorer.statistics()
        with progress.bar("codec", n, shown=is_leader()) as bar:
            for index in torch.arange(n).split(_BATCH):
                x = held_out.inputs(index).to(model.device)
                mean = codec.encode_latents(codec.encode_pixels(x), torch.zeros)
                statistics.update(to_stored(codec.decode(mean)))
                bar.update(len(index))
        try:
            value = float(scorer.scores(statistics, reference)[scorer.metric].value)
        except REFUSALS:  # as a cell of so few samples would
            value = math.nan
        kept[key] = {"value": value if math.isfinite(value) else None, **asked}
        if dist.is_initialized():
            dist.barrier()
        if is_leader():
            write_json(path, kept)
    value = kept[key]["value"]
    return {} if value is None else {"codec_score": value, "codec_n": n}
