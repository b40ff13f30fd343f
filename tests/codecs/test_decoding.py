"""Decoding within a memory, and in tiles."""

import pytest
import torch
from torch import nn

from denoiselab.codecs import AutoencoderKL
from denoiselab.codecs.base import Autoencoder
from denoiselab.codecs.decoding import bound, peak_memory, tiled

TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "latent_channels": 2}


class Chain(nn.Module):
    """A decoder whose peak is known: 4 channels in, 8 then 16 in the middle, 1 out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 1))

    def decode(self, z):
        return self.layers(z.flatten(2) if z.ndim == 4 else z)


class Pointwise(nn.Module):
    """Each pixel depends on its latent alone, so that tiles are exact."""

    def decode(self, z):
        return z.square().sum(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)


class Codec(Autoencoder):
    def __init__(self, module, latent_shape, shape=(1, 8, 8)):
        super().__init__(shape, latent_shape, draws=False, batch_size=16)
        self.module = module

    def read(self):
        return self.module


def test_the_peak_is_that_of_the_tensors_alive_at_a_time():
    rows = 1000
    # The layer's input and output, and what the caller holds: the latents.
    assert peak_memory(Chain(), (rows, 4)) == 4 * rows * (4 + 8 + 16)
    assert peak_memory(Chain(), (rows, 4), 3) == 3 * 4 * rows * (4 + 8 + 16)
    within = bound(Chain(), (rows, 4, 1), 2 * 5.5 * 4 * rows * 28 + 16e6)
    assert within.side is None
    assert [within.count(results) for results in (0, 2 * 4 * rows * 28, 10**9)] == [5, 4, 1]


def test_a_convolution_needs_working_memory_too():
    conv = nn.Conv2d(2, 6, 3, padding=1)
    conv.decode = conv.forward
    assert peak_memory(conv, (2, 8, 8)) == 4 * 64 * (2 + 6 + 2 + 6)


@pytest.mark.parametrize(("height", "width", "side"), [(16, 16, 8), (21, 13, 8), (9, 40, 16), (8, 8, 16)])
def test_tiles_of_a_pointwise_decoder_give_the_same_image(height, width, side):
    z = torch.randn(2, 3, height, width)
    module = Pointwise()
    assert torch.allclose(tiled(module.decode, z, side), module.decode(z), atol=1e-6)


def test_tiles_are_blended_by_a_cosine():
    """Tiles of different constants: the seam is half a period of a cosine over a fourth of a tile."""
    values = iter([1.0, 3.0])
    out = tiled(lambda part: torch.full_like(part[:, :1], next(values)), torch.zeros(1, 1, 8, 14), 8)[0, 0, 0]
    assert torch.allclose(out[:6], torch.ones(6))
    assert torch.allclose(out[8:], torch.full((6,), 3.0))
    rise = (1 - torch.cos(torch.pi * (torch.arange(2) + 0.5) / 2)) / 2
    assert torch.allclose(out[6:8], 1 + 2 * rise)


def test_memory_bounds_batches_and_then_tiles():
    torch.manual_seed(0)
    module = AutoencoderKL((1, 64, 64), **TINY).requires_grad_(False)
    sizes, z = [], torch.randn(5, 2, 32, 32)
    whole = module.decode(z)
    module.decoder.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    codec = Codec(module, module.latent_shape, (1, 64, 64))
    one, tile = peak_memory(module, (2, 32, 32)), peak_memory(module, (2, 16, 16))
    assert codec.decode_within(2 * 2.1 * one + z.numel() * 8 + 16e6) is None
    sizes.clear()
    assert torch.allclose(codec.decode(z), whole, atol=1e-5)
    assert [size[0] for size in sizes] == [2, 2, 1]
    assert codec.decode_within(2 * tile + 16e6) == 16
    sizes.clear()
    out = codec.decode(z)
    assert {size[2:] for size in sizes} == {(16, 16)}
    assert out.shape == whole.shape
    assert 0 < float((out - whole).std() / whole.std()) < 0.2  # group norms see tiles
    with pytest.raises(ValueError, match=r"decode_memory=1e-06: a tile of 8x8 latents needs .* GB; give at least that"):
        codec.decode_within(1e3)
