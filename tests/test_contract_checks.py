"""What a part lacks of its contract is said in words; a part of any class that keeps it is accepted."""

import functools

import pytest
import torch

from denoiselab.codecs import Codec, Identity, Logit
from denoiselab.networks import MLP, Conditioning, Network
from denoiselab.nodes.contracts import contract_of, violation
from denoiselab.objectives import Objective
from denoiselab.objectives.level_distributions import LevelDistribution, UniformTime
from denoiselab.objectives.weights import Weighting, min_snr, unit
from denoiselab.parameterizations import Parameterization, edm, v
from denoiselab.training.ema import Constant, HalfLife, Profile
from denoiselab.training.lr_schedules import LRSchedule, Warmup


class Untold(torch.nn.Module):
    def forward(self, x, label):
        return x


class Renamed(torch.nn.Module):
    def forward(self, noisy, t, condition=None, extra=1):
        return noisy


class Short(LevelDistribution):
    def forward(self, schedule):
        return None


class Still:
    def decay(self, images_seen):
        return 0.9


@pytest.mark.parametrize(
    ("part", "contract"),
    [
        (MLP([2]), Network),
        (Renamed(), Network),
        (Identity([2]), Codec),
        (Logit([1, 2, 2]), Codec),
        (v, Parameterization),
        (functools.partial(edm, sigma_data=0.3), Parameterization),
        (functools.partial(unit, space=v), Weighting),
        (lambda level: level.sigma, Weighting),
        (min_snr, Weighting),
        (Constant(), Profile),
        (HalfLife(10), Profile),
        (Warmup(), LRSchedule),
        (UniformTime(), LevelDistribution),
    ],
)
def test_parts_that_keep_their_contract(part, contract):
    assert violation(part, contract) is None


@pytest.mark.parametrize(
    ("part", "contract", "said"),
    [
        (Untold(), Network, ["(x: Tensor, label: Tensor, cond: Conditioning) -> Tensor", "it takes (x, label)"]),
        (Still(), Profile, ["decay(images_seen: int, images: int) -> float", "it takes (images_seen)"]),
        (object(), Profile, ["decay(images_seen: int, images: int) -> float", "it has no such method"]),
        (unit, Weighting, ["called as weighting(level: Level) -> Tensor", "it takes (level: ", "space: "]),
        (
            torch.nn.Identity(),
            Objective,
            ["an instance of denoiselab.objectives.base.Objective", "Identity is not one"],
        ),
        (Short(), LevelDistribution, ["forward(schedule: Schedule, noise: Noise) -> Draw", "takes (schedule)"]),
        (v, Codec, ["needs the attribute shape", "denoiselab.codecs.base.Codec"]),
    ],
)
def test_what_is_lacking_is_said_with_the_expected_call(part, contract, said):
    found = violation(part, contract, "weighting")
    assert found is not None
    for words in said:
        assert words in found


def test_the_contract_of_an_annotation_is_its_one_class_of_this_package():
    assert contract_of(Weighting) is Weighting
    assert contract_of(Weighting | None) is Weighting
    for annotation in (int, int | None, Weighting | Profile, list[Weighting], torch.nn.Module, "Weighting", None):
        assert contract_of(annotation) is None


def test_a_conditioning_is_the_third_argument():
    network = MLP([2], num_classes=3)
    cond = Conditioning(class_label=torch.zeros(2, dtype=torch.int64))
    assert network(torch.zeros(2, 2), torch.zeros(2), cond).shape == (2, 2)
