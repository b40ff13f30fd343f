"""What an objective learns from is no part of it; how much of the training is done."""

import copy

import torch

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import MLP
from denoiselab.objectives import DenoisingObjective, Progressive, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.samplers.spacing import VPTime
from denoiselab.schedules import VPLinear
from denoiselab.trained.costs import step_costs
from denoiselab.training.ema import EMA
from denoiselab.training.module import DiffusionModule


def denoiser(width=8):
    torch.manual_seed(width)
    return Denoiser(MLP((2,), width, 1), VPLinear(), parameterizations.v, ScaledTime())


def taught(student):
    objective = Progressive(VPTime(), 2, weights.truncated_snr)
    objective.take_teacher(copy.deepcopy(student))
    return objective


def test_a_teacher_is_frozen_and_neither_trained_nor_saved():
    student = denoiser()
    objective = taught(student)
    assert objective.teacher is not None
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    assert not objective.teacher.training
    assert not [*objective.parameters()]
    assert not objective.state_dict()
    objective.train()
    assert not objective.teacher.training


def test_the_fraction_of_training_is_that_of_images_seen():
    student = denoiser()
    objective = taught(student)
    seen = []
    objective.register_forward_pre_hook(lambda self, given: seen.append(self.fraction))
    module = DiffusionModule(
        Model(student, Unconditional(), Identity((2,))), objective, torch.optim.SGD, lambda images: 1.0, EMA({}), 0,
        {"max_images": 16},
    )  # fmt: skip
    module._trainer = type("Alone", (), {"world_size": 1, "global_rank": 0})()
    batch = {"position": torch.arange(4), "images": torch.zeros(4, 2), "labels": torch.zeros(4, dtype=torch.int64)}
    for images in (0, 4, 16, 20):
        module.images_seen = images  # as of a checkpoint
        module._begin()
        module.training_step(batch, 0)
    assert seen == [0.0, 0.25, 1.0, 1.0]


def test_costs_of_a_step_count_the_calls_of_the_teacher():
    """Forward and backward are three times a forward pass, and the teacher's two calls one each."""
    model = Model(denoiser(64), Unconditional(), Identity((2,)))
    plain = step_costs(model, DenoisingObjective(weights.snr, UniformTime())).flops
    assert 1.6 < step_costs(model, taught(model.denoiser)).flops / plain < 1.75
