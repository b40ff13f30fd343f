"""Our models in the formats of others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from denoiselab.app import build
from denoiselab.app.errors import BadInput
from denoiselab.app.loaded import load
from denoiselab.app.places import checkpoint_file, new_folder, new_path
from denoiselab.app.settings import SampleSettings, parse
from denoiselab.interop.diffusers import write_pipeline

Config = dict[str, Any]


def export(config: Config) -> Path:
    """Write a model to a new folder in the format of others, and return the folder.

    Raises:
        BadInput: The checkpoint cannot be used, the format cannot hold the model, or the folder is there already.
    """
    settings = parse(SampleSettings, config)
    path = checkpoint_file(settings)
    loaded = load(path)
    weights = build.profile_name(settings.weights, loaded.names, "weights")
    options = {key: value for key, value in loaded.config["network"].items() if key != "_target_"}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    out = new_path(settings, path, "export", f"{settings.export}_{weights}_{digest}")
    with new_folder(out) as partial:
        try:
            with loaded.applied(weights):
                write_pipeline(partial, loaded.model.denoiser, options)
        except ValueError as error:
            raise BadInput(f"export={settings.export}: {error}") from None
        whole = (partial / "model_index.json").exists()
    what = "pipeline" if whole else "unet and scheduler (DDPMPipeline gives a network no classes)"
    print(f"{what} of diffusers, weights {weights}: {out}")
    return out
