"""Dropout that belongs to the sample: one mask, however the batch is divided."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch import nn

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet
from denoiselab.networks.layers import Dropout, bits, run
from denoiselab.noise import Noise
from denoiselab.objectives import DenoisingObjective
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.objectives.weights import snr
from denoiselab.parameterizations import eps
from denoiselab.schedules import VPLinear
from denoiselab.training.ema import EMA
from denoiselab.training.module import DiffusionModule


def layer(p, rows, seed=0):
    out = Dropout(p)
    (out.key,) = Noise(seed, torch.arange(rows)).keys(1)
    return out


def test_the_share_and_the_mean_are_as_stated():
    for p in (0.1, 0.5, 0.9, 2.0**-9):
        x = torch.ones(64, 3, 101, 37)
        y = layer(p, 64)(x)
        dropped = (y == 0).double().mean().item()
        assert abs(dropped - round(p * 2**16) / 2**16) < 5 * math.sqrt(p * (1 - p) / x.numel())
        assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)), rtol=1e-4)
        mean = (1 - dropped) * y.max().item()
        assert mean == pytest.approx(1.0, abs=5 * math.sqrt(p / (1 - p) / x.numel()))


def test_masks_are_independent_in_all_directions():
    """Bits of neighbours in a row, of neighbouring samples and of neighbouring layers: chi-squared and correlations."""
    keys = Noise(3, torch.arange(64)).keys(8)
    values = torch.stack([bits(key, 4096, 64) for key in keys]).double() / 2**15  # layer, sample, element; in [-1, 1)
    assert values.mean().abs() < 5 * (values.numel() * 3) ** -0.5
    counts = torch.histc(values.float(), 256, -1, 1).double()
    expected = values.numel() / 256
    chi = ((counts - expected).square() / expected).sum().item()
    assert abs(chi - 255) < 5 * math.sqrt(2 * 255)
    for dimension in range(3):
        for lag in (1, 2, 3, 4, 7):
            a, b = (values.narrow(dimension, start, values.shape[dimension] - lag) for start in (0, lag))
            assert (a * b).mean().abs() < 5 / 3 / math.sqrt(a.numel()), (dimension, lag)


def test_a_sample_has_its_mask_in_every_batch_and_layout():
    whole, x = layer(0.3, 12), torch.randn(12, 5, 6, 7)
    y = whole(x)
    part = Dropout(0.3)
    part.key = whole.key[3:8]
    assert torch.equal(part(x[3:8]), y[3:8])
    assert torch.equal(whole(x.contiguous(memory_format=torch.channels_last)), y)
    assert torch.equal(whole(x.bfloat16()) == 0, y.bfloat16() == 0)
    assert torch.equal(whole(torch.cat((x, x)))[:12], y)  # further rows have masks of their own
    assert not torch.equal(whole(torch.cat((x, x)))[12:], y)
    assert torch.equal(whole.eval()(x), x)


def test_checkpointing_jvp_and_compilation_draw_the_same_masks():
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), Dropout(0.4)) for _ in range(3))
    keys = Noise(0, torch.arange(8)).keys(3)
    for block, key in zip(blocks, keys, strict=True):
        block[1].key = key
    x = torch.randn(8, 16, requires_grad=True)

    def gradients(call):
        y = x
        for block in blocks:
            y = call(block, y)
        return torch.autograd.grad(y.square().sum(), blocks[0].parameters())

    plain = gradients(lambda block, y: block(y))
    for one, other in zip(plain, gradients(lambda block, y: run(block, y, checkpointed=True)), strict=True):
        assert torch.equal(one, other)
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph

    compiled = torch.compile(lambda block, y: block(y), backend=backend, fullgraph=True, dynamic=False)
    for one, other in zip(plain, gradients(compiled), strict=True):
        assert torch.allclose(one, other)
    assert len(compilations) == 1  # all blocks share it
    _, tangent = torch.func.jvp(blocks[0][1], (x,), (torch.ones_like(x),))
    assert torch.equal(tangent == 0, blocks[0][1](torch.ones_like(x)) == 0)


def test_shares_of_a_batch_have_the_gradient_of_the_whole():
    """Any world and accumulation: the loss of 8 images is the mean of those of 2 x 4, whichever rank has which."""

    def module(world):
        torch.manual_seed(0)
        network = DDPMUNet((1, 8, 8), channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        model = Model(Denoiser(network, VPLinear(), eps, LogNoise()), Unconditional(), Identity((1, 8, 8)))
        objective = DenoisingObjective(snr, UniformTime())
        out = DiffusionModule(model, objective, torch.optim.SGD, lambda seen: 1.0, EMA({}), 0, {})
        out._trainer = SimpleNamespace(world_size=world, global_rank=0)
        out.on_fit_start()
        return out

    data = {
        "images": torch.rand(8, 1, 8, 8) * 2 - 1,
        "position": torch.arange(8, 16),
        "labels": torch.full((8,), -1),
    }

    def step(world, rows):
        one = module(world)
        loss = one.training_step({name: value[rows] for name, value in data.items()}, 0)["loss"]
        loss.backward()
        return loss.item(), [p.grad for p in one.denoiser.parameters()]

    loss, whole = step(1, slice(0, 8))
    shares = [step(2, slice(start, None, 2)) for start in range(2)]
    assert loss == pytest.approx(sum(share for share, _ in shares) / 2, rel=1e-6)
    for gradient, *parts in zip(whole, *(part for _, part in shares), strict=True):
        assert torch.allclose(gradient, sum(parts) / 2, atol=1e-6)


def test_no_part_draws_masks_of_its_own():
    found = [
        path.name for path in (ROOT / "src").rglob("*.py") if re.search(r"nn\.Dropout|F\.dropout", path.read_text())
    ]
    assert found == ["layers.py"]
