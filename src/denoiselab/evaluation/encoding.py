"""Data to x_T and back by one deterministic sampler, and the reconstruction error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.data import DataSet, clean
from denoiselab.guidance import Guidance
from denoiselab.model import Model, check_finite
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import OnStep, Sampler, Tally
from denoiselab.samplers.inversion import invert
from denoiselab.samplers.observers import mean_count


@dataclass(frozen=True)
class Source:
    """What is encoded.

    Args:
        data: That holds the samples.
        index: `(N,)` int64, their positions in it.
        conditions: Of samples `(B,)`, counted from 0 to N - 1.
    """

    data: DataSet
    index: Tensor
    conditions: Callable[[Tensor], Conditioning]


class Encoded(NamedTuple):
    """Samples of a data set, encoded and decoded.

    Attributes:
        indices: `(N,)` int64, positions in the set.
        x0: `(N, *)` float32, the samples in the network's range.
        latents: `(N, *)` float32, their x_T, of the denoiser's shape.
        reconstructions: `(N, *)` float32, sampled from the x_T.
        counts: Of `Tally`, a sample: to encode, and to decode.
        residuals: `(N,)` float64, those of the inversion (`invert`).
    """

    indices: Tensor
    x0: Tensor
    latents: Tensor
    reconstructions: Tensor
    counts: tuple[dict[str, float], dict[str, float]]
    residuals: Tensor

    @property
    def squared_errors(self) -> Tensor:
        """Mean over each sample's elements of the reconstruction's squared error, `(N,)` float64."""
        return (self.reconstructions.double() - self.x0.double()).flatten(1).square().mean(1)


@dataclass(frozen=True)
class Ways:
    """How data are encoded and decoded.

    Args:
        guidance: In decoding.
        inversion: In encoding. More than 1 leads to an x_T that is no standard noise.
        fixed_point: Iterations that invert each step; 0 for a step the other way.
    """

    guidance: Guidance = Guidance()
    inversion: Guidance = Guidance()
    fixed_point: int = 0


def encode(
    model: Model,
    sampler: Sampler,
    source: Source,
    batch_size: int,
    seed: int,
    ways: Ways = Ways(),
    on_step: OnStep = lambda moment: None,
) -> Encoded:
    """Encode samples of a data set, and decode them.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, section 5.4.

    Args:
        model: In evaluation mode; the error includes that of its codec.
        sampler: A deterministic one, with its own number of steps both ways.
        source: The samples.
        batch_size: Samples a network call.
        seed: Of the noise of a codec that draws latents.
        ways: Guidance and refinement.
        on_step: Called after each step; an exception stops the run.

    Raises:
        ValueError: If the sampler cannot encode, guidance has no effect, or a result is not finite.
    """
    device, schedule, codec = model.device, model.denoiser.schedule, model.codec
    rows: list[tuple[Tensor, ...]] = []
    counts = Counter[str](), Counter[str]()
    n = len(source.index)
    for row in torch.arange(n).split(batch_size):
        index = source.index[row]
        known, at = clean(source.data, index, device), index.to(device)
        cond, tallies = source.conditions(row), (Tally(), Tally())
        there, back = (
            tally.counted(model.bound(at, guidance, cond, tally))
            for guidance, tally in zip((ways.inversion, ways.guidance), tallies, strict=True)
        )
        noise = Noise(seed, at, SAMPLING)
        z = codec.encode_latents(codec.encode_pixels(known.images), noise.normal)
        x_t, residual = invert(sampler, there, schedule, z, ways.fixed_point, on_step=on_step)
        x0 = codec.decode(sampler(back, schedule, codec.latent_shape, noise, start=x_t, on_step=on_step))
        name = type(sampler).__name__
        check_finite(x_t, index.to(device), f"the x_T by {name} is not finite")
        check_finite(x0, index.to(device), f"the reconstructions by {name} is not finite")
        for total, tally in zip(counts, tallies, strict=True):
            total.update(tally.counts)
        rows.append(tuple(part.cpu() for part in (known.images, x_t, x0, residual)))
    parts = [torch.cat(part) for part in zip(*rows, strict=True)]
    there_mean, back_mean = ({name: mean_count(rows, n) for name, rows in total.items()} for total in counts)
    return Encoded(source.index, parts[0], parts[1], parts[2], (there_mean, back_mean), parts[3])
