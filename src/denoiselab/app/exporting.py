"""Our models in the formats of others."""

from __future__ import annotations

import hashlib
from pathlib import Path

from denoiselab.app.errors import BadInput
from denoiselab.app.run_directory import new_folder
from denoiselab.app.sample import checkpoint_file, load, new_path
from denoiselab.app.settings import SampleSettings
from denoiselab.interop.diffusers import write_pipeline
from denoiselab.training.checkpoints import read_checkpoint
from denoiselab.training.module import CHECKPOINT_KEY


def export(settings: SampleSettings, kind: str) -> Path:
    """Write a model to a new folder in a format of others, and return the folder.

    Args:
        settings: Which model and weights, and where to.
        kind: The format: `diffusers`.

    Raises:
        BadInput: The checkpoint cannot be used, the format cannot hold the model, or the folder is there already.
    """
    path = checkpoint_file(settings)
    model, weights = load(path, settings.weights)
    options = {**read_checkpoint(path)[CHECKPOINT_KEY]["config"]["network"]}
    del options["_target_"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    out = new_path(settings, path, "export", f"{kind}_{weights}_{digest}")
    with new_folder(out) as partial:
        try:
            write_pipeline(partial, model.denoiser, options)
        except ValueError as error:
            raise BadInput(f"export={kind}: {error}") from None
        whole = (partial / "model_index.json").exists()
    what = "pipeline" if whole else "unet and scheduler (DDPMPipeline gives a network no classes)"
    print(f"{what} of diffusers, weights {weights}: {out}")
    return out
