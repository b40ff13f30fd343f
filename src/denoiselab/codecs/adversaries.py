"""Discriminators of reconstructions, and their game with an autoencoder.

Source: Esser et al., Taming Transformers, arXiv 2012.09841, section 3.1; Rombach et al., arXiv 2112.10752, appendix G;
Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, arXiv 1611.07004, for patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from denoiselab.networks.checks import check_sizes

# Bounds of the adaptive weight, and what is added to its denominator.
_LARGEST, _ADDED = 1e4, 1e-4


class PatchDiscriminator(nn.Module):
    """Logits of patches: convolutions of stride 2, of which each but the first is followed by a norm.

    Args:
        shape: Shape (C, H, W) of an image.
        channels: Of the first layer; they double at each stride, up to eight times.
        layers: Convolutions of stride 2.
        norm: `group` has no statistics of the batch, so that results do not depend on ranks and accumulation; `batch`
            is LDM's.
        groups: Of the group norms.

    Raises:
        ValueError: If a value is out of range, or images are too small for the layers.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 64,
        layers: int = 3,
        norm: Literal["group", "batch"] = "group",
        groups: int = 8,
    ) -> None:
        super().__init__()
        check_sizes({"channels": channels, "layers": layers, "groups": groups})
        side, least = min(shape[1:]), 3 * 2**layers
        if side < least:
            raise ValueError(
                f"layers={layers}: images of {side} pixels leave no logits, {least} or more do; give fewer layers."
            )
        if norm == "group" and channels % groups:
            raise ValueError(f"groups={groups} must divide channels={channels}.")
        parts: list[nn.Module] = [nn.Conv2d(shape[0], channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for number in range(1, layers + 1):
            wider = channels * min(2**number, 8)
            parts += [
                nn.Conv2d(width, wider, 4, 2 if number < layers else 1, 1, bias=norm == "group"),
                nn.GroupNorm(groups, wider) if norm == "group" else nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.layers = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, 1, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 1, h, w)` of images `(B, C, H, W)`, positive for data."""
        out: Tensor = self.layers(x)
        return out


class Game(NamedTuple):
    """The share of a discriminator in the loss of a batch.

    Attributes:
        value: A float32 scalar: the weighted loss of the autoencoder and the discriminator's own, each with gradients
            in its own parameters only.
        parts: Name to detached scalar, to be logged.
    """

    value: Tensor
    parts: dict[str, Tensor]


class Adversary(nn.Module):
    """A discriminator of data and reconstructions, and how its judgement counts for the autoencoder.

    Both are trained by one backward pass: the autoencoder's term takes the discriminator's parameters as constants, the
    discriminator's own takes the reconstructions so, which equals two separate passes. So the discriminator judges the
    reconstructions of before the autoencoder's step, where LDM's judges those of after it.

    Before `start` nothing of it is computed. The adaptive weight is
    weight x min(|d error / dW| / (|d g / dW| + 1e-4), 10^4), with W the weight of the decoder's last layer, g the
    autoencoder's term and gradients of the batch of all ranks.

    Args:
        discriminator: Logits `(B, 1, h, w)` of images, positive for data.
        weight: Of the autoencoder's term.
        adaptive: Multiply it by the ratio of gradients.
        loss: The discriminator's: `hinge`, or `vanilla` for the logistic loss.
        start: Images seen at which it begins to learn.
        used_from: Images seen at which it begins to count for the autoencoder; None for `start`.
        lr: Factor on the learning rate of the discriminator.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        weight: float = 0.5,
        adaptive: bool = True,
        loss: Literal["hinge", "vanilla"] = "hinge",
        start: int = 0,
        used_from: int | None = None,
        lr: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in {"weight": weight, "start": start, "lr": lr}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: it must be at least 0.")
        if used_from is not None and used_from < start:
            raise ValueError(f"used_from={used_from}: it must be at least start={start}, or null for that.")
        self.discriminator, self.weight, self.adaptive, self.loss, self.lr = discriminator, weight, adaptive, loss, lr
        self.start, self.used_from = start, start if used_from is None else used_from

    def check(self, shape: Sequence[int]) -> None:
        """Check before training that the discriminator takes images `(C, H, W)`.

        Raises:
            ValueError: If it does not.
        """
        with torch.no_grad():
            device = next((p.device for p in self.discriminator.parameters()), torch.device("cpu"))
            try:
                out = self.discriminator(torch.zeros(2, *shape, device=device))
            except RuntimeError as error:
                text = " ".join(str(error).split())
                raise ValueError(
                    f"adversary.discriminator: it does not fit images of {list(shape)} ({text})."
                ) from None
        if not isinstance(out, Tensor) or out.shape[:2] != (2, 1):
            found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"adversary.discriminator={type(self.discriminator).__name__}: it must map images (B, C, H, W) to "
                f"logits (B, 1, h, w); found {found} for two."
            )

    def forward(self, x: Tensor, made: Tensor, error: Tensor, last_layer: Tensor, images_seen: int) -> Game:
        """The game on images `x` and reconstructions `made`, `(B, C, H, W)`.

        Args:
            x: Images.
            made: Reconstructions, with gradients.
            error: The scalar error of reconstruction, with gradients.
            last_layer: W.
            images_seen: In training, before this batch.
        """
        if images_seen < self.start:
            # DistributedDataParallel waits for gradients of all parameters.
            return Game(sum((p.sum() * 0.0 for p in self.discriminator.parameters()), x.new_zeros(())), {})
        real, fake = self.discriminator(x).float(), self.discriminator(made.detach()).float()
        own = (self._losses(real).mean() + self._losses(-fake).mean()) / 2
        parts = {"discriminator": own, "logits_data": real.mean(), "logits_made": fake.mean()}
        if images_seen < self.used_from:
            return Game(own, {name: value.detach() for name, value in parts.items()})
        constant = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        g = -functional_call(self.discriminator, constant, (made,)).float().mean()
        factor = ratio(error, g, last_layer) if self.adaptive else g.new_ones(())
        parts |= {"generator": g, "generator_weight": self.weight * factor}
        return Game(own + self.weight * factor * g, {name: value.detach() for name, value in parts.items()})

    def _losses(self, logits: Tensor) -> Tensor:
        """Losses of logits that should be positive."""
        return F.relu(1 - logits) if self.loss == "hinge" else F.softplus(-logits)


def ratio(error: Tensor, other: Tensor, layer: Tensor) -> Tensor:
    """|d error / d layer| / (|d other / d layer| + 1e-4), at most 10^4: a scalar without gradient.

    Both gradients are means over all ranks, so that the number of ranks does not change the weight.
    """
    grads = torch.stack([torch.autograd.grad(one, layer, retain_graph=True)[0].float() for one in (error, other)])
    if dist.is_initialized():
        dist.all_reduce(grads)
        grads /= dist.get_world_size()
    first, second = grads.flatten(1).norm(dim=1)
    out: Tensor = (first / (second + _ADDED)).clamp(0, _LARGEST).detach()
    return out
