"""The loss of first stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.codecs.adversaries import Adversary
from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import FirstStageNetwork
from denoiselab.codecs.regularisers import Regulariser


class Perceptual(Protocol):
    """A distance of images by a network that is not trained; no `nn.Module`, so that no checkpoint has it."""

    def check(self, shape: Sequence[int], /) -> None:
        """Check before training that its weights are there, and that it takes images `(C, H, W)`.

        Raises:
            ValueError: If they are not, or it does not.
        """
        ...

    def __call__(self, x: Tensor, y: Tensor, /) -> Tensor:
        """Distances `(B,)` float32 of images `(B, C, H, W)` in [-1, 1], on their device, with gradients in `y`."""
        ...


class Reconstructed(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: A float32 scalar with gradients.
        parts: Name to detached scalar, to be logged.
    """

    total: Tensor
    parts: dict[str, Tensor]


class ReconstructionLoss(nn.Module):
    """Distance of reconstructions to images, a penalty on latents, and optionally a discriminator.

    The distance of an image is that of its elements plus `perceptual_weight` times the perceptual distance of the image
    at each element. With `reduction: sum`, as LDM's KL models have it, it is summed over the C x H x W elements; with
    `mean`, as its VQ models have it, averaged. Then it is averaged over the batch. With a learned log-variance s it is
    distance / exp(s) + s a element; LDM has that parameter, but gives it to no optimizer, so that s = 0.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, equation 25;
    CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py and vqperceptual.py.

    Args:
        regulariser: Of the latents.
        distance: Of elements: `l1`, or the square by `l2`.
        reduction: Over the elements of an image.
        perceptual: The perceptual distance; None for none.
        perceptual_weight: Its factor.
        adversary: The discriminator; None for none.
        learned_variance: Learn the log-variance s.

    Raises:
        ValueError: If `perceptual_weight` is negative.
    """

    def __init__(
        self,
        regulariser: Regulariser,
        distance: Literal["l1", "l2"] = "l1",
        reduction: Literal["sum", "mean"] = "mean",
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 1.0,
        adversary: Adversary | None = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= perceptual_weight < math.inf:
            raise ValueError(f"perceptual_weight={perceptual_weight}: it must be at least 0 and finite.")
        self.log_variance = nn.Parameter(torch.zeros(())) if learned_variance else None
        self.regulariser, self.adversary = regulariser, adversary
        self.distance, self.reduction, self.perceptual = distance, reduction, perceptual
        self.perceptual_weight = perceptual_weight

    def check(self, network: nn.Module, shape: Sequence[int]) -> None:
        """Check before training that all parts suit an autoencoder of images `(C, H, W)`, and prepare that.

        Raises:
            ValueError: If one does not; the message names the option that does not fit.
        """
        self.regulariser.check(network)
        if self.perceptual is not None:
            self.perceptual.check(shape)
        if self.adversary is not None:
            self.adversary.check(shape)

    def forward(self, network: FirstStageNetwork, x: Tensor, normal: Normal, images_seen: int) -> Reconstructed:
        """The loss of images `(B, C, H, W)` in [-1, 1].

        Args:
            network: The autoencoder in training.
            x: Images.
            normal: Draws the latents.
            images_seen: In training, before this batch.
        """
        made = network.train_pass(x, normal)
        with torch.autocast(x.device.type, enabled=False):
            x, images = x.float(), made.images.float()
            difference = x - images
            each = difference.abs() if self.distance == "l1" else difference.square()
            distances = each.flatten(1).mean(1)
            parts: dict[str, Tensor] = {self.distance: distances.mean().detach()}
            if self.perceptual is not None:
                perceptual = self.perceptual(x, images)
                parts["perceptual"] = perceptual.mean().detach()
                distances = distances + self.perceptual_weight * perceptual
            error = distances.mean()
            if self.log_variance is not None:
                error = error / self.log_variance.exp() + self.log_variance
                parts["log_variance"] = self.log_variance.detach()
            if self.reduction == "sum":
                error = error * math.prod(x.shape[1:])
            penalty = self.regulariser(network, made)
        parts |= penalty.parts
        total = error + penalty.value
        if self.adversary is not None:
            game = self.adversary(x, images, error, network.last_layer, images_seen)
            total, parts = total + game.value, parts | game.parts
        return Reconstructed(total, parts)
