"""A frozen UNet of Stable Diffusion that a trained copy of its encoder controls."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.checks import check_sizes
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.layers import zero_init
from denoiselab.networks.unet_text import TextUNet


class ControlledTextUNet(TextUNet):
    """A `TextUNet`, frozen, whose states a trained copy of its encoder changes as an image says.

    The copy gets the image as features that are added to its first state; its states are added to those of the frozen
    network through convolutions of size 1 that are initialised with zeros, so that training begins at the frozen
    network's output. Start it from that network's run by `init_from`, which makes the copy, too.

    Source: Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, arXiv 2302.05543, section 3.

    Args:
        image_channels: Channels of `image`, which is resized to 2^(number of `hint_channels` - 1) times the input's
            side; the layers of its features halve it as many times.
        hint_channels: Channels of these layers: `(16, 32, 96, 256)` in the source, for latents an eighth of the image.

    Further options and errors are those of `TextUNet`.
    """

    def __init__(
        self, shape: Sequence[int], image_channels: int = 3, hint_channels: Sequence[int] = (16,), **options: Any
    ) -> None:
        super().__init__(shape, **options)
        check_sizes({"image_channels": image_channels, "hint_channels": min(hint_channels, default=0)})
        self.requires_grad_(False)
        self.control = _encoder_of(self)
        first, last = hint_channels[0], hint_channels[-1]
        self.hint = nn.Sequential(nn.Conv2d(image_channels, first, 3, padding=1), nn.SiLU())
        for here, there in pairwise(hint_channels):
            self.hint += nn.Sequential(nn.Conv2d(here, here, 3, padding=1), nn.SiLU())
            self.hint += nn.Sequential(nn.Conv2d(here, there, 3, stride=2, padding=1), nn.SiLU())
        self.hint.append(zero_init(nn.Conv2d(last, self.stem.out_channels, 3, padding=1)))
        self.joins = nn.ModuleList(zero_init(nn.Conv2d(width, width, 1)) for width in self.skips)
        width = self.skips[-1]
        self.join_middle = zero_init(nn.Conv2d(width, width, 1))
        self.factor = 2 ** (len(hint_channels) - 1)
        self.conditioning |= {"image"}

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        if cond.image is None:
            raise ValueError("conditioning: the network needs image, which was not given.")
        size = [self.factor * side for side in x.shape[2:]]
        image = cond.image if list(cond.image.shape[2:]) == size else F.interpolate(cond.image, size, mode="bilinear")
        context, own = (
            self.context(label, cond, between),
            self.control.context(label, cond._replace(image=None), between),
        )
        middle, states = self.encode(x, context)
        changed, changes = self.control.encode(x, own, self.hint(image.to(x.dtype)))
        states = [state + join(change) for state, join, change in zip(states, self.joins, changes, strict=True)]
        return self.decode(middle + self.join_middle(changed), states, context)

    def train(self, mode: bool = True) -> Self:
        """Enable training of what is trained: the frozen network's dropout stays off."""
        super().train(mode)
        for name, part in self.named_children():
            if name not in ("control", "hint", "joins", "join_middle"):
                part.eval()
        return self

    def start(self, frozen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of this network that begins at the state `frozen` of a `TextUNet`, which the copy gets, too."""
        own = {f"control.{name}" for name in self.control.state_dict()}
        copied = {f"control.{name}": tensor for name, tensor in frozen.items() if f"control.{name}" in own}
        return {**self.state_dict(), **frozen, **copied}


def _encoder_of(network: TextUNet) -> TextUNet:
    """A trainable copy of a network without its decoder."""
    encoder = copy.deepcopy(network)
    encoder.__class__ = TextUNet  # it is itself neither frozen nor controlled
    for part in ("up", "norm", "head"):
        delattr(encoder, part)
    return encoder.requires_grad_(True)
