"""The UNet of latent diffusion and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence

from denoiselab.networks.checks import Levels
from denoiselab.networks.unet import Plan, UNet


class TextUNet(UNet):
    """Rombach et al.'s UNet: ADM's residual blocks, and transformers over positions that attend to a text's tokens.

    The defaults are Stable Diffusion 1's. Its second version has heads (5, 10, 20, 20) and 1024 token features. Its
    time label is the step 0..T-1. Weights start as torch's layers do, last layers of branches at zero, as in the
    source.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.3
    and appendix E.2.1.

    Args:
        shape: Shape (C, H, W) of an image or latent.
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by a transformer; the middle has one in
            any case.
        depth: Blocks of a transformer: one number, or one a level.
        heads: Heads of each attention: one number, or one a level.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms; they divide the channels of each level.
        token_features: Features of `tokens`.
        num_classes: Classes of `class_label`; None for none.
        null_class: Index `num_classes` stands for no class.
        image_channels: Channels of `image`, which is concatenated to the input, such as an inpainting model's mask
            and known part; None where it is not taken.
        vector_features: Features of `vector`; None where it is not taken.
        outputs: Channels of the output, in units of those of the image; 2 with a learned variance.
        checkpoint_levels: Levels whose activations are computed again in the backward pass, which saves memory, or
            "all"; the middle goes with the last.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, H or W is not divisible by the stride, or
            the channels of a level by `groups` or by the heads.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 320,
        multipliers: Sequence[float] = (1, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (0, 1, 2),
        depth: int | Sequence[int] = 1,
        heads: int | Sequence[int] = 8,
        dropout: float = 0.0,
        groups: int = 32,
        token_features: int = 768,
        num_classes: int | None = None,
        null_class: bool = True,
        image_channels: int | None = None,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
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
            heads=_per_level("heads", heads, len(multipliers)),
            cosine_first=True,
            token_features=token_features,
            depths=_per_level("depth", depth, len(multipliers)),
        )
        super().__init__(plan, num_classes, null_class, outputs)


def _per_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    """One number a level."""
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or min(values, default=1) < 1:
        raise ValueError(f"{name}={value}: it must be a number of at least 1, or {levels} of them, one a level.")
    return values
