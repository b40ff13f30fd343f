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

    Its time label is the step 0..T-1. Weights start as torch's layers do, last layers of branches at zero, as in the
    source. With `image_channels` it is its super-resolution network: the image is resized to the input, bilinearly.

    Sources: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233, section 3; Nichol
    and Dhariwal, Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672, appendix A.

    Args:
        shape: Shape (C, H, W) of an image.
        channels: The unit of `multipliers`.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms; they divide the channels of each level.
        num_classes: Classes of `class_label`; None for none.
        null_class: Index `num_classes` stands for no class.
        image_channels: Channels of `image`, which is concatenated to the input; None where it is not taken.
        vector_features: Features of `vector`; None where it is not taken.
        outputs: Channels of the output, in units of those of the image; 2 with a learned variance.
        checkpoint_levels: Levels whose activations are computed again in the backward pass, which saves memory, or
            "all"; the middle goes with the last.
        heads: Heads of each attention, where `head_channels` is None.
        head_channels: Channels of each head.
        scale_shift: As in `ResidualBlock`.
        block_resampling: Residual blocks halve and double the resolution, instead of convolutions.
        heads_up: Heads of each attention on the way up, where `head_channels` is None; None for `heads`.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, H or W is not divisible by the stride, or
            the channels of a level by `groups` or by the heads.
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
    ) -> None:
        plan = Plan(
            shape=shape,
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention_levels=attention_levels,
            dropout=dropout,
            groups=groups,
            checkpoint_levels=checkpoint_levels,
            image_channels=image_channels,
            vector_features=vector_features,
            heads=heads,
            heads_up=heads_up,
            head_channels=head_channels,
            cosine_first=True,
            scale_shift=scale_shift,
            block_resampling=block_resampling,
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
    """The half of ADM's UNet that classifies noisy images, for classifier guidance.

    Source: Dhariwal and Nichol, arXiv 2105.05233, section 4.1 and appendix; the pooling is the released models'.

    Args:
        shape: Shape (C, H, W) of an image.
        num_classes: Number of classes.
        channels: The unit of `multipliers`.
        multipliers: As in `ADMUNet`.
        blocks: Residual blocks a level.
        attention_levels: As in `ADMUNet`.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms.
        checkpoint_levels: As in `ADMUNet`.
        head_channels: Channels of each head.
        scale_shift: As in `ResidualBlock`.
        block_resampling: As in `ADMUNet`.

    Raises:
        ValueError: As in `ADMUNet`.
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
        plan = Plan(
            shape=shape,
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention_levels=attention_levels,
            dropout=dropout,
            groups=groups,
            checkpoint_levels=checkpoint_levels,
            image_channels=None,
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
