"""The UNet of DDPM."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import SelfAttention
from denoiselab.networks.checks import Levels, check_sizes
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.layers import ResidualBlock, zero_init
from denoiselab.networks.unet import Plan, UNet


class DDPMUNet(UNet):
    """Ho et al.'s UNet: residual blocks with group norm and swish, self-attention at chosen levels.

    Weights are initialised uniformly with variance 2 / (fan_in + fan_out), biases and the last layers of branches with
    zeros, as in the source. diffusers' `UNet2DModel` has other options: `norm_eps` 1e-5, `frequency_shift` 0,
    `head_channels` 8, `symmetric` padding, no null class.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, arXiv 2006.11239, appendix B.

    Args:
        head_channels: Channels of each head of attention; None for one head.
        norm_eps: Added to the variance in the group norms.
        frequency_shift: As in `SinusoidalEmbedding`.
        symmetric: As in `Downsample`.
        middle_attention: Have attention in the middle.
        patch: Side of the squares of pixels that become channels before the first level, and pixels again after the
            last; 2 halves the cost of a step. Not in the source.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.1,
        groups: int = 32,
        num_classes: int | None = None,
        null_class: bool = True,
        image_channels: int | None = None,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        head_channels: int | None = None,
        norm_eps: float = 1e-6,
        frequency_shift: int = 1,
        symmetric: bool = False,
        middle_attention: bool = True,
        patch: int = 1,
        second_time: bool = False,
    ) -> None:
        check_sizes({"patch": patch})
        if patch > 1 and image_channels is not None:
            raise ValueError(f"image_channels={image_channels}: an image is concatenated only with patch=1.")
        if len(shape) == 3:
            if any(size % patch for size in shape[1:]):
                raise ValueError(f"patch={patch}: it does not divide images of {shape[1]}x{shape[2]}.")
            shape = (shape[0] * patch**2, shape[1] // patch, shape[2] // patch)
        sizes = (shape, channels, multipliers, blocks, attention_levels, dropout, groups)
        plan = Plan(
            *(*sizes, checkpoint_levels, image_channels, vector_features),
            head_channels=head_channels,
            norm_eps=norm_eps,
            frequency_shift=frequency_shift,
            symmetric=symmetric,
            middle_attention=middle_attention,
            second_time=second_time,
        )
        super().__init__(plan, num_classes, null_class, outputs)
        self.patch = patch
        self.apply(_initialize)
        zero_init(self.head)
        if self.between is not None:
            zero_init(self.between[-1])

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        if self.patch == 1:
            return super().forward(x, label, cond, between)
        return F.pixel_shuffle(super().forward(F.pixel_unshuffle(x, self.patch), label, cond, between), self.patch)


def _initialize(module: nn.Module) -> None:
    """Initialise a module as Ho et al. do; its children come before it."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        zero_init(module.conv_out)
    elif isinstance(module, SelfAttention):
        for weight in module.qkv.weight.chunk(3):  # layers of their own there
            nn.init.xavier_uniform_(weight)
        zero_init(module.out)
