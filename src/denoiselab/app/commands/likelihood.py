"""The likelihood of a checkpoint's data, with its protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from denoiselab import progress
from denoiselab.app.building.loaded import protocol, split_of
from denoiselab.app.config.settings import SampleSettings, parse
from denoiselab.app.runs.paths import checkpoint_file, device_of, new_folder, new_path, short_hash
from denoiselab.codecs import Bijection, Identity
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of, write_csv, write_text
from denoiselab.instantiate import construct
from denoiselab.likelihood import BitsPerDim, Draws, Likelihood, measure
from denoiselab.likelihood.bits_per_dim import rate_distortion, write_rate_distortion
from denoiselab.pretrained import Loaded, read_weights
from denoiselab.training.interruption import Interruption

Config = dict[str, Any]

# What to choose for bytes, and for real numbers.
_CHOICES = {"dequantisation": ("uniform", "none"), "decoder": ("bytes", "real")}


def measure_likelihood(config: Config) -> Path:
    """Measure, and write `likelihood.json` to a new folder, which is returned.

    A chain's folder has its rate-distortion table and picture too.

    Raises:
        BadInput: The checkpoint, its data or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    if settings.num_samples < 2:
        raise BadInput(f"num_samples={settings.num_samples}: a standard error takes at least 2.")
    method: Likelihood = construct(settings.likelihood, "likelihood")
    path = checkpoint_file(settings.ckpt)
    loaded, weights = read_weights(path, settings.weights, data=settings.data)
    model = loaded.model
    if not isinstance(model.codec, Bijection):
        raise BadInput("likelihood: it is that of the data, and this model is one of a codec's latents.")
    train, data = _data(method, settings, loaded)
    try:
        if not isinstance(model.codec, Identity):
            method = method.through(model.codec)
        method.check(model.denoiser)
    except ValueError as error:
        raise BadInput(f"likelihood.{error}") from None
    checkpoint = sha256_of(path)
    short, name = short_hash([settings.likelihood, checkpoint, settings.repeats]), type(method).__name__
    folder = f"{name.lower()}_{settings.split}_{weights}_seed{settings.seed}_n{settings.num_samples}_{short}"
    out = new_path(settings, path, "likelihood", folder)
    model.denoiser.to(device_of(settings.accelerator)).eval().requires_grad_(False)
    with (
        new_folder(out) as partial,
        Interruption() as interruption,
        progress.bar("likelihood", method.fit_images + settings.num_samples) as bar,
    ):

        def on_images(size: int) -> None:
            interruption.check()
            bar.update(size)

        method.fit(model, train, settings.seed, on_images)
        result = measure(
            method,
            model,
            data,
            Draws(settings.num_samples, settings.batch_size, settings.seed, settings.repeats),
            interruption.check,
            bar.update,
        )
        record = {
            "value": result.total.value,
            "standard_error": result.total.standard_error,
            "unit": "bits/dim",
            "n": settings.num_samples,
            "parts": {part: mean._asdict() for part, mean in result.parts.items()},
            "method": name,
            "settings": settings.likelihood,
            "nfe": result.nfe,
            "repeats": settings.repeats,
            "seed": settings.seed,
            "values": method.bins,
            **protocol(loaded, path, checkpoint, weights, data, settings.split, ["torchode"]),
        }
        write_text(partial / "likelihood.json", json.dumps(record, indent=1))
        _write_steps(partial, result, method.bins)
    parts = " + ".join(f"{part} {mean.value:.4f}" for part, mean in result.parts.items())
    console().print(
        f"{result.total.value:.4f} +- {result.total.standard_error:.4f} bits/dim by {name} ({parts}), "
        f"n = {settings.num_samples} of {settings.split}, {result.nfe:.4g} network calls each, weights {weights}: {out}"
    )
    return out


def _data(method: Likelihood, settings: SampleSettings, loaded: Loaded) -> tuple[DataSet, DataSet]:
    """The checkpoint's training data, and those to be measured.

    Raises:
        BadInput: They are not there, too few, or of another kind than the method's.
    """
    train, held_out = loaded.data()
    name = loaded.config["data"]["name"]
    data = split_of(train, held_out, name, "split", settings.split, settings.num_samples)
    in_bytes = data.stored(torch.arange(1)).dtype == torch.uint8
    if method.bins != (256 if in_bytes else None):
        wanted = f"{method.bins} values" if method.bins else "real numbers"
        found, choice = ("bytes", 0) if in_bytes else ("real numbers", 1)
        raise BadInput(
            f"likelihood.{method.part}: it is for {wanted}, and {name} has {found}; "
            f"choose {method.part}@likelihood.{method.part}={_CHOICES[method.part][choice]}."
        )
    return train, data


def _write_steps(folder: Path, result: BitsPerDim, bins: int | None) -> None:
    """The table and the picture of a chain, if it was one."""
    if not result.steps:
        return
    rows = rate_distortion(result, (bins - 1) / 2 if bins else 1.0)
    write_csv(folder / "rate_distortion.csv", rows)
    write_rate_distortion(folder / "rate_distortion.png", rows, result.total)
