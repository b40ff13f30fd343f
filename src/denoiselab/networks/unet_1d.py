"""A UNet for waveforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import head_count
from denoiselab.networks.base import EmbeddedNetwork
from denoiselab.networks.checks import (
    Levels,
    check_dropout,
    check_levels,
    check_sizes,
    checkpointed_levels,
    level_widths,
)
from denoiselab.networks.conditioning import Conditioning, taken
from denoiselab.networks.embeddings import second_embedding, time_embedding
from denoiselab.networks.layers import Dropout, NormSiLU, run, zero_init
from denoiselab.networks.transformer import TokenAttention


class UNet1D(EmbeddedNetwork):
    """A UNet over time for signals (C, L), such as stereo audio: strided levels, residual blocks, self-attention.

    ADM's residual blocks, with the embedding as scale and shift of their second norm (Dhariwal and Nichol, Diffusion
    Models Beat GANs on Image Synthesis, arXiv 2105.05233, section 3), in one dimension, with patches and strides of
    more than 2 as in Schneider et al., Moûsai, arXiv 2301.11757, section 3.3 and appendix.

    Args:
        shape: Shape (C, L) of a signal.
        strides: Factors by which the length shrinks between levels, one less than there are levels.
        patch: Neighbouring values of the signal that become channels before the first level.
        heads: Heads of the attention; they divide the channels of its levels.
        kernel: Length of the convolutions of residual blocks, odd.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[float] = (1, 2, 2, 4, 4),
        strides: Sequence[int] = (4, 4, 2, 2),
        patch: int = 1,
        blocks: int = 2,
        attention_levels: Sequence[int] = (3, 4),
        heads: int = 8,
        kernel: int = 3,
        dropout: float = 0.0,
        groups: int = 32,
        num_classes: int | None = None,
        null_class: bool = True,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        second_time: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "blocks": blocks, "groups": groups, "outputs": outputs, "kernel": kernel}
        check_sizes({**sizes, "num_classes": num_classes, "vector_features": vector_features})
        widths, levels = level_widths(channels, multipliers, groups), len(multipliers)
        _check_strides(shape, patch, strides, levels)
        check_levels(levels, attention_levels=attention_levels)
        check_dropout(dropout)
        if not kernel % 2:
            raise ValueError(f"kernel={kernel}: it must be odd.")
        self.conditioning = taken(class_label=num_classes, vector=vector_features)
        self.checkpoint_levels = checkpointed_levels(levels, checkpoint_levels)
        self.patch, features = patch, 4 * channels
        self.time = time_embedding(channels, features)
        self.second_time = second_time
        self.between = second_embedding(channels, features) if second_time else None
        self.classes = None if num_classes is None else nn.Embedding(num_classes + null_class, features)
        self.vector = None if vector_features is None else nn.Linear(vector_features, features)

        def stage(channels_in: int, level: int) -> _Stage:
            number = head_count(widths[level], heads) if level in attention_levels else None
            return _Stage(channels_in, widths[level], features, kernel, dropout, groups, number)

        self.stem = nn.Conv1d(patch * shape[0], widths[0], kernel, padding=kernel // 2)
        self._build(stage, widths, strides, blocks)
        self.norm = NormSiLU(groups, widths[0])
        self.head = zero_init(nn.Conv1d(widths[0], patch * outputs * shape[0], kernel, padding=kernel // 2))

    def _build(
        self, stage: Callable[[int, int], _Stage], widths: Sequence[int], strides: Sequence[int], blocks: int
    ) -> None:
        """Make the levels and the middle."""
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, level_width in enumerate(widths):
            part = nn.ModuleList()
            for _ in range(blocks):
                part.append(stage(width, level))
                width = level_width
                skips.append(width)
            if level < len(strides):
                part.append(_Shrink(width, strides[level]))
                skips.append(width)
            self.down.append(part)
        self.middle = nn.ModuleList([stage(width, len(strides)) for _ in range(2)])
        for level, level_width in reversed(list(enumerate(widths))):
            part = nn.ModuleList()
            for _ in range(blocks + 1):
                part.append(stage(width + skips.pop(), level))
                width = level_width
            if level:
                part.append(_Stretch(width, strides[level - 1]))
            self.up.append(part)

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        embedding = F.silu(self.embed(label, cond, between))  # (B, E)
        h = self.stem(x.unflatten(2, (-1, self.patch)).transpose(2, 3).flatten(1, 2))  # (B, W, L / patch)
        skips = [h]
        for level, part in enumerate(self.down):
            assert isinstance(part, nn.ModuleList)
            for layer in part:
                h = self._run(layer, level, h, embedding)
                skips.append(h)
        level = len(self.down) - 1
        for layer in self.middle:
            h = self._run(layer, level, h, embedding)
        for number, part in enumerate(self.up):
            assert isinstance(part, nn.ModuleList)
            for layer in part:
                if isinstance(layer, _Stage):
                    h = torch.cat((h, skips.pop()), dim=1)
                h = self._run(layer, level - number, h, embedding)
        out: Tensor = self.head(self.norm(h))  # (B, outputs C patch, L / patch)
        result: Tensor = out.unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(2)
        return result

    def _run(self, layer: nn.Module, level: int, h: Tensor, embedding: Tensor) -> Tensor:
        inputs = (h, embedding) if isinstance(layer, _Stage) else (h,)
        out: Tensor = run(layer, *inputs, checkpointed=level in self.checkpoint_levels)
        return out


def _check_strides(shape: Sequence[int], patch: int, strides: Sequence[int], levels: int) -> None:
    """Check that a shape is a signal's and divisible by the strides of its levels."""
    if len(shape) != 2:
        raise ValueError(f"shape={list(shape)}: UNet1D takes signals (C, L); choose network=ddpm for images.")
    check_sizes({"patch": patch, **{f"strides[{index}]": stride for index, stride in enumerate(strides)}})
    if len(strides) != levels - 1:
        raise ValueError(f"strides={list(strides)}: {levels} multipliers need {levels - 1} of them.")
    stride = patch * math.prod(strides)
    if shape[1] % stride:
        raise ValueError(
            f"patch={patch} and strides={list(strides)} make a stride of {stride}, "
            f"which does not divide signals of length {shape[1]}."
        )


class _Stage(nn.Module):
    """Norm, swish, conv; norm, scale and shift by the embedding, swish, dropout, conv; add the input; attention."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        kernel: int,
        dropout: float,
        groups: int,
        heads: int | None,
    ) -> None:
        super().__init__()
        self.norm_in = NormSiLU(groups, channels_in)
        self.conv_in = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.embedding = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = NormSiLU(groups, channels_out)
        self.dropout = Dropout(dropout)
        self.conv_out = zero_init(nn.Conv1d(channels_out, channels_out, kernel, padding=kernel // 2))
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)
        self.norm_attention = None if heads is None else nn.GroupNorm(groups, channels_out)
        self.attention = None if heads is None else TokenAttention(channels_out, heads)
        if self.attention is not None:
            zero_init(self.attention.out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.embedding(embedding)[:, :, None].chunk(2, dim=1)
        h = self.norm_out(self.conv_in(self.norm_in(x)), scale, shift)
        out: Tensor = self.skip(x) + self.conv_out(self.dropout(h))
        if self.attention is not None and self.norm_attention is not None:
            out = out + self.attention(self.norm_attention(out).transpose(1, 2)).transpose(1, 2)
        return out


class _Shrink(nn.Module):
    """Divide the length by a strided convolution of 2 s + 1 values, centred on every s-th."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 2 * stride + 1, stride=stride, padding=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Stretch(nn.Module):
    """Multiply the length by repeating each value and a convolution of 2 s + 1 values."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv1d(channels, channels, 2 * factor + 1, padding=factor)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.repeat_interleave(self.factor, dim=2))
        return out
