"""A small autoencoder without norms and attention, for cheap decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.codecs.images import ImageAutoencoder
from denoiselab.networks.checks import check_sizes

# Latents are squashed into -3 to 3 before they are decoded.
_LIMIT = 3.0


class AutoencoderTiny(ImageAutoencoder):
    """A few convolutions and ReLUs, distilled from a larger autoencoder whose scaled latents are its own; no draws.

    The defaults are those of TAESD, which decodes latents of Stable Diffusion.

    Source: Boer Bohan, TAESD, github.com/madebyollin/taesd.

    Args:
        channels: Channels of all levels.
        encoder_blocks: Residual blocks of each level of the encoder, the finest first; the resolution halves between.
        decoder_blocks: Those of the decoder, the coarsest first.
        latent_channels: Channels Z of the latent.

    Further options are those of `ImageAutoencoder`.

    Raises:
        ValueError: If `shape` is not an image's, a value is out of range, or the numbers of levels differ.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        latent_channels: int = 4,
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
    ) -> None:
        check_sizes({"channels": channels, "latent_channels": latent_channels, "encoder_blocks": len(encoder_blocks)})
        if len(encoder_blocks) != len(decoder_blocks) or min(*encoder_blocks, *decoder_blocks) < 0:
            raise ValueError(
                f"encoder_blocks={list(encoder_blocks)}, decoder_blocks={list(decoder_blocks)}: they must be "
                "numbers of blocks of as many levels."
            )
        stride = 2 ** (len(encoder_blocks) - 1)
        why = f"encoder_blocks={list(encoder_blocks)}"
        super().__init__(shape, latent_channels, stride, why, scale, shift)
        self.encoder = _Encoder(shape[0], channels, encoder_blocks, latent_channels)
        self.decoder = _Decoder(latent_channels, channels, decoder_blocks, shape[0])


class _Encoder(nn.Sequential):
    def __init__(self, channels_in: int, channels: int, blocks: Sequence[int], channels_out: int) -> None:
        super().__init__()
        for level, count in enumerate(blocks):
            first = _conv(channels, channels, stride=2, bias=False) if level else _conv(channels_in, channels)
            self.append(first)
            self.extend(_Block(channels) for _ in range(count))
        self.append(_conv(channels, channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Latents of images in [-1, 1]."""
        out: Tensor = super().forward((x + 1) / 2)
        return out


class _Decoder(nn.Sequential):
    def __init__(self, channels_in: int, channels: int, blocks: Sequence[int], channels_out: int) -> None:
        super().__init__(_conv(channels_in, channels), nn.ReLU())
        for level, count in enumerate(blocks):
            if level:
                self.append(nn.Upsample(scale_factor=2.0))
                self.append(_conv(channels, channels, bias=False))
            self.extend(_Block(channels) for _ in range(count))
        self.append(_conv(channels, channels_out))

    def forward(self, z: Tensor) -> Tensor:
        """Images of latents."""
        out: Tensor = super().forward(_LIMIT * torch.tanh(z / _LIMIT))
        return 2 * out - 1


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second, third = (_conv(channels, channels) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(self.conv(x) + x)
        return out


def _conv(channels_in: int, channels_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=bias)
