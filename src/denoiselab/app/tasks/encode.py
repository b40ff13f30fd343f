"""Data of a checkpoint encoded to x_T and decoded again, with the protocol."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from denoiselab.app.building.analytic_moments import learn
from denoiselab.app.building.given import SPLITS, Given, given_images
from denoiselab.app.building.loaded import protocol, split_of
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.app.tasks.from_images import check_inversion, span
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.data.loading.stream import IndexStream
from denoiselab.errors import BadInput
from denoiselab.evaluation import encoding
from denoiselab.files import atomic, write_text
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.stored import to_stored


@dataclass(kw_only=True)
class Encode(task.Task):
    """Encode data to x_T with a deterministic sampler and decode them again, and write both with what is lost.

    Args:
        split: The data, `held_out` or `train`.
        images: A folder of images like the model's, in the order of their names, in place of the data; null: none.
        num_samples: Number of samples of the data; of a folder, at most as many as it has.
        batch_size: Samples a network call; it does not change the result.
        seed: Of the choice of samples.
        guidance: Scale of the guider in decoding: of `cfg` 1 is the conditional model.
        inversion_guidance: Scale of `cfg` in encoding. With more than 1 x_T is no standard noise.
        fixed_point: Iterations that invert each step, with as many more calls each; 0 takes a step the other way.
        format: Of the reconstructions; `png`: a file a sample and a grid; `npz`: one array "images", and a grid.
    """

    split: Literal["held_out", "train"] = "held_out"
    images: str | None = None
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    guidance: float = 1.0
    inversion_guidance: float = 1.0
    fixed_point: int = 0
    format: Literal["png", "npz"] = "png"

    def __post_init__(self) -> None:
        task.check_ranges(num_samples=self.num_samples, batch_size=self.batch_size)
        task.check_seed(self.seed)
        task.check_ranges(0, fixed_point=self.fixed_point)
        task.check_finite(self.guidance)
        task.check_finite(self.inversion_guidance, "inversion_guidance")

    def run(self, asked: SampleSettings) -> Path:
        """Encode, decode and write latents, reconstructions, pairs and `encoding.json`; returns the new folder."""
        conditions = {} if asked.conditioner is None else asked.conditioner.given
        opened = task.open_checkpoint(asked, conditions)
        model = opened.model
        guidance = task.guidance_for(asked, self.guidance, opened)
        sampler = task.sampler_for(asked, model, guidance)
        ways = encoding.Ways(guidance, Guidance(self.inversion_guidance), self.fixed_point)
        check_inversion("encode", sampler, model, ways.inversion, self.fixed_point)
        given = self._chosen(opened)
        number, split = len(given), self.split if self.images is None else "folder"
        source = encoding.Source(given.data, given.index, lambda rows: given.conditions(model, rows, asked.conditioner))
        source.conditions(torch.arange(min(number, self.batch_size)))
        own = [self.inversion_guidance, self.fixed_point]
        own = [] if (self.guidance, *own) == (1, 1, 0) else own
        rules = [rule for rule in (guidance.rule, conditions, self.images) if rule]
        short = short_hash([asked.sampler, opened.sha256, self.format, self.guidance, *own, *rules])
        rule = f"{type(sampler).__name__.lower()}_steps{sampler.steps}"
        name = f"{rule}_{split}_{opened.weights}_seed{self.seed}_n{number}_{short}"
        out = opened.new_path(asked, "encodings", name)
        model.denoiser.to(opened.device)
        with task.working(out, "encoding", 2 * number * sampler.steps, "step") as (partial, work):
            learn(sampler, model, lambda: opened.loaded.data()[0], opened.home, work.check)
            result = encoding.encode(
                model, sampler, source, self.batch_size, self.seed, ways, lambda moment: work.done(len(moment.x))
            )
            work.finish()
            rmses = result.squared_errors.sqrt()
            rmse = math.sqrt(float(result.squared_errors.mean()))
            self._write(partial, result, opened, given.data)
            record = {
                "rmse": rmse,
                "rmse_of_samples": span(rmses),
                "unit": "the network's range: [-1, 1] of images",
                "n": number,
                **{
                    f"{name}_{way}": count
                    for way, counts in zip(("encode", "decode"), result.counts, strict=True)
                    for name, count in counts.items()
                },
                "latents_std": float(result.latents.std()),
                "sampler": asked.sampler,
                **guidance.facts,
                **(dict(zip(("inversion_guidance", "fixed_point"), own, strict=True)) if own else {}),
                **({"residual": span(result.residuals)} if self.fixed_point else {}),
                "seed": self.seed,
                **protocol(opened.loaded, opened.path, opened.sha256, opened.weights, given.data, split),
                **({} if self.images is None else {"data": self.images, "given": list(given.names)}),
                **({"conditioner": conditions} if conditions else {}),
            }
            write_text(partial / "encoding.json", json.dumps(record, indent=1))
        calls = [counts["nfe"] for counts in result.counts]
        console().print(
            f"RMSE {rmse:.4g} of {number} samples of {self.images or split} (images lie in [-1, 1]), {calls[0]} "
            f"network calls to encode and {calls[1]} to decode each, weights {opened.weights}: {out}"
        )
        return out

    def _chosen(self, opened: task.Opened) -> Given:
        """The samples, of the run's data by the seed without repetition, or of the folder; those have names."""
        if self.images is not None:
            if self.images in SPLITS:
                raise BadInput(f"task.images={self.images}: it is a folder here; for the run's data give task.split.")
            given = given_images(opened.loaded, self.images)
            number = min(self.num_samples, len(given))
            return replace(given, index=given.index[:number], names=given.names[:number])
        train, held_out = opened.loaded.data()
        data = split_of(train, held_out, opened.loaded.config["data"]["name"], self.split, self.num_samples)
        index = IndexStream(len(data), self.seed)[torch.arange(self.num_samples)]
        return Given(data, index, [], labelled=True)

    def _write(self, folder: Path, result: encoding.Encoded, opened: task.Opened, data: DataSet) -> None:
        """Write the reconstructions, the pairs of data and reconstruction, and the x_T."""
        kind = medium(opened.model.codec.shape)
        stored = to_stored(result.reconstructions)
        kind.write_samples(folder, stored, self.format)
        kind.write_pairs(folder / "pairs.png", to_stored(result.x0), stored)
        index, rmse = result.indices, result.squared_errors.sqrt()
        labels = data.labels[index]
        with atomic(folder / "latents.npz") as file:
            np.savez(file, x_T=result.latents.numpy(), index=index.numpy(), labels=labels.numpy(), rmse=rmse.numpy())
