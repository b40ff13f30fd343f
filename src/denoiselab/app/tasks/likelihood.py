"""The likelihood of a checkpoint's data, with its protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from denoiselab.app.building.loaded import protocol, split_of
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.codecs import Bijection, Identity
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.files import write_csv, write_text
from denoiselab.likelihood import BitsPerDim, Draws, Likelihood, measure
from denoiselab.likelihood.bits_per_dim import rate_distortion, write_rate_distortion
from denoiselab.pretrained import Loaded

# What to choose for bytes, and for real numbers.
_CHOICES = {"dequantisation": ("uniform", "none"), "decoder": ("bytes", "real")}


@dataclass(kw_only=True)
class MeasureLikelihood(task.Task):
    """Measure the likelihood of data in bits/dim, and write it with its protocol to a new folder.

    Args:
        method: How; a choice of task/method.
        split: The data, `held_out` or `train`.
        num_samples: Number of samples of the data, at least 2.
        batch_size: Samples a network call; it does not change the result.
        seed: Of the choice of samples and of all noise.
        repeats: Estimates a sample, averaged.
    """

    method: Likelihood
    split: Literal["held_out", "train"] = "held_out"
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        task.check_ranges(2, num_samples=self.num_samples)  # for a standard error
        task.check_ranges(batch_size=self.batch_size, repeats=self.repeats)
        task.check_seed(self.seed)

    def run(self, asked: SampleSettings) -> Path:
        """Measure, and write `likelihood.json`, `samples.csv`, of a chain its rate-distortion table and picture too."""
        opened = task.open_checkpoint(asked)
        method = self._method_for(opened)
        train, data = self._data(method, opened.loaded)
        kind = type(method).__name__
        short = short_hash([asked.task["method"], opened.sha256, self.repeats])
        name = f"{kind.lower()}_{self.split}_{opened.weights}_seed{self.seed}_n{self.num_samples}_{short}"
        out = opened.new_path(asked, "likelihood", name)
        opened.model.denoiser.to(opened.device).requires_grad_(False)
        with task.working(out, "likelihood", method.fit_images + self.num_samples) as (partial, work):
            method.fit(opened.model, train, self.seed, work.done)
            draws = Draws(self.num_samples, self.batch_size, self.seed, self.repeats)
            result = measure(method, opened.model, data, draws, work.check, work.bar.update)
            record = {
                "value": result.total.value,
                "standard_error": result.total.standard_error,
                "unit": "bits/dim",
                "n": self.num_samples,
                "parts": {part: mean._asdict() for part, mean in result.parts.items()},
                "method": kind,
                "settings": asked.task["method"],
                "nfe": result.nfe,
                "repeats": self.repeats,
                "seed": self.seed,
                "values": method.bins,
                **protocol(opened.loaded, opened.path, opened.sha256, opened.weights, data, self.split, ["torchode"]),
            }
            write_text(partial / "likelihood.json", json.dumps(record, indent=1))
            each = zip(result.indices.tolist(), result.each.tolist(), strict=True)
            write_csv(partial / "samples.csv", [{"index": i, "bits_per_dim": bits} for i, bits in each])
            _write_steps(partial, result, method.bins)
        parts = " + ".join(f"{part} {mean.value:.4f}" for part, mean in result.parts.items())
        console().print(
            f"{result.total.value:.4f} +- {result.total.standard_error:.4f} bits/dim by {kind} ({parts}), n = "
            f"{self.num_samples} of {self.split}, {result.nfe:.4g} network calls each, weights {opened.weights}: {out}"
        )
        return out

    def _method_for(self, opened: task.Opened) -> Likelihood:
        """The method for this model."""
        codec, method = opened.model.codec, self.method
        if not isinstance(codec, Bijection):
            raise BadInput("task=likelihood: it is that of the data, and this model is one of a codec's latents.")
        try:
            if not isinstance(codec, Identity):
                method = method.through(codec)
            method.check(opened.model.denoiser)
        except ValueError as error:
            raise BadInput(f"task.method.{error}") from None
        return method

    def _data(self, method: Likelihood, loaded: Loaded) -> tuple[DataSet, DataSet]:
        """The checkpoint's training data, and those to be measured."""
        train, held_out = loaded.data()
        name = loaded.config["data"]["name"]
        data = split_of(train, held_out, name, self.split, self.num_samples)
        in_bytes = data.stored(torch.arange(1)).dtype == torch.uint8
        if method.bins != (256 if in_bytes else None):
            wanted = f"{method.bins} values" if method.bins else "real numbers"
            found, choice = ("bytes", 0) if in_bytes else ("real numbers", 1)
            part = f"task.method.{method.part}"
            raise BadInput(
                f"{part}: it is for {wanted}, and {name} has {found}; choose "
                f"{method.part}@{part}={_CHOICES[method.part][choice]}."
            )
        return train, data


def _write_steps(folder: Path, result: BitsPerDim, bins: int | None) -> None:
    """The table and the picture of a chain, if it was one."""
    if not result.steps:
        return
    rows = rate_distortion(result, (bins - 1) / 2 if bins else 1.0)
    write_csv(folder / "rate_distortion.csv", rows)
    write_rate_distortion(folder / "rate_distortion.png", rows, result.total)
