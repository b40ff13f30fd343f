"""Reconstructions of data by a trained first stage, with the protocol."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from denoiselab.app.building.loaded import split_of
from denoiselab.app.config.early import check_new
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import checkpoint_file, device_of, short_hash
from denoiselab.app.tasks import task
from denoiselab.cleaning import path_part
from denoiselab.codecs import FirstStageNetwork
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.evaluation.reconstruction import FILE, Measures, measure, reconstruct
from denoiselab.evaluation.restoration import read_lpips
from denoiselab.files import sha256_of, write_text
from denoiselab.media.kinds import medium
from denoiselab.nodes.instantiate import MODEL, check, construct
from denoiselab.rebuilding import rebuild
from denoiselab.trained import FirstStage
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.ema import RAW, Names


@dataclass(kw_only=True)
class Reconstruct(task.Task):
    """Encode images with a first stage and decode them again, and write data | reconstruction, and how near they are.

    Args:
        split: The data, `held_out` or `train`.
        num_samples: The first images of it.
        batch_size: Images at a time; it does not change the result.
        lpips: File of torchvision's AlexNet (alexnet-owt-7be5be79.pth), with which LPIPS is measured; null: it is not.
        format: Of the reconstructions; `png`: a file a sample and a grid; `npz`: one array "images", and a grid.
    """

    split: Literal["held_out", "train"] = "held_out"
    num_samples: int = 64
    batch_size: int = 64
    lpips: str | None = None
    format: Literal["png", "npz"] = "png"

    def __post_init__(self) -> None:
        task.check_ranges(num_samples=self.num_samples, batch_size=self.batch_size)

    def run(self, asked: SampleSettings) -> Path:
        """Reconstruct and write images, pairs and `reconstruction.json`; returns the new folder."""
        path = checkpoint_file(asked.ckpt)
        rebuilt = rebuild(path, data=asked.data)
        model = rebuilt.model
        if not isinstance(model, FirstStage):
            raise BadInput(f"ckpt={path}: it is no first stage; task=encode encodes data to x_T and decodes them.")
        assert not isinstance(asked.weights, list)
        weights = Names([*rebuilt.averages, RAW], rebuilt.basis).chosen(asked.weights, "weights")
        if weights != RAW:
            model.trained.load_state_dict(rebuilt.basis.weights(weights, rebuilt.averages), strict=False)
        check({"data": rebuilt.config["data"]}, MODEL)
        train, held_out = construct(rebuilt.config["data"], "data").load()
        data = split_of(train, held_out, rebuilt.config["data"]["name"], self.split, self.num_samples)
        try:
            distance, digest = (None, None) if self.lpips is None else read_lpips(Path(self.lpips).expanduser())
        except ValueError as error:
            raise BadInput(f"task.lpips={self.lpips}: {error}") from None
        name = f"{self.split}_{weights}_n{self.num_samples}_{short_hash([sha256_of(path), self.format, digest])}"
        out = Path(asked.out) if asked.out else home_of(path) / "reconstructions" / path_part(name)
        check_new(out)
        model.trained.to(device_of(asked.accelerator))
        with task.working(out, "reconstructing", self.num_samples) as (partial, work):
            found = measure(
                model.autoencoder, data, self.num_samples, self.batch_size, Measures(distance),
                lambda index: work.done(len(index)),
            )  # fmt: skip
            record = {
                **found,
                "split": self.split,
                "split_n": len(data),
                "split_sha256": data.fingerprint,
                "data": rebuilt.config["data"]["name"],
                "latents": "mode",
                "weights": weights,
                "images_seen": rebuilt.images_seen,
                "checkpoint_sha256": sha256_of(path),
                **({} if digest is None else {"perceptual_network": "lpips_alex", "perceptual_sha256": digest}),
                "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
            }
            self._write(partial, data, _reconstructions(model.autoencoder, data, self.num_samples, self.batch_size))
            write_text(partial / FILE, json.dumps(record, indent=1))
        console().print(f"PSNR {found['psnr']:.4g} dB of {self.num_samples} images of {self.split}, {weights}: {out}")
        return out

    def _write(self, folder: Path, data: DataSet, made: Tensor) -> None:
        kind = medium(data.shape)
        kind.write_samples(folder, made, self.format)
        kind.write_pairs(folder / "pairs.png", data.stored(torch.arange(len(made))), made)


def _reconstructions(network: FirstStageNetwork, data: DataSet, number: int, batch_size: int) -> Tensor:
    device = network.last_layer.device
    parts = torch.arange(number).split(batch_size)
    return torch.cat([reconstruct(network, data.inputs(part).to(device))[0].cpu() for part in parts])
