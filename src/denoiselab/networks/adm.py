"""The UNet of ADM and improved DDPM, and ADM's classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import attend, head_count
from denoiselab.networks.checks import Levels, check_sizes
from denoiselab.networks.layers import NormSiLU
from denoiselab.networks.unet import Context, Encoder, Plan, UNet


class ADMUNet(UNet):
    """Dhariwal and Nichol's UNet, and with `block_resampling=False` and `heads=4` Nichol and Dhariwal's before it.

    The time label is the step 0..T-1. Layers are initialised as torch's are, the last ones of branches with zeros, as
    in the source. With `image_channels` it is the source's super-resolution network.

    Sources: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233, section 3; Nichol
    and Dhariwal, Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672, appendix A.

    Args:
        heads: Heads of each attention, if `head_channels` is None.
        head_channels: Channels of each head.
        scale_shift: As in `ResidualBlock`.
        block_resampling: Residual blocks halve and double the resolution, instead of convolutions.
        heads_up: Heads of each attention on the way up, if `head_channels` is None; None for `heads`.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 192,
        multipliers: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 3,
        attention_levels: Sequence[int] = (1, 2, 3),
        dropout: float = 0.1,
        groups: int = 32,
        num_classes: int | None = None,
        null_class: bool = True,
        image_channels: int | None = None,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        heads: int = 1,
        head_channels: int | None = 64,
        scale_shift: bool = True,
        block_resampling: bool = True,
        heads_up: int | None = None,
        second_time: bool = False,
    ) -> None:
        sizes = (shape, channels, multipliers, blocks, attention_levels, dropout, groups)
        plan = Plan(
            *(*sizes, checkpoint_levels, image_channels, vector_features),
            heads=heads,
            heads_up=heads_up,
            head_channels=head_channels,
            cosine_first=True,
            scale_shift=scale_shift,
            block_resampling=block_resampling,
            second_time=second_time,
        )
        super().__init__(plan, num_classes, null_class, outputs)


class AttentionPool(nn.Module):
    """Features of an image: attention of the mean of all positions over the mean and the positions.

    Source: Radford et al., CLIP, arXiv 2103.00020, section 2.4.

    Args:
        positions: Their number, HW.
        channels: Of the input.
        heads: Number of heads.
        outputs: Features of the output.
    """

    def __init__(self, positions: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, outputs)`."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        tokens = torch.cat((tokens.mean(1, keepdim=True), tokens), dim=1) + self.position
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        out: Tensor = self.out(attend(q[:, :, :1], k, v)[:, 0])
        return out


class ADMClassifier(Encoder):
    """A classifier of noisy images, for classifier guidance: the downward half of ADM's UNet and attention pooling.

    Source: Dhariwal and Nichol, arXiv 2105.05233, section 4.1 and appendix; the pooling is the released models'.

    Args:
        shape: Shape (C, H, W) of an image.
        num_classes: Number of classes.
        head_channels: Channels of each head.
        scale_shift: As in `ResidualBlock`.
        block_resampling: Residual blocks halve the resolution, instead of convolutions.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        channels: int = 128,
        multipliers: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 4,
        attention_levels: Sequence[int] = (1, 2, 3),
        dropout: float = 0.0,
        groups: int = 32,
        checkpoint_levels: Levels = (),
        head_channels: int = 64,
        scale_shift: bool = True,
        block_resampling: bool = True,
    ) -> None:
        check_sizes({"num_classes": num_classes})
        sizes = (shape, channels, multipliers, blocks, attention_levels, dropout, groups)
        plan = Plan(
            *sizes,
            checkpoint_levels,
            head_channels=head_channels,
            cosine_first=True,
            scale_shift=scale_shift,
            block_resampling=block_resampling,
        )
        super().__init__(plan)
        self.norm = NormSiLU(groups, plan.widths[-1], plan.norm_eps)
        positions = shape[1] * shape[2] // 4 ** (len(multipliers) - 1)
        heads = head_count(plan.widths[-1], head_channels=head_channels)
        self.pool = AttentionPool(positions, plan.widths[-1], heads, num_classes)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map `x` `(B, C, H, W)` and time labels `(B,)` to logits `(B, num_classes)`."""
        h, _ = self.encode(x, Context(F.silu(self.time(label))))
        out: Tensor = self.pool(self.norm(h))
        return out
