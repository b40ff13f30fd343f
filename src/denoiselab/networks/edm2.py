"""EDM2's UNet: layers that preserve the magnitude of activations, weights and updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from denoiselab.networks.attention import head_count
from denoiselab.networks.base import ConditionalNetwork
from denoiselab.networks.checks import Levels, check_levelled, check_sizes, checkpointed_levels
from denoiselab.networks.conditioning import Conditioning, check_conditioning, taken
from denoiselab.networks.layers import join_image, run
from denoiselab.networks.magnitude import MPBlock, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from denoiselab.networks.resampling import doubling, halving


class EDM2UNet(ConditionalNetwork):
    """Karras et al.'s UNet: ADM's without biases and group norms, every layer of unit variance on expectation.

    The time label is log(sigma / alpha) / 4. The output is zero before training. After each optimizer step, call
    `constrain` of its layers, as the trainer here does; see `MPConv`.

    Source: Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, arXiv 2312.02696,
    configuration G, figure 21 and table 6.

    Args:
        channels: The unit of `multipliers`: 128 in XS, 192 in S, 256 in M, 320 in L, 384 in XL, 448 in XXL.
        attention_levels: Levels, counted from 0, whose blocks end in self-attention.
        noise_multiplier: Fourier features of the label, in units of `channels`; None for the first level's channels.
        embedding_multiplier: Features of the embedding, in units of `channels`; None for the widest level's channels.
        head_channels: Channels of each head of attention.
        label_balance: Weight of the class in its sum with the noise level, from 0 to 1.
        concat_balance: Weight of the skip connections where they are concatenated, from 0 to 1.
        residual_balance: Weight of the residual branches.
        attention_balance: Weight of attention.
        clip: Bound on the activations; None for none.
        fir: Taps of the filters that resample.
        num_classes: Classes of `class_label`; index `num_classes` is the null class. None for none.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention_levels: Sequence[int] = (2, 3),
        dropout: float = 0.0,
        noise_multiplier: int | None = None,
        embedding_multiplier: int | None = None,
        head_channels: int = 64,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        residual_balance: float = 0.3,
        attention_balance: float = 0.3,
        clip: float | None = 256.0,
        fir: Sequence[float] = (1, 1),
        image_channels: int | None = None,
        num_classes: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
    ) -> None:
        super().__init__()
        check_levelled("EDM2UNet", shape, multipliers, attention_levels, dropout)
        check_sizes(
            {
                "channels": channels,
                "blocks": blocks,
                "noise_multiplier": noise_multiplier,
                "embedding_multiplier": embedding_multiplier,
                "image_channels": image_channels,
                "num_classes": num_classes,
                "outputs": outputs,
            }
        )
        _check_strengths(
            clip, label=label_balance, concat=concat_balance, residual=residual_balance, attention=attention_balance
        )
        self.conditioning = taken(image=image_channels, class_label=num_classes)
        self.checkpoint_levels = checkpointed_levels(len(multipliers), checkpoint_levels)
        self.label_balance, self.concat_balance = label_balance, concat_balance
        widths = [channels * m for m in multipliers]
        noise = widths[0] if noise_multiplier is None else channels * noise_multiplier
        features = max(widths) if embedding_multiplier is None else channels * embedding_multiplier
        self.features = MPFourier(noise)
        self.noise = MPConv(noise, features)
        self.classes = MPConv(num_classes, features) if num_classes is not None else None

        def block(
            into: int, out: int, *, encoder: bool, attention: bool = False, resample: nn.Module | None = None
        ) -> MPBlock:
            heads = head_count(out, head_channels=head_channels) if attention else 0
            rest = (heads, dropout, residual_balance, attention_balance, clip)
            return MPBlock(into, out, features, encoder, resample or nn.Identity(), *rest)

        self.stem = MPConv(shape[0] + (image_channels or 0) + 1, widths[0], 3)
        self._build(block, widths, blocks, attention_levels, None if list(fir) == [1, 1] else fir)
        self.head = MPConv(widths[0], outputs * shape[0], 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def _build(
        self,
        block: Callable[..., MPBlock],
        widths: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        taps: Sequence[float] | None,
    ) -> None:
        """Make the levels of encoder and decoder."""
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips, width = [[widths[0]]], widths[0]
        for level, level_width in enumerate(widths):
            stage = nn.ModuleList()
            if level:
                stage.append(block(width, width, encoder=True, resample=halving(taps)))
                skips.append([width])
            for _ in range(blocks):
                stage.append(block(width, level_width, encoder=True, attention=level in attention_levels))
                width = level_width
                skips[-1].append(width)
            self.encoder.append(stage)
        for level, level_width in reversed(list(enumerate(widths))):
            stage = nn.ModuleList()
            if level == len(widths) - 1:
                stage.append(block(width, width, encoder=False, attention=True))
                stage.append(block(width, width, encoder=False))
            else:
                stage.append(block(width, width, encoder=False, resample=doubling(taps)))
            for skip in reversed(skips[level]):
                stage.append(block(width + skip, level_width, encoder=False, attention=level in attention_levels))
                width = level_width
            self.decoder.append(stage)

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        check_conditioning(cond, self.conditioning)
        embedding = self.noise(self.features(label))
        if self.classes is not None and cond.class_label is not None:
            classes = torch.arange(self.classes.weight.shape[1], device=x.device)
            # The null class is a row of zeros.
            one_hot = (cond.class_label[:, None] == classes).to(embedding.dtype)
            embedding = mp_sum(embedding, self.classes(math.sqrt(len(classes)) * one_hot), self.label_balance)
        embedding = mp_silu(embedding)  # (B, E)
        x = join_image(x, cond.image)
        h: Tensor = self.stem(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))  # the ones replace a bias
        skips: list[list[Tensor]] = []
        for level, stage in enumerate(self.encoder):
            new = run(self._encode, stage, h, embedding, checkpointed=level in self.checkpoint_levels)
            skips.append([h, *new] if level == 0 else new)
            h = skips[-1][-1]
        for stage in self.decoder:
            checkpointed = len(skips) - 1 in self.checkpoint_levels
            h = run(self._decode, stage, h, skips.pop(), embedding, checkpointed=checkpointed)
        out: Tensor = self.head(h, self.gain)
        return out

    def _encode(self, stage: nn.ModuleList, h: Tensor, embedding: Tensor) -> list[Tensor]:
        outs = []
        for block in stage:
            h = block(h, embedding)
            outs.append(h)
        return outs

    def _decode(self, stage: nn.ModuleList, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        entering = len(stage) - len(skips)
        for block in stage[:entering]:
            h = block(h, embedding)
        for block, skip in zip(stage[entering:], reversed(skips), strict=True):
            h = block(mp_cat(h, skip, self.concat_balance), embedding)
        return h


def _check_strengths(clip: float | None, **balances: float) -> None:
    if clip is not None and clip <= 0:
        raise ValueError(f"clip={clip}: it must be positive, or null for none.")
    for name, value in balances.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}_balance={value}: it must be from 0 to 1.")
