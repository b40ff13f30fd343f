"""A transformer of texts that is trained with the denoiser on latents: on two ranks as on one, and in bfloat16."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Text, TextTransformer
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import TextUNet
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.objectives.uniforms import Independent
from denoiselab.schedules import VPLinear
from denoiselab.trained import batch_loss

CAPTIONS = ["a red apple", "", "seven", "a dog", "a cat that is long", "x", "red", "dog"]


class Letters:
    """Bytes as tokens."""

    vocabulary = 256

    def __call__(self, text):
        return list(text.encode())


class Step(nn.Module):
    """What Lightning wraps: the loss of a batch, with all that is trained."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        conditioner = Text(
            TextTransformer(Letters(), width=8, depth=1, heads=2, head_features=4, length=8), dropout=0.3
        )
        sizes = {"channels": 8, "multipliers": [1], "blocks": 1, "attention_levels": [0], "heads": 1, "groups": 4}
        network = TextUNet([4, 4, 4], **sizes, token_features=8)
        for parameter in network.parameters():
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.1)
        self.denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())
        self.denoiser.add_module("conditioner", conditioner.module)
        objective = DenoisingObjective(weights.snr, UniformTime(Independent()))
        self.of_batch = batch_loss(Model(self.denoiser, conditioner, Identity([4, 4, 4])), objective)

    def forward(self, position):
        images = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(1))[position]
        batch = {"images": images, "labels": position * 0, "position": position}
        batch["captions"] = [CAPTIONS[i] for i in position.tolist()]
        return self.of_batch.loss(batch, Noise(0, position, TRAINING), 0).total


def gradients(step, position):
    loss = step(position)
    loss.backward()
    return loss.detach(), {name.removeprefix("module."): p.grad for name, p in step.named_parameters()}


def on_a_rank(rank, folder):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", "0"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    _, found = gradients(DistributedDataParallel(Step()), torch.arange(8)[rank::2])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_gradients_of_one(tmp_path):
    on_ranks(on_a_rank, (str(tmp_path),), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    _, whole = gradients(Step(), torch.arange(8))
    assert float(whole["denoiser.conditioner.transformer.embedding.weight"].abs().max()) > 1e-4
    for name, gradient in whole.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_finite_gradients_near_those_of_float32():
    loss, exact = gradients(Step(), torch.arange(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, found = gradients(Step(), torch.arange(8))
    assert rounded.dtype == torch.float32
    assert abs(float(rounded - loss)) < 0.01 * float(loss)
    for name in exact:
        assert found[name].isfinite().all(), name
    text = "denoiser.conditioner.transformer.embedding.weight"
    assert 0 < float((found[text] - exact[text]).norm()) < 0.1 * float(exact[text].norm())
