"""How near the reconstructions of a first stage are to images that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.codecs import FirstStageNetwork, VQModel
from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Scorer
from denoiselab.evaluation.restoration import Distance, fidelity
from denoiselab.stored import from_uint8, to_uint8

FILE = "reconstruction.json"

# Whether less is better, of each number that a sweep may optimise.
LOWER_IS_BETTER = {"psnr": False, "ssim": False, "rfd": True, "perceptual": True, "l1": True}


@dataclass(frozen=True)
class Measures:
    """What is measured beside PSNR, SSIM and the mean absolute error.

    Args:
        perceptual: A distance of images `(B, C, H, W)` in [-1, 1].
        scorer: Whose features give the Frechet distance of reconstructions to the same images (rFD).
    """

    perceptual: Distance | None = None
    scorer: Scorer[Any, Any] | None = None


@torch.no_grad()
def reconstruct(network: FirstStageNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstructions by the mode of the latents, `(B, C, H, W)` uint8, and what the images are encoded to.

    Args:
        network: In evaluation mode, on the device of the images.
        images: `(B, C, H, W)` in [-1, 1].
    """
    with torch.autocast(images.device.type, enabled=False):
        kept = network.encode_pixels(images)
        return to_uint8(network.decode(network.encode_latents(kept, None))), kept


@dataclass
class _Sums:
    """Sums over images, of this rank until `joined`."""

    device: torch.device
    names: list[str] = field(default_factory=list)
    sums: Tensor = field(default_factory=lambda: torch.zeros(0))
    codes: Tensor | None = None

    def add(self, values: Mapping[str, Tensor]) -> None:
        self.names = [*values]
        stacked = torch.stack([value.double() for value in values.values()])
        new = torch.stack([stacked.sum(1), stacked.square().sum(1)])
        self.sums = new if not self.sums.numel() else self.sums + new

    def joined(self, n: int) -> dict[str, float]:
        if dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (self.names, self.sums.cpu()))
            filled = [part for part in parts if part[0]]
            self.names, self.sums = filled[0][0], torch.stack([part[1] for part in filled]).sum(0)
            if self.codes is not None:
                dist.all_reduce(self.codes)
        mean, square = (self.sums / n).tolist()
        spread = [
            math.sqrt(max(0.0, s - m * m) / (n - 1)) if n > 1 else math.nan for m, s in zip(mean, square, strict=True)
        ]
        out: dict[str, float] = {}
        for name, value, error in zip(self.names, mean, spread, strict=True):
            out |= {name: value, f"{name}_standard_error": error}
        if self.codes is not None:
            share = self.codes.double() / self.codes.sum()
            out["perplexity"] = float((-torch.special.xlogy(share, share).sum()).exp())
            out["usage"] = float((self.codes > 0).double().mean())
        return out


def measure(
    network: FirstStageNetwork,
    data: DataSet,
    num_samples: int,
    batch_size: int,
    measures: Measures = Measures(),  # frozen
    check: Callable[[Tensor], None] = lambda index: None,
) -> dict[str, Any]:
    """Means over the first images of a data set, which ranks share, with their standard errors.

    Reconstructions are of the mode of the latents, clamped and rounded to bytes before everything is measured. PSNR
    (peak 255) is the mean of that of each image; `l1` is in the range [-1, 1]. `usage` is the share of a codebook's
    entries that the images hit, `perplexity` exp of the entropy of their frequencies.

    Args:
        network: In evaluation mode.
        data: Held-out images.
        num_samples: Fewer if the data are.
        batch_size: Images at a time; it does not change the result.
        measures: What else is measured.
        check: Called with the indices of each batch, after it; an exception stops the measurement.
    """
    device = network.last_layer.device
    n = min(num_samples, len(data))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    first, last = rank * n // world, (rank + 1) * n // world
    sums = _Sums(device)
    if isinstance(network, VQModel):
        sums.codes = torch.zeros(len(network.quantizer.codebook.weight), dtype=torch.int64, device=device)
    both = [] if measures.scorer is None else [measures.scorer.statistics(first) for _ in range(2)]
    for index in torch.arange(first, last).split(batch_size):
        stored = data.stored(index).to(device)
        made, kept = reconstruct(network, data.inputs(index).to(device))
        values = {**fidelity(made, stored), "l1": (from_uint8(made) - from_uint8(stored)).abs().flatten(1).mean(1)}
        if measures.perceptual is not None:
            with torch.no_grad():
                values["perceptual"] = measures.perceptual(from_uint8(stored), from_uint8(made))
        sums.add(values)
        if sums.codes is not None:
            assert isinstance(network, VQModel)
            sums.codes += torch.bincount(network.quantizer.indices(kept).flatten(), minlength=len(sums.codes))
        for statistics, images in zip(both, (made, stored), strict=False):
            statistics.update(images)
        check(index)
    out: dict[str, Any] = {"n": n, **sums.joined(n)}
    if measures.scorer is not None:
        for statistics in both:
            statistics.reduce(device)
        score = measures.scorer.scores(*both)[measures.scorer.metric]
        out |= {"rfd": score.value, "rfd_features": measures.scorer.name, "rfd_sha256": measures.scorer.fingerprint}
    return out
