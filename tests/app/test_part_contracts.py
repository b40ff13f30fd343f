"""A part of a user's own that breaks its contract is refused at start, by its option, the call and what was found."""

import pytest
from conftest import QUICK

PARTS = """
import torch
from torch import nn
from denoiselab.conditioners import Unconditional
from denoiselab.codecs import Identity
from denoiselab.networks import Conditioning
from denoiselab.objectives import DenoisingObjective
from denoiselab.objectives.level_distributions import Draw, UniformTime
from denoiselab.schedules import VPLinear


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, label, cond=None):
        return self.scale * x


class WithoutCond(Net):
    def forward(self, x, label):
        return self.scale * x


class Pair(Net):
    def forward(self, x, label, cond=None):
        return self.scale * x, x


class Misnamed(Net):
    conditioning = frozenset({"caption"})


class Function:
    def __init__(self, **options):
        pass

    def __call__(self, x, label, cond=None):
        return x


class Scalar(DenoisingObjective):
    def forward(self, *arguments):
        return super().forward(*arguments).mean()


class Detached(DenoisingObjective):
    def forward(self, *arguments):
        return super().forward(*arguments).detach()


class Apart(nn.Module):
    def __init__(self, weighting, level_distribution):
        super().__init__()


class OneLevel(UniformTime):
    def forward(self, schedule, noise):
        return Draw(schedule.level(torch.tensor(0.5, dtype=torch.float64)))


class Bare(Unconditional):
    def given(self, clean):
        return {"class_label": clean.labels}


class Wrong(Unconditional):
    def given(self, clean):
        return Conditioning(class_label=clean.labels)


class Cropped(Identity):
    def decode(self, latents):
        return latents[:, :, 1:]


class Halved(Identity):
    load = None


class Decay:
    def __init__(self, **options):
        pass

    def decay(self, images_seen):
        return 0.9


class Rate:
    def __init__(self, **options):
        pass

    def __call__(self):
        return 1.0


class Mean(Rate):
    layer, lower_is_better = "features", {"mean": True}
    reads_moments, reads_features, reads_reference = True, False, True

    def check(self, n, what):
        pass

    def scores(self, samples):
        return {}


def number(level):
    return 1.0


def one(level):
    return torch.ones_like(level.sigma)


def twice(level, other):
    return level.sigma
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DENOISELAB_ALLOW", "mine")


def function(name):
    return f"{{_target_: mine.{name}, _partial_: true}}"


CALL = "must be called as network(x: Tensor, label: Tensor, cond: Conditioning) -> Tensor"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["network._target_=mine.WithoutCond"], ["network=WithoutCond", CALL, "it takes (x, label)"]),
        (["network._target_=mine.Pair"], ["network=Pair: must return a tensor (B, 1 x 1, ...); found a tuple of 2"]),
        (["network._target_=mine.Misnamed"], ["network=Misnamed", "conditioning must be a frozen set", "'caption'"]),
        (["network._target_=mine.Function"], ["network=Function: must be an instance of torch.nn"]),
        (
            ["objective._target_=mine.Scalar"],
            [
                "objective=Scalar: must return the loss of each sample",
                "of shape [].",
            ],
        ),
        (["objective._target_=mine.Detached"], ["objective=Detached: its loss must be differentiable"]),
        (["objective._target_=mine.Apart"], ["objective=Apart: must be an instance of", "Objective"]),
        (
            ["objective.level_distribution._target_=mine.OneLevel"],
            ["level_distribution=OneLevel", "found a tensor of shape []"],
        ),
        (
            [f"objective.weighting={function('number')}"],
            ["objective.weighting=number: must return a float tensor", "found a float"],
        ),
        (
            [f"objective.weighting={function('twice')}"],
            ["objective.weighting=twice: must be called as weighting(level"],
        ),
        (["parameterization._target_=mine.one"], ["parameterization=one: must return the pair (a, b)", "of shape [2]"]),
        (
            ["parameterization._target_=mine.twice"],
            ["parameterization=twice: must be called as parameterization(level"],
        ),
        (
            ["denoiser.time_label._target_=mine.Rate"],
            ["denoiser.time_label=Rate: must be called as time_label(level"],
        ),
        (
            ["conditioner._target_=mine.Bare"],
            ["conditioner=Bare: its methods must return a Conditioning; found a dict"],
        ),
        (
            ["conditioner._target_=mine.Wrong"],
            ["conditioner=Wrong: must return the fields", "nothing; found class_label"],
        ),
        (["conditioner._target_=mine.Decay"], ["conditioner=Decay: must be an instance of", "Conditioner"]),
        (["codec._target_=mine.Cropped"], ["codec=Cropped.decode: must return a float tensor of shape [2, 1, 8, 8]"]),
        (["codec._target_=mine.Halved"], ["codec=Halved: must be called as load() -> None"]),
        (
            ["ema.profiles.ema._target_=mine.Decay"],
            ["ema.profiles.ema=Decay: must be called as decay(images_seen: int"],
        ),
        (
            ["evaluation.extractor._target_=mine.Rate"],
            ["evaluation.extractor=Rate: must be called as check(shape", "Extractor", "it has no such method"],
        ),
        (
            ["evaluation.metric_options={frechet: {_target_: mine.Rate}}"],
            ["evaluation.metrics.frechet=Rate: needs the attribute layer", "Metric"],
        ),
        (
            ["evaluation.metric_options={frechet: {_target_: mine.Mean}}"],
            ["evaluation.metrics.frechet=Mean: must be called as scores(samples: Layer, reference: Layer)"],
        ),
        (
            ["lr_schedule._target_=mine.Rate"],
            ["lr_schedule=Rate: must be called as lr_schedule(images_seen: int)"],
        ),
    ],
)
def test_a_part_that_breaks_its_contract_is_refused_at_start(tmp_path, invoke, mine, arguments, said):
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path / 'logs'}", *arguments)
    assert result.code == 2, result.err
    for words in said:
        assert words in result.last
    assert not list(tmp_path.glob("logs/**/*.ckpt"))


def test_a_part_that_keeps_its_contract_trains(tmp_path, invoke, mine):
    own = ["network._target_=mine.Net", f"objective.weighting={function('one')}"]
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path / 'logs'}", *own)
    assert result.code == 0, result.err
