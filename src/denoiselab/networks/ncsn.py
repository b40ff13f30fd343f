"""The RefineNets of NCSN, whose label is the index of the noise level, and of NCSNv2, which has no label."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.base import ConditionalNetwork
from denoiselab.networks.checks import Levels, check_image, check_multipliers, check_sizes, checkpointed_levels
from denoiselab.networks.conditioning import Conditioning, check_conditioning, taken
from denoiselab.networks.layers import join_image, run
from denoiselab.networks.ncsn_layers import (
    ConditionalInstanceNormPlus,
    InstanceNormPlus,
    NoNorm,
    Norm,
    RefineNetBlock,
    Refiner,
)


class _RefineNet(ConditionalNetwork):
    """Residual blocks at falling resolution or with growing dilation, refined from the deepest on.

    Source: Lin et al., RefineNet, arXiv 1611.06612, with the changes of Song and Ermon, arXiv 1907.05600, appendix A.

    Args:
        multipliers: Channels of each level of resolution or dilation, as multiples of `channels`.
        dilations: Of the convolutions of each level; a level after the first with dilation 1 halves the resolution.
        norm: Makes the norm of a number of channels, in the residual blocks and at the end.
        refine_norm: Makes the norms of the refining blocks.
        pool: The pooling of the refining blocks, of size 5 and stride 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        multipliers: Sequence[int],
        dilations: Sequence[int],
        norm: Norm,
        refine_norm: Norm,
        pool: nn.Module,
        image_channels: int | None,
        outputs: int,
        checkpoint_levels: Levels,
    ) -> None:
        super().__init__()
        check_multipliers(multipliers)
        check_sizes({"outputs": outputs, "image_channels": image_channels})
        check_sizes({f"dilations[{i}]": dilation for i, dilation in enumerate(dilations)})
        if channels < 2:
            raise ValueError(f"channels={channels}: it must be at least 2, as the norms compare channels.")
        if len(dilations) != len(multipliers) or dilations[0] != 1:
            raise ValueError(
                f"dilations={list(dilations)}: one for each of multipliers={list(multipliers)}, the first 1."
            )
        stride = 2 ** (list(dilations).count(1) - 1)
        check_image(type(self).__name__, shape, stride, f"dilations={list(dilations)}")
        if shape[1] == shape[2] == stride:
            raise ValueError(f"dilations={list(dilations)}: they leave one pixel, of which the norms make 0.")
        self.conditioning = taken(image=image_channels)
        self.checkpoint_levels = checkpointed_levels(len(multipliers), checkpoint_levels)
        widths = [channels * m for m in multipliers]
        self.stem = nn.Conv2d(shape[0] + (image_channels or 0), channels, 3, padding=1)
        self.levels, self.refiners = nn.ModuleList(), nn.ModuleList()
        width = channels
        for level, (level_width, dilation) in enumerate(zip(widths, dilations, strict=True)):
            first = RefineNetBlock(
                width, level_width, dilation, norm, down=level > 0 and dilation == 1, deepens=level > 0
            )
            self.levels.append(nn.ModuleList([first, RefineNetBlock(level_width, level_width, dilation, norm)]))
            width = level_width
        for level, level_width in reversed(list(enumerate(widths))):
            deepest = level == len(widths) - 1
            inputs = [level_width] if deepest else [level_width, width]
            width = level_width if deepest else widths[max(level - 1, 0)]
            self.refiners.append(Refiner(inputs, width, 1 if level else 3, refine_norm, pool))
        self.norm = norm(width)
        self.head = nn.Conv2d(width, outputs * shape[0], 3, padding=1)

    def _score(self, x: Tensor, index: Tensor, cond: Conditioning) -> Tensor:
        check_conditioning(cond, self.conditioning)
        h: Tensor = self.stem(join_image(x, cond.image))
        skips = []
        for level, blocks in enumerate(self.levels):
            h = run(self._level, blocks, h, index, checkpointed=level in self.checkpoint_levels)
            skips.append(h)
        inputs = [skips.pop()]
        for refiner in self.refiners:
            h = run(refiner, inputs, index, checkpointed=len(skips) in self.checkpoint_levels)
            inputs = [skips.pop(), h] if skips else []
        out: Tensor = self.head(F.elu(self.norm(h, index)))
        return out

    def _level(self, blocks: nn.ModuleList, h: Tensor, index: Tensor) -> Tensor:
        for block in blocks:
            h = block(h, index)
        return h


class NCSN(_RefineNet):
    """Noise conditional score network: norms with parameters for each noise level.

    The time label is the index of the level, rounded: use `denoiser=discrete` and a schedule of as many levels. The
    source's output is the score, `parameterization=score`.

    Source: Song and Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, arXiv 1907.05600,
    appendix A.

    Args:
        levels: Noise levels, as many as the schedule's.
        channels: The unit of `multipliers`: 128 for CIFAR-10 and CelebA, 64 for MNIST.
        multipliers: Channels of each level of resolution or dilation, as multiples of `channels`.
        dilations: Of the convolutions of each level; a level after the first with dilation 1 halves the resolution.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 10,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 2, 4),
        image_channels: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
    ) -> None:
        check_sizes({"levels": levels})

        def norm(channels: int) -> nn.Module:
            return ConditionalInstanceNormPlus(channels, levels)

        pool = nn.AvgPool2d(5, stride=1, padding=2)
        options = (image_channels, outputs, checkpoint_levels)
        super().__init__(shape, channels, multipliers, dilations, norm, norm, pool, *options)
        self.noise_levels = levels

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        return self._score(x, label.round().clamp(0, self.noise_levels - 1).long(), cond)


class NCSNv2(_RefineNet):
    """The unconditional RefineNet of NCSNv2, which ignores the time label.

    Its output divided by sigma is the score: use `parameterization=ncsn`.

    Source: Song and Ermon, Improved Techniques for Training Score-Based Generative Models, arXiv 2006.09011, section
    3.2 and appendix B.

    Args:
        multipliers: Channels of each level of resolution or dilation: [1, 2, 2, 2] to 64x64, [1, 2, 2, 4, 4] to
            128x128, [1, 2, 2, 2, 4, 4] at 256x256.
        dilations: As in `NCSN`.

    Further options and errors are those of `SharedOptions`.
    """

    uses_label = False

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 2, 4),
        image_channels: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
    ) -> None:
        pool = nn.MaxPool2d(5, stride=1, padding=2)
        options = (image_channels, outputs, checkpoint_levels)
        super().__init__(shape, channels, multipliers, dilations, InstanceNormPlus, NoNorm, pool, *options)

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        return self._score(x, label, cond)
