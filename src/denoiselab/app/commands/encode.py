"""Data of a checkpoint encoded to x_T and decoded again, with the protocol."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from denoiselab import progress
from denoiselab.app.building import checks
from denoiselab.app.building.analytic_moments import learn
from denoiselab.app.building.loaded import protocol, split_of
from denoiselab.app.config.settings import SampleSettings, parse
from denoiselab.app.runs.paths import checkpoint_file, device_of, new_folder, new_path, short_hash
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation import encoding
from denoiselab.files import atomic, sha256_of, write_text
from denoiselab.instantiate import construct
from denoiselab.media.kinds import medium
from denoiselab.pretrained import read_weights
from denoiselab.samplers import Moment, Sampler
from denoiselab.stored import to_stored
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.interruption import Interruption

Config = dict[str, Any]


def encode(config: Config) -> Path:
    """Encode and decode, and write latents, reconstructions, pairs and `encoding.json` to a new folder.

    Returns:
        The folder.

    Raises:
        BadInput: The checkpoint, its data, the sampler or an option cannot be used.
        Stopped: The run was asked to stop; nothing was written.
    """
    settings = parse(SampleSettings, config)
    assert settings.encode is not None
    sampler: Sampler = construct(settings.sampler, "sampler")
    path = checkpoint_file(settings.ckpt)
    loaded, weights = read_weights(path, settings.weights, data=settings.data)
    model = loaded.model
    checks.check_scales(model, [settings.guidance], f"guidance={settings.guidance}")
    checks.check_sampler(sampler, model, [settings.guidance])
    try:
        sampler.backwards(model.denoiser.schedule)
    except ValueError as error:
        raise BadInput(f"encode={settings.encode}: {error}") from None
    train, held_out = loaded.data()
    name, number = loaded.config["data"]["name"], settings.num_samples
    data = split_of(train, held_out, name, "encode", settings.encode, number)
    checkpoint = sha256_of(path)
    short = short_hash([settings.sampler, checkpoint, settings.format, settings.guidance])
    rule = type(sampler).__name__.lower()
    folder = f"{rule}_steps{sampler.steps}_{settings.encode}_{weights}_seed{settings.seed}_n{number}_{short}"
    out = new_path(settings, path, "encodings", folder)
    model.denoiser.to(device_of(settings.accelerator)).eval()
    with (
        new_folder(out) as partial,
        Interruption() as interruption,
        progress.bar("encoding", 2 * number * sampler.steps, unit="step") as bar,
    ):

        def on_step(moment: Moment) -> None:
            interruption.check()
            bar.update(len(moment.x))

        learn(sampler, model, lambda: train, home_of(path), interruption.check)
        result = encoding.encode(
            model,
            sampler,
            data,
            number,
            settings.batch_size,
            settings.seed,
            settings.guidance,
            on_step,
        )
        mse = result.squared_errors
        rmse = math.sqrt(float(mse.mean()))
        record = {
            "rmse": rmse,
            "rmse_of_samples": {"mean": float(mse.sqrt().mean()), "max": float(mse.sqrt().max())},
            "unit": "the network's range: [-1, 1] of images",
            "n": number,
            "nfe_encode": result.nfe[0],
            "nfe_decode": result.nfe[1],
            "network_evaluations_encode": result.evaluations[0],
            "network_evaluations_decode": result.evaluations[1],
            "latents_std": float(result.latents.std()),
            "sampler": settings.sampler,
            "guidance": settings.guidance,
            "seed": settings.seed,
            **protocol(loaded, path, checkpoint, weights, data, settings.encode),
        }
        kind = medium(model.codec.shape)
        stored = to_stored(result.reconstructions)
        kind.write_samples(partial, stored, settings.format)
        kind.write_pairs(partial / "pairs.png", to_stored(result.x0), stored)
        with atomic(partial / "latents.npz") as file:
            index, labels = result.indices, data.labels[result.indices]
            x_t, rmses = result.latents.numpy(), mse.sqrt().numpy()
            np.savez(file, x_T=x_t, index=index.numpy(), labels=labels.numpy(), rmse=rmses)
        write_text(partial / "encoding.json", json.dumps(record, indent=1))
    console().print(
        f"RMSE {rmse:.4g} of {number} samples of {settings.encode} (images lie in [-1, 1]), {result.nfe[0]} network "
        f"calls to encode and {result.nfe[1]} to decode each, weights {weights}: {out}"
    )
    return out
