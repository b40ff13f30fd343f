"""What a guided step costs: one call of a doubled batch against two calls, and the rules themselves."""

from time import process_time

import pytest
import torch

from denoiselab import parameterizations
from denoiselab.app.runs.allocator import keep_freed_memory
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.guidance import AdaptiveProjected, CFGZeroStar, ClassifierFree, Guidance, MagnitudeAware, Tangential
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet, DiT
from denoiselab.noise import Noise
from denoiselab.schedules import VPLinear

pytestmark = pytest.mark.benchmark

SHAPE, BATCH, REPEATS = (1, 16, 16), 16, 25


def milliseconds(calls, repeats=REPEATS):
    """The least CPU time of each, taken in turn, so that all see the same load of the machine."""
    found = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(found, calls, strict=True):
            start = process_time()
            call()
            times.append(1000 * (process_time() - start))
    return [min(times) for times in found]


@torch.no_grad()
def test_a_doubled_batch_takes_at_most_1_05_times_two_calls():
    network = DDPMUNet(SHAPE, channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), num_classes=3)
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime()).eval()
    model = Model(denoiser, ClassLabel(3), Identity(SHAPE))
    index, level = torch.arange(BATCH), VPLinear().level(torch.tensor(0.5, dtype=torch.float64))
    x = Noise(0, index).normal(SHAPE)
    rules = [ClassifierFree(), ClassifierFree(split=True), AdaptiveProjected(momentum=-0.5, norm_threshold=5.0),
             CFGZeroStar(zero_init_steps=0), Tangential(), MagnitudeAware(), ClassifierFree(rescale=0.7)]  # fmt: skip
    alone = model.bound(index)
    bound = [model.bound(index, Guidance(3.0, rule)) for rule in rules]
    calls = [lambda: (alone(x, level), alone(x, level)), *(lambda one=one: one(x, level) for one in bound)]
    for call in calls:
        call()
    two, doubled, *others = milliseconds(calls)
    told = zip([str(rule) for rule in rules], [doubled, *others], strict=True)
    print(f"\ntwo calls {two:.1f} ms; " + "; ".join(f"{name} {time:.1f} ms" for name, time in told))
    assert doubled <= 1.05 * two
    assert max(others) <= 1.2 * two


NETWORKS = {
    "U-Net": lambda: DDPMUNet(SHAPE, channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), num_classes=3),
    "U-Net with attention": lambda: DDPMUNet(SHAPE, channels=32, blocks=1, attention_levels=(1,), num_classes=3),
    "DiT": lambda: DiT(SHAPE, width=128, depth=4, heads=4, num_classes=3),
}


@pytest.mark.parametrize("batch", [16, 32, 64])
@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_a_doubled_batch_of_any_size_takes_at_most_1_05_times_two_calls(network, batch):
    keep_freed_memory()  # as programs do: else the system clears the pages of each large tensor anew
    denoiser = Denoiser(NETWORKS[network](), VPLinear(), parameterizations.eps, ScaledTime()).eval()
    model, index = Model(denoiser, ClassLabel(3), Identity(SHAPE)), torch.arange(batch)
    x, level = Noise(0, index).normal(SHAPE), VPLinear().level(torch.tensor(0.5, dtype=torch.float64))
    alone, doubled = model.bound(index), model.bound(index, Guidance(3.0))
    split = model.bound(index, Guidance(3.0, ClassifierFree(split=True)))
    calls = [lambda: (alone(x, level), alone(x, level)), lambda: doubled(x, level), lambda: split(x, level)]
    for call in calls:
        call()
    two, one, halves = milliseconds(calls, repeats=9)
    print(f"\n{network}, B = {batch}: two calls {two:.1f} ms; doubled {one / two:.3f}, split {halves / two:.3f} of it")
    assert one <= 1.05 * two
