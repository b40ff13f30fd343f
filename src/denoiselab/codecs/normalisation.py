"""Scale and shift of each channel of latents, measured."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.codecs.images import ImageAutoencoder


@torch.no_grad()
def normalisation(autoencoder: ImageAutoencoder, images: Iterable[Tensor]) -> dict[str, list[float]]:
    """The options `scale` and `shift` by which each channel of latents has mean 0 and standard deviation 1.

    The variance of random latents is that of their means plus the mean of their variances, so that nothing is drawn.
    Sums are float64, over all ranks of a process group: each gives its own images, or none.

    Args:
        autoencoder: Its own scale and shift do not matter.
        images: Batches `(B, C, H, W)` in [-1, 1], on its device.

    Raises:
        ValueError: If there are no images, or a channel is not finite or the same everywhere.
    """
    weight = next(autoencoder.parameters())
    sums = torch.zeros(3, autoencoder.latent_shape[0], dtype=torch.float64, device=weight.device)
    for x in images:
        mean, std = autoencoder.gaussian(autoencoder.encode_pixels(x.to(weight)))
        mean, square = mean.double(), mean.double().square()
        square = square if std is None else square + std.double().square()
        sums += torch.stack([part.sum((0, 2, 3)) for part in (torch.ones_like(mean), mean, square)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    count, first, second = sums.cpu()
    if not bool(count.all()):
        raise ValueError("images: there are none, of which scale and shift of latents could be measured.")
    shift = first / count
    variance = second / count - shift.square()
    for channel, value in enumerate(variance.tolist()):
        # What cancellation leaves of a constant is about 1e-16 of its square.
        if not value > 1e-13 * float(shift[channel].square()):
            raise ValueError(f"channel {channel} of the latents is constant or not finite: it has no scale.")
    return {"scale": variance.rsqrt().tolist(), "shift": shift.tolist()}
