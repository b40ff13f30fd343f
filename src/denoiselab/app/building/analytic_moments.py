"""Measurements of a model that samplers need before they run, stored in the run's directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab import progress
from denoiselab.data import DataSet, clean
from denoiselab.denoiser import Prediction
from denoiselab.files import read_json, write_json
from denoiselab.model import Model, digest
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import Measurement, Moments, Sampler
from denoiselab.schedules import Level

FOLDER = "moments"

# Indices of the measurement's draws, above those of all samples.
_FIRST_INDEX = 2**41


def learn(
    sampler: Sampler,
    model: Model,
    images: Callable[[], DataSet],
    directory: Path,
    check: Callable[[object], None],
    *,
    writes: bool = True,
) -> str | None:
    """Set `sampler.measurement.moments` if the sampler declares a measurement; returns their sha256, else None.

    The moments are read from `directory/moments/`, or measured with the current weights on the first training images
    and, if `writes`, stored there. `check` is called after each level; an exception stops the measurement.

    Raises:
        ValueError: If the data cannot be loaded, the moments are not finite, or the sampler was fitted to others.
    """
    sampler.check_weights(lambda: digest(model.denoiser))
    if sampler.measurement is None:
        return None
    asked: dict[str, Any] = {
        "weights": digest(model.denoiser),
        "levels": sampler.measurement.levels,
        "samples": sampler.measurement.samples,
    }
    if sampler.threshold is not None:
        own = {name: value for name, value in vars(sampler.threshold).items() if name != "keep_eps"}  # not of x0
        own = {name: value for name, value in own.items() if (name, value) != ("most", None)}  # as before it was there
        asked["threshold"] = [type(sampler.threshold).__name__, own]
    path = directory / FOLDER / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.json"
    try:
        stored = read_json(path)
        moments = Moments(*(torch.tensor(stored[name], dtype=torch.float64) for name in Moments._fields))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        data = images()
        with progress.bar("moments", sampler.measurement.levels, unit="level", shown=writes) as bar:

            def after(moment: object) -> None:
                bar.update(1)
                check(moment)

            moments = _measured(sampler, sampler.measurement, model, data, after)
        if not torch.cat(tuple(moments)).isfinite().all():
            raise ValueError("the model's moments are not finite; has its training diverged?") from None
        if writes:
            facts = {**asked, "data_sha256": data.fingerprint}
            write_json(path, {**facts, **{k: v.tolist() for k, v in moments._asdict().items()}})
    sampler.measurement.moments = moments
    values = torch.cat(tuple(moments)).numpy().tobytes()
    return hashlib.sha256(values).hexdigest()


def _measured(
    sampler: Sampler, measurement: Measurement, model: Model, data: DataSet, check: Callable[[object], None]
) -> Moments:
    device = model.device
    index = torch.arange(min(measurement.samples, len(data)))
    known = clean(data, index, device)
    noise = Noise(0, _FIRST_INDEX + index.to(device), SAMPLING)
    x0 = model.codec.encode_latents(model.codec.encode_pixels(known.images), noise.normal)
    cond = model.conditioner.given(known)

    def denoise(x: Tensor, level: Level, rows: Tensor) -> Prediction:
        part = Conditioning(*(None if field is None else field[rows] for field in cond))
        out: Prediction = model.denoiser(x, level, part)
        return out

    with model.evaluating():
        return measurement.measure(
            denoise,
            model.denoiser.schedule,
            x0,
            noise,
            threshold=sampler.threshold,
            first_lam=sampler.spacing.first_lam,
            check=check,
        )
