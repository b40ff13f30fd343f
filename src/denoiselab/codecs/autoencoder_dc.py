"""The deep-compression autoencoder: f = 32 to 128, with shortcuts that move pixels into channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from denoiselab.codecs.dc_layers import ChannelNorm, Down, LinearViTBlock, PlainBlock, Up, averaged, repeated
from denoiselab.codecs.images import ImageAutoencoder
from denoiselab.networks.checks import check_levels, check_sizes


class AutoencoderDC(ImageAutoencoder):
    """Images to a very small latent and back, without draws.

    The defaults are those of DC-AE f32c32 of SANA 1.0.

    Source: Chen et al., Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models, arXiv 2410.10733,
    section 3; Xie et al., SANA, arXiv 2410.10629, section 2.1.

    Args:
        channels: Channels of each level, the finest first; the resolution halves between levels.
        encoder_blocks: Blocks of each level of the encoder; 0 of the finest level alone, which is left out then, so
            that the first convolution halves the resolution.
        decoder_blocks: Those of the decoder, also the finest first.
        attention_levels: Levels, counted from 0, of blocks with linear attention; those of others are residual.
        attention_kernels: Sizes of the convolutions that give attention further queries, keys and values.
        head_features: Features of a head.
        latent_channels: Channels Z of the latent.
        shuffles: The resolution changes by pixels that move into channels and back; else by a stride and by repeats.
        batch_norm: The decoder's residual blocks have frozen batch norms and ReLU; else RMS norms and SiLU.

    Further options are those of `ImageAutoencoder`.

    Raises:
        ValueError: If `shape` is not an image's, a value is out of range, or one does not divide another.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
        encoder_blocks: Sequence[int] = (2, 2, 2, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 3, 3, 3),
        attention_levels: Sequence[int] = (3, 4, 5),
        attention_kernels: Sequence[int] = (5,),
        head_features: int = 32,
        latent_channels: int = 32,
        shuffles: bool = False,
        batch_norm: bool = False,
        scale: float | Sequence[float] = 0.41407,
        shift: float | Sequence[float] = 0.0,
    ) -> None:
        check_sizes({"latent_channels": latent_channels, "head_features": head_features})
        _check(channels, {"encoder_blocks": encoder_blocks, "decoder_blocks": decoder_blocks})
        check_levels(len(channels), attention_levels=attention_levels)
        if any(channels[level] % head_features for level in attention_levels):
            raise ValueError(f"head_features={head_features} must divide channels={list(channels)} with attention.")
        if any(size < 1 or size % 2 == 0 for size in attention_kernels):
            raise ValueError(f"attention_kernels={list(attention_kernels)}: they must be odd.")
        if channels[-1] % latent_channels:
            raise ValueError(f"latent_channels={latent_channels} must divide the last of channels={list(channels)}.")
        stride = 2 ** (len(channels) - 1)
        super().__init__(shape, latent_channels, stride, f"channels={list(channels)}", scale, shift)

        def block(level: int, decoder: bool) -> nn.Module:
            if level in attention_levels:
                return LinearViTBlock(channels[level], head_features, attention_kernels)
            return PlainBlock(channels[level], batch_norm and decoder)

        levels = range(len(channels))
        down = [[block(level, False) for _ in range(encoder_blocks[level])] for level in levels]
        up = [[block(level, True) for _ in range(decoder_blocks[level])] for level in levels]
        self.encoder = _Encoder(shape[0], channels, down, latent_channels, shuffles)
        self.decoder = _Decoder(latent_channels, channels, up, shape[0], shuffles)


class _Encoder(nn.Module):
    def __init__(
        self, pixels: int, channels: Sequence[int], blocks: Sequence[Sequence[nn.Module]], features: int, shuffles: bool
    ) -> None:
        super().__init__()
        whole = bool(blocks[0])
        self.stem = _conv(pixels, channels[0]) if whole else Down(pixels, channels[1], shuffles, shortcut=False)
        self.down = nn.ModuleList()
        for level, found in enumerate(blocks):
            part = nn.Sequential(*found)
            if found and level < len(blocks) - 1:
                part.append(Down(channels[level], channels[level + 1], shuffles))
            self.down.append(part)
        self.head = _conv(channels[-1], features)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for part in self.down:
            h = part(h)
        out: Tensor = self.head(h) + averaged(h, self.head.out_channels)
        return out


class _Decoder(nn.Module):
    def __init__(
        self, features: int, channels: Sequence[int], blocks: Sequence[Sequence[nn.Module]], pixels: int, shuffles: bool
    ) -> None:
        super().__init__()
        self.stem = _conv(features, channels[-1])
        self.up = nn.ModuleList()  # the finest level first
        for level, found in enumerate(blocks):
            part = nn.Sequential()
            if found and level < len(blocks) - 1:
                part.append(Up(channels[level + 1], channels[level], shuffles))
            self.up.append(part.extend(found))
        whole, width = bool(blocks[0]), channels[0] if blocks[0] else channels[1]
        self.norm = ChannelNorm(width)
        self.head = _conv(width, pixels) if whole else Up(width, pixels, shuffles, shortcut=False)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z) + repeated(z, self.stem.out_channels)
        for part in reversed(self.up):
            h = part(h)
        out: Tensor = self.head(self.norm(h).relu())
        return out


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def _check(channels: Sequence[int], blocks: Mapping[str, Sequence[int]]) -> None:
    """Check the numbers of each level."""
    if len(channels) < 2 or min(channels) < 1:
        raise ValueError(f"channels={list(channels)}: there must be two levels or more, each with channels.")
    for name, counts in blocks.items():
        if len(counts) != len(channels) or counts[0] < 0 or min(counts[1:]) < 1:
            raise ValueError(
                f"{name}={list(counts)}: it must be {len(channels)} numbers, one for each of channels, and only the "
                "first may be 0."
            )
