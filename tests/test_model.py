"""Samples of a model: a function of (seed, index) alone, the sampler's own numbers, and sentences on wrong calls."""

import math
import re

import numpy as np
import pytest
import torch

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.errors import Failure
from denoiselab.guidance import AdaptiveProjected, CFGPlusPlus, ClassifierFree, Guidance
from denoiselab.model import Drawing, Model, NotFinite
from denoiselab.networks import DDPMUNet
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, BrownianNoise, Noise
from denoiselab.samplers import DDIM, Ancestral, DPMSolverPP
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import VPLinear
from denoiselab.stored import to_stored, to_uint8

SHAPE = (1, 8, 8)


def model(classes=None):
    torch.manual_seed(0)
    network = DDPMUNet(
        SHAPE, channels=8, multipliers=(1,), blocks=1, attention_levels=(), dropout=0.5, groups=4, num_classes=classes
    )
    for parameter in network.parameters():  # the last layer starts at zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())
    return Model(denoiser, Unconditional() if classes is None else ClassLabel(classes), Identity(SHAPE))


def test_samples_are_those_of_the_sampler_as_bytes_whatever_the_batch():
    ours, sampler = model(), Ancestral(UniformTime(), 3)
    ours.denoiser.train()
    images = ours.sample(sampler, 6, seed=4, batch_size=4)
    assert (images.dtype, images.shape) == (torch.uint8, (6, *SHAPE))
    assert ours.denoiser.training  # it was, and dropout did nothing in between
    ours.denoiser.eval()
    x = sampler(ours.denoiser, ours.denoiser.schedule, SHAPE, Noise(4, torch.arange(4), SAMPLING))
    assert torch.equal(images[:4], to_uint8(x))
    assert torch.equal(ours.sample(sampler, [5, 2], seed=4, batch_size=1)[:, 0].int(), images[[5, 2], 0].int())
    assert not torch.equal(ours.sample(sampler, 6, seed=5), images)
    assert not torch.equal(ours.sample(sampler, 6, seed=4, noise=BrownianNoise), images)


def test_steps_and_calls_are_asked_for_one_way():
    ours, sampler, calls = model(), DDIM(UniformTime(), 9), []
    assert torch.equal(ours.sample(sampler, 2, nfe=5), ours.sample(sampler, 2, steps=5))
    ours.sample(sampler, 3, steps=2, on_step=calls.append, batch_size=2)
    assert [(moment.number, len(moment.x)) for moment in calls] == [(1, 2), (2, 2), (1, 1), (2, 1)]
    assert ours.draw(torch.arange(2), Drawing(sampler, 0))[1].rows == 18


def test_conditions_are_those_of_the_index_unless_others_are_given():
    ours, sampler = model(3), DDIM(UniformTime(), 2)
    labels = Conditioning(class_label=torch.tensor([2, 0, 1, 1]))
    own, given = ours.sample(sampler, 4), ours.sample(sampler, 4, cond=labels, batch_size=3)
    alone = ours.sample(sampler, [0], cond=Conditioning(class_label=torch.tensor([2])))
    assert not torch.equal(own, given)
    assert torch.equal(given[:1], alone)
    same = Conditioning(class_label=torch.arange(4) % 3)
    assert torch.equal(own, ours.sample(sampler, 4, cond=same))
    assert torch.equal(given, ours.sample(sampler, 4, cond=[2, 0, 1, 1]))
    assert torch.equal(given, ours.sample(sampler, 4, cond=torch.tensor([2, 0, 1, 1])))
    assert torch.equal(ours.sample(sampler, 2, cond=[1, 1]), ours.sample(sampler, 2, cond=1))
    for wrong in ([3], [-1], [0.5], ["a"], [[1]], [True]):
        with pytest.raises(ValueError, match=re.escape(f"cond={wrong}: classes are whole numbers from 0 to 2.")):
            ours.sample(sampler, 1, cond=wrong)
    assert not torch.equal(own, ours.sample(sampler, 4, guidance=3.0))


def test_a_guider_is_given_with_its_scale():
    """A run of each batch has its own state, so that samples do not depend on the batch size."""
    ours, sampler = model(3), DDIM(UniformTime(), 3)
    assert torch.equal(ours.sample(sampler, 4, guidance=Guidance(3.0)), ours.sample(sampler, 4, guidance=3))
    guidance = Guidance(3.0, AdaptiveProjected(momentum=-0.5))
    apart = ours.sample(sampler, 4, guidance=guidance, batch_size=3).int() - ours.sample(sampler, 4, guidance=guidance)
    assert int(apart.abs().max()) <= 1
    with pytest.raises(ValueError, match="guider=cfgpp: DPMSolverPP adds no predicted noise"):
        ours.sample(DPMSolverPP(steps=2), 2, guidance=Guidance(0.5, CFGPlusPlus()))
    with pytest.raises(ValueError, match=r"interval=\[900, 901\]: no step of DDIM begins there"):
        ours.sample(sampler, 2, guidance=Guidance(3.0, ClassifierFree(interval=(900, 901))))


@pytest.mark.parametrize("wrong", [torch.tensor([4]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[1]])])
def test_classes_that_the_network_does_not_have_are_refused(wrong):
    with pytest.raises(ValueError, match=r"cond\.class_label: it must be \(B,\) int64, with classes from 0 to 3 "):
        model(3).sample(DDIM(UniformTime(), 2), 1, cond=Conditioning(class_label=wrong))


def test_whole_numbers_of_numpy_are_taken():
    ours, sampler = model(3), DDIM(UniformTime(), 2)
    given = ours.sample(sampler, np.int64(2), np.int32(5), steps=np.int64(3), cond=np.int64(1))
    assert torch.equal(given, ours.sample(sampler, 2, 5, steps=3, cond=1))


@pytest.mark.parametrize(
    ("which", "options", "sentence"),
    [
        (2, {"steps": 3, "nfe": 3}, "steps=3 and nfe=3: give one of them"),
        (0, {}, "which"),
        ([-1], {}, "which"),
        ([0.5], {}, "which"),
        (2, {"batch_size": 0}, "batch_size=0"),
        (2, {"nfe": 0}, "nfe=0"),
        (2, {"guidance": math.nan}, "guidance=nan: it must be a finite number"),
        (2, {"guidance": "3"}, "guidance='3': it must be a finite number"),
        (2, {"noise": "brownian"}, "noise='brownian': it must be a class"),
        (2, {"on_step": 3}, "on_step=3: it must be a function"),
        (2, {"seed": True}, "seed=True: it must be a whole number"),
        (10**12, {}, "which=1000000000000: at most 100,000,000 samples"),
        (10**30, {}, "which=1.*: give a number"),
        (2, {"guidance": 2.0}, "guidance=2: the model takes no condition"),
        (2, {"cond": Conditioning(class_label=torch.tensor([1]))}, "cond.class_label: has 1 rows, and there are 2"),
        (1, {"cond": Conditioning(class_label=torch.tensor([1]))}, "the network does not take class_label"),
    ],
)
def test_a_wrong_call_gets_a_sentence(which, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        model().sample(DDIM(UniformTime(), 2), which, **options)


def test_the_first_sample_that_is_not_finite_is_named():
    ours = model()

    class Broken(DDIM):
        def run(self, denoise, schedule, levels, x, noise, *, on_step=None):
            return torch.where((noise.index == 7).reshape(-1, 1, 1, 1), torch.nan, x)

    with pytest.raises(NotFinite, match="sample 7 of Broken at 0 NFE is not finite") as error:
        ours.sample(Broken(UniformTime(), 2), 9, batch_size=4)
    assert error.value.index == 7
    assert isinstance(error.value, Failure)  # programs say it as it is


def test_only_images_are_stored_as_bytes():
    assert to_stored(torch.zeros(2, *SHAPE, dtype=torch.float64)).dtype is torch.uint8
    for shape in ((2, 3), (2, 1, 16)):
        assert to_stored(torch.zeros(shape, dtype=torch.float64)).dtype is torch.float32
